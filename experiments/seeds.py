"""The results of the two papers, each by one command: the experiment, then its analysis.

    python -m experiments.seeds [mass-spring pendulum 2-body kdv cahn-hilliard stencil fluid gas ball hodge transport]
                                [--size smoke | small | full] [--out runs/seeds]

smoke: the least that shows that all works; too short to judge. small: minutes each. full: the sizes of the papers, for
a GPU or a long night. What was interrupted goes on where it was. Exits with 1 if a verdict fails.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiments.runs import command

# Name, module of experiment and analysis, and what it is told besides.
SEEDS: dict[str, tuple[str, list[str]]] = {
    "mass-spring": ("learned_motion", ["--system", "mass-spring"]),
    "pendulum": ("learned_motion", ["--system", "pendulum"]),
    "2-body": ("learned_motion", ["--system", "2-body"]),
    "kdv": ("learned_motion", ["--system", "kdv"]),
    "cahn-hilliard": ("learned_motion", ["--system", "cahn-hilliard"]),
    "stencil": ("phase_separation", []),
    "fluid": ("taylor_green", []),
    "gas": ("gas", []),
    "ball": ("euler_ball", []),
    "hodge": ("hodge", []),
    "transport": ("optimal_transport", []),
}
SMOKE: dict[str, list[str]] = {
    "learned_motion": ["--smoke"],
    "phase_separation": ["--steps", "20"],
    "taylor_green": ["--seconds", "2", "--seeds", "1", "--rates", "5e-3"],
    "gas": ["--seconds", "2", "--seeds", "1"],
    "euler_ball": ["--seconds", "2", "--seeds", "1"],
    "hodge": ["--steps", "20", "--cases", "torus-2"],
    "optimal_transport": ["--seconds", "2", "--seeds", "1", "--problems", "gauss2"],
}
FULL: dict[str, list[str]] = {
    "learned_motion": ["--full", "--seed", "0", "1", "2"],
    "phase_separation": ["--full"],
    "taylor_green": ["--seconds", "1800"],
    "gas": ["--seconds", "1800"],
    "euler_ball": ["--full"],
    "hodge": ["--steps", "2000"],
    "optimal_transport": ["--seconds", "1800"],
}


def commands(seed: str, size: str, out: Path) -> list[list[str]]:
    """What makes the runs of a seed, and what judges them."""
    name, told = SEEDS[seed]
    more = {"smoke": SMOKE, "small": {}, "full": FULL}[size].get(name, [])
    directory = str(out / size / seed)
    return [
        [sys.executable, "-m", f"experiments.{name}", *told, *more, "--out", directory],
        [sys.executable, "-m", f"analysis.{name}", directory],
    ]


def main() -> int:
    parser = command("seeds", __doc__)
    parser.add_argument("seeds", nargs="*", default=list(SEEDS), help=", ".join(SEEDS))
    parser.add_argument("--size", choices=["smoke", "small", "full"], default="small")
    options = parser.parse_args()
    unknown = [s for s in options.seeds if s not in SEEDS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SEEDS)}")
    codes = {}
    for seed in options.seeds:
        print(f"== {seed}", flush=True)
        codes[seed] = 0
        for line in commands(seed, options.size, options.out):
            codes[seed] = subprocess.run(line, check=False).returncode
            if codes[seed]:
                break
    print("\n".join(f"{seed}: {'FAILED' if code else 'done'}" for seed, code in codes.items()))
    return 1 if any(codes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
