"""The judge's table: `cd tests && python -m architectures [names or groups] [--misses] [--store]`.

For every architecture the oracle's dimensions, detection's, precision and recall as subspaces, and the operators that
detection does not understand. `--misses` says in words what is missing. `--store` asks the oracle alone and writes its
dimensions to dimensions.json, which the fast tests compare detection with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import traceback
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from detect import oracle
from detect.misses import missing
from detect.oracle import DOMAINS, NoGap, NullSpace, directions, find, null_spaces

from architectures import ARCHITECTURES, Architecture

STORE = Path(__file__).with_name("dimensions.json")
SOURCES = (Path(oracle.__file__), *sorted(Path(__file__).parent.glob("*.py")))


def chosen(words: Iterable[str]) -> list[Architecture]:
    wanted = set(words)
    return [a for a in ARCHITECTURES.values() if not wanted or wanted & {a.name, a.group}]


def truth_of(a: Architecture, cache: Path | None) -> dict[str, NullSpace]:
    """The null spaces, from `cache` if they were computed there by the same oracle for the same model."""
    if cache is None:
        return null_spaces(a)
    recipe = [f.read_text() for f in SOURCES if f.stem in ("oracle", "base")]
    if isinstance(a.build, partial):
        recipe += [repr((a.build.args, a.build.keywords)), repr([p.shape for p in a.model().parameters()])]
    else:
        recipe += [f.read_text() for f in SOURCES if f.stem == a.group]
    version = hashlib.sha256("".join(recipe).encode()).hexdigest()[:12]
    file = cache / f"{a.name}-{version}.pt"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({d: vars(n) for d, n in null_spaces(a).items()}, file)
    return {d: NullSpace(**fields) for d, fields in torch.load(file).items()}


def store(some: Iterable[Architecture], cache: Path | None) -> Iterator[str]:
    """Ask the oracle, and write down the dimensions as they come; what is in the table no longer is left out."""
    known = json.loads(STORE.read_text()) if STORE.exists() else {}
    for a in some:
        try:
            known[a.name] = {d: null.dimension for d, null in truth_of(a, cache).items()}
        except NoGap as error:
            yield f"{a.name:<40} NO GAP: {error}"
            continue
        kept = {name: known[name] for name in sorted(known) if name in ARCHITECTURES}
        STORE.write_text(json.dumps(kept, indent=1) + "\n")
        yield f"{a.name:<40} {known[a.name]}"


def row(a: Architecture, misses: bool, cache: Path | None) -> Iterator[str]:
    start = time.process_time()
    elements = sum(p.numel() for p in a.model().parameters() if p.requires_grad)
    try:
        truth = truth_of(a, cache)
    except NoGap as error:
        yield f"{a.name:<36} {elements:>6}  NO GAP: {error}"
        return
    dimensions = {d: null.dimension for d, null in truth.items()}
    try:
        found = find(a)
    except Exception as error:
        lines = traceback.format_exception(error)[-2:]
        yield f"{a.name:<36} {elements:>6}  oracle {dimensions}  FAILED {type(error).__name__}: {error} {lines[0]}"
        return
    score = {d: n.score((s for s in found if s.kind in DOMAINS[d]), a.model()) for d, n in truth.items()}
    opaque = sorted({f"{o.op} ({o.why})" for o in found.opaque})
    wrong = any(s.shared < s.claimed for s in score.values())
    gap = min(n.gap[1] for n in truth.values())
    yield (
        f"{a.name:<36} {elements:>6}  "
        + "  ".join(f"{s.claimed:>4}/{s.true:<4} p {s.precision:.2f} r {s.recall:.2f}" for s in score.values())
        + f"  {gap:.0e} {time.process_time() - start:5.1f} s"
        + ("  FALSE" if wrong else "")
        + (f"  REJECTED {len(found.rejected)}" if found.rejected else "")
        + (f"  opaque: {'; '.join(opaque)}" if opaque else "")
    )
    for d in truth:
        if found.dimension[d] != score[d].claimed:
            yield f"      says {found.dimension[d]} of {d}, claims {score[d].claimed}"
    if misses:
        for s in found.rejected:
            yield f"      rejected {s.kind} {s.size} {s.name} (defect {s.defect:.0e})"
        for d, null in truth.items():
            claims = directions((s for s in found if s.kind in DOMAINS[d]), a.model())
            for words in islice(missing(null, claims, a.model()), 6):
                yield f"      {d}: {words[:600]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m architectures", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures, or groups of them; all by default")
    parser.add_argument("--misses", action="store_true", help="say in words what detection does not find")
    parser.add_argument(
        "--store", action="store_true", help=f"ask the oracle alone, and write what it says to {STORE.name}"
    )
    parser.add_argument("--cache", type=Path, help="a directory to keep null spaces in, so that a second run is fast")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.store:
        lines = store(chosen(args.names), args.cache)
    else:
        print(f"{'':<36} elements  scaling found/true, translation found/true, smallest nonzero singular value")
        lines = (line for a in chosen(args.names) for line in row(a, args.misses, args.cache))
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
