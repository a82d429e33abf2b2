"""`neuromech demo` and `neuromech detect`."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from neuromech.errors import NeuromechError

FOUND = 3  # exit code


def demo(options: argparse.Namespace) -> int:
    from neuromech.demo import run

    directory = options.run or fresh(Path("runs"), "demo")
    if options.run and (options.run / "run.json").exists():
        raise NeuromechError(f"{options.run} holds a run already: choose another directory")
    path = run(directory, epochs=options.epochs, seed=options.seed)
    print(f"report: {path.resolve()}")
    return 0


def detect(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from neuromech.cli.models import load
    from neuromech.detect import find_symmetries, watched
    from neuromech.record import plain

    with users_errors(options.model):
        model, example, loss, target = load(options.model, options.meta)
    if options.loss and loss is None:
        with users_errors(options.model):
            loss, target = _loss(options.loss, model, example)
    with tqdm(desc="recording and solving", leave=False, disable=None, unit="check") as bar:

        def progress(done: int, total: int) -> None:
            bar.set_description("verifying", refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        with watched(progress):
            found = find_symmetries(model, example, loss, target, verify=not options.no_verify)
    if options.match:
        whole, found = found, _matching(found, options.match)
        if len(whole) and not len(found):
            what = f"of {len(whole)} families none moves a parameter like {options.match!r}, a name or a pattern of one"
            print(f"neuromech: {what}", file=sys.stderr)
    if options.html:
        write(options.html, _page(options.model, str(found)))
    print(json.dumps(plain(found.to_dict()), indent=1, allow_nan=False) if options.json else found)
    trouble = {"opaque": found.opaque, "withdrawn": found.rejected, "none": not len(found)}
    seen = [what for what in options.fail_on if trouble.get(what)]
    if seen:
        print(f"neuromech: found {', '.join(seen)}", file=sys.stderr)
    return FOUND if seen else 0


@contextmanager
def users_errors(where: str) -> Iterator[None]:
    """What the user's own code raises, and where it leaves by itself, is said as such."""
    try:
        yield
    except NeuromechError:
        raise
    except (Exception, SystemExit) as error:
        raise NeuromechError(f"{where} raised {type(error).__name__}: {error}") from error


def _loss(name: str, model: Any, example: Any) -> tuple[Any, Any]:
    """A loss by name, and a target that fits the output of the model."""
    import torch

    from neuromech.detect import arguments

    args, kwargs = arguments(example)
    with torch.no_grad():
        output = model(*args, **kwargs)
    if not isinstance(output, torch.Tensor):
        raise NeuromechError(f"--loss {name} needs a model that returns one tensor, not {type(output).__name__}")
    if name == "cross_entropy":
        shape = (output.shape[0], *output.shape[2:])
        return torch.nn.CrossEntropyLoss(), torch.zeros(shape, dtype=torch.long, device=output.device)
    if name == "mse":
        return torch.nn.MSELoss(), torch.zeros_like(output)
    return torch.nn.BCEWithLogitsLoss(), torch.full_like(output, 0.5)


def _matching(found: Any, pattern: str) -> Any:
    """Only what moves or concerns parameters like `pattern`."""
    from dataclasses import replace

    from neuromech.symmetry import SymmetrySet

    def like(names: Any) -> bool:
        return any(fnmatch.fnmatchcase(str(n), pattern) or fnmatch.fnmatchcase(str(n), f"{pattern}.*") for n in names)

    return replace(
        found.only([s for s in found.symmetries if like(s.parameters)]),
        rejected=SymmetrySet(s for s in found.rejected if like(s.parameters)),
        opaque=tuple(o for o in found.opaque if like([o.module, *o.blocks])),
        inactive=tuple(n for n in found.inactive if like([n])),
    )


def _page(title: str, text: str) -> str:
    from importlib import resources

    css = resources.files("neuromech.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: symmetries</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}</style></head>\n'
        f'<body><main><h1>Symmetries of {escape(title)}</h1><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Symmetries"><pre>{escape(text)}</pre></div></main></body></html>\n'
    )


def write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise NeuromechError(f"cannot write {path}: {error}. Choose another file") from error
    print(f"page: {path.resolve()}", file=sys.stderr)


def fresh(parent: Path, stem: str) -> Path:
    """The first of stem-1, stem-2, ... that is not there yet."""
    n = 1
    while (parent / f"{stem}-{n}").exists():
        n += 1
    return parent / f"{stem}-{n}"
