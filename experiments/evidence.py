"""Every claim, measured anew: all small configurations of all experiments, each judged by its analysis.

    python -m experiments.evidence [--out runs/evidence] [--only NAME ...] [--jobs 2] [--again]

One line a claim: what is claimed, what was measured, what was expected, the verdict. What was answered before is kept,
so that an interrupted run goes on where it stopped. Writes evidence.json and evidence.html, one page with all figures.
Exits with 1 if a claim fails, with 2 if one could not be tried.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from analysis.evidence import page
from analysis.reporting import MEASURED
from experiments.runs import command

Verdict = Literal["holds", "FAILS", "NOT TRIED"]


@dataclass(frozen=True)
class Claim:
    """What is said, the figure that it must reach, and the arguments of the small experiment that tries it."""

    said: str
    expected: str
    small: tuple[str, ...] = ()


CLAIMS = {
    "predicted_charges": Claim(
        "Charges of a VGG follow the law of SGD in all its variants, over 2,000 steps",
        "relative residuals at most 1e-12 (double), 1e-5 (single)",
    ),
    "neural_mechanics": Claim(
        "Charges of VGG-16, ViT and GPT follow the exact law under SGD, AdamW and Muon, better than the continuous law",
        "off by rounding; under SGD the continuous law is off by more, 1e6 times in the median",
    ),
    "norm_decay": Claim(
        "Norms that the network does not see decay at the rate of the equation of motion, order by order",
        "what order p leaves over falls as (lr decay)^(p + 1), within 0.1",
    ),
    "norm_forecasts": Claim(
        "Where squared lengths end is foreseen after 20 % of a run",
        "off by 5 % in the median and 25 % at worst; angles by 1.1; 75 to 85 % of intervals hold",
    ),
    "charge_forecasts": Claim(
        "Where charges of rescalings end under SGD is foreseen after 20 % of a run",
        "off by half as much as that nothing changes, in the median; 75 to 85 % of intervals hold",
    ),
    "eom_orders": Claim(
        "Steps lie on the flow that is claimed for them, to every order", "every fitted order, within 0.1"
    ),
    "mended_charges": Claim(
        "Steps with counter terms obey the law of the gradient flow, to their order", "slopes of order + 1"
    ),
    "discretization_error": Claim(
        "Steps part from the gradient flow by what the counter terms say, learning rate by learning rate",
        "slopes of order + 1 within 0.1; every term comes nearer",
    ),
    "edge_of_stability": Claim(
        "Past the edge of stability, steps swing about the edge flow",
        "loss and sharpness within 2 %, charges within 5 %; forecasts of the edge with an AUC above 0.9",
        ("--only", "mlp_0", "forecasts"),
    ),
    "quantisation": Claim(
        "Balancing leaves the function as it is and undoes bad scaling before rounding to 8 bits",
        "outputs unchanged up to rounding; the error falls",
    ),
    "fault_detection": Claim(
        "Injected faults are caught with the true cause among the first two, without a false alarm",
        "the share that the analysis asks for; 0 false alarms",
        ("--seeds", "3", "--clean", "50"),
    ),
    "silent_bugs": Claim(
        "Public silent bugs are told within an iteration, by their cause",
        "all; the true cause first in 80 %, among two in 95 %; 0 false alarms",
        ("--seeds", "1"),
    ),
    "compute_faults": Claim(
        "Conservation laws are a checksum of compute: they see one wrong element of one matrix product",
        "95 % of faults above 100 roundings of the sum; no alarm in a clean step",
        ("--faults", "100"),
    ),
    "learned_motion": Claim("Models with structure keep their energy in long predictions", "as claimed, each system"),
    "phase_separation": Claim("The stencil of a conservative dissipation is learned", "that of a Laplacian"),
    "hodge": Claim("The parts of a Hodge decomposition are orthogonal", "within the bound of the analysis"),
    "taylor_green": Claim("Divergence-free by construction is at least level with a penalty", "ratio at most 1"),
    "euler_ball": Claim("Euler flow in a ball: by construction is at least level", "ratio at most 1"),
    "gas": Claim("A gas that conserves mass by construction is level with a penalty", "ratio within the bound"),
    "optimal_transport": Claim("Transport cost is met and mass is kept", "at least level; mass up to rounding"),
}


@dataclass(frozen=True)
class Answer:
    """What became of a claim."""

    name: str
    claim: str
    expected: str
    measured: str
    verdict: Verdict
    seconds: float

    def __str__(self) -> str:
        return f"{self.verdict:9} {self.name}: {self.claim} | measured: {self.measured} | expected: {self.expected}"


def ask(name: str, claim: Claim, out: Path) -> Answer:
    """Run an experiment and its analysis, each in a process of its own; what they print is in NAME.log."""
    runs, log, begun = out / name, out / f"{name}.log", time.perf_counter()
    experiment, analysis = f"experiments.{name}", f"analysis.{name}"
    make = [sys.executable, "-m", experiment, "--out", str(runs), *claim.small]
    judge = [sys.executable, "-m", analysis, str(runs), "--figures", str(out / "figures")]
    (out / "figures").mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with log.open("w") as f:
        made = subprocess.run(make, stdout=f, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if made:
        return Answer(name, claim.said, claim.expected, f"{experiment} ended with {made}: see {log}", "NOT TRIED", 0.0)
    judged = subprocess.run(judge, capture_output=True, text=True, env=environment, check=False)
    with log.open("a") as f:
        f.write(judged.stdout + judged.stderr)
    measured = [line.removeprefix(MEASURED) for line in judged.stdout.splitlines() if line.startswith(MEASURED)]
    verdict: Verdict = "holds" if judged.returncode == 0 else "FAILS"
    if not measured:  # it died before it had measured anything
        measured, verdict = [f"{analysis} measured nothing: see {log}"], "NOT TRIED"
    return Answer(name, claim.said, claim.expected, measured[-1], verdict, time.perf_counter() - begun)


def answered(path: Path) -> dict[str, Answer]:
    """What was answered before, as far as it is still what is claimed."""
    if not path.exists():
        return {}
    try:
        rows = [Answer(**row) for row in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        print(f"{path} cannot be read ({error}): every claim is tried anew")
        return {}
    return {a.name: a for a in rows if a.name in CLAIMS and (a.claim, a.expected) == _words(CLAIMS[a.name])}


def _words(claim: Claim) -> tuple[str, str]:
    return claim.said, claim.expected


def keep(path: Path, answers: Iterable[Answer]) -> None:
    """All or nothing, so that what dies while it writes loses no answer."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps([asdict(a) for a in answers], indent=1))
    os.replace(draft, path)


def try_all(claims: Mapping[str, Claim], out: Path, jobs: int, again: bool = False) -> dict[str, Answer]:
    """Answers to `claims`, those that were not tried or failed before among them anew."""
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    path = out / "evidence.json"
    known = {} if again else answered(path)
    open_ = {name: claim for name, claim in claims.items() if name not in known or known[name].verdict != "holds"}
    with ThreadPoolExecutor(jobs) as pool:
        asked = [pool.submit(ask, name, claim, out) for name, claim in open_.items()]
        try:
            for done in tqdm(as_completed(asked), total=len(asked), unit="claim"):
                answer = done.result()
                known[answer.name] = answer
                keep(path, known.values())
                tqdm.write(str(answer))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: known[name] for name in CLAIMS if name in known}


def main() -> int:
    parser = command("evidence", __doc__)
    parser.add_argument("--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS), metavar="NAME")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="claims at a time")
    parser.add_argument("--again", action="store_true", help="try anew what was answered before")
    options = parser.parse_args()
    try:
        answers = try_all({name: CLAIMS[name] for name in options.only}, options.out, options.jobs, options.again)
        written = page([asdict(a) for a in answers.values()], options.out)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {options.out}")
        return 130
    except OSError as error:
        print(f"{error}: free some space, or give another --out; the same command goes on from {options.out}")
        return 2
    print()
    for answer in answers.values():
        print(answer)
    verdicts = [a.verdict for a in answers.values()]
    print(f"{verdicts.count('holds')} of {len(verdicts)} claims hold; {written}")
    return 2 if "NOT TRIED" in verdicts else int("FAILS" in verdicts)


def _positive(text: str) -> int:
    if not text.isdigit() or text == "0":
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of jobs: 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
