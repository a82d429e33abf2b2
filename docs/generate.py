"""Writes the pages that the code knows best: faults from the table of causes, optimizers from the book.

    python docs/generate.py

A test fails while a page is not what this writes.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from neuromech.monitor import CAUSES
from neuromech.optimizers import optimizer_table

HERE = Path(__file__).parent
SCORES = HERE / "scores"


def faults() -> str:
    """Every cause that the monitor can name, and its advice."""
    head = (
        "# Faults\n\n"
        f"The {len(CAUSES)} causes that `probe.monitor()` tells apart, with what it advises, and what else leaves the "
        "same trace. A fault says which evidence made it, and how strong that is: *certain* is said only of what was "
        "compared bit for bit, or counted; what rests on a bound of rounding, or on chance, is *likely*. "
        "[Monitoring](monitoring.md) shows how it is used.\n\n"
        "| what is said | what to do | what else it could be | goes on |\n| --- | --- | --- | --- |\n"
    )
    rows = (
        f"| {c.title} | {c.advice} | {c.rival} | {'from step to step' if c.lasting else 'once'} |"
        for c in CAUSES.values()
    )
    return head + "\n".join(rows) + "\n"


def optimizers() -> str:
    """Every optimizer whose steps are known, and in which sense."""
    head = (
        "# Optimizers\n\n"
        "What is known of each optimizer, from its one rule in `neuromech/optimizers/`. The displacement of any other "
        "optimizer is measured, and the report says so; [`register_optimizer`](extending.md) adds your own.\n\n"
        "| optimizer | of | weight decay | laws | monitor checks | flow | update grows with the gradient | source |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    rows = (
        f"| {r.name} | {r.package} | {r.weight_decay} | {r.laws} | {r.monitor} | {r.flow} | "
        f"{r.update_grows_with_gradient} | {r.source} |"
        for r in optimizer_table()
    )
    return head + "\n".join(rows) + "\n"


def silent_bugs() -> str:
    """The score of the monitor on public bugs, as `analysis.silent_bugs` left it."""
    bugs = list(csv.DictReader((SCORES / "silent_bugs.csv").read_text().splitlines()))
    told, first = sum(row["delay"] in ("0", "1") for row in bugs), sum(row["rank"] == "1" for row in bugs)
    head = (
        "# Public silent bugs\n\n"
        f"{len(bugs)} bugs that were reported in public, re-enacted small: {told} are told within one iteration of the "
        f"fault, and the true cause stands first in {first}. No healthy run is needed for comparison. "
        "`python -m experiments.silent_bugs` makes these runs and the clean ones, `python -m analysis.silent_bugs "
        "runs/silent_bugs` judges them and `python docs/generate.py` writes this page.\n\n"
        "| bug | reported in | told as | iterations later | place of the cause |\n| --- | --- | --- | --- | --- |\n"
    )
    rows = (
        f"| {row['bug']} | {_linked(row['source'])} | {CAUSES[row['cause']].title} | {row['delay']} | {row['rank']} |"
        for row in bugs
    )
    return head + "\n".join(rows) + _clean_runs()


def _clean_runs() -> str:
    """The table of runs without a fault, if they were made."""
    if not (path := SCORES / "clean_runs.csv").exists():
        return "\n"
    rows = (
        f"| {r['kind']} | {r['runs']} | {r['steps']} | {r['alarms']} |"
        for r in csv.DictReader(path.read_text().splitlines())
    )
    table = "\n\n## Clean runs\n\n| kind | runs | steps | alarms |\n| --- | --- | --- | --- |\n"
    return table + "\n".join(rows) + "\n"


def _linked(source: str) -> str:
    """Threads of GitHub are linked: "owner/name#number", "#number" of the same, "name#number" of an owner so called."""
    out, last = [], ""
    for part in re.split(r"(\s|, )", source):
        if found := re.fullmatch(r"([\w.-]+/[\w.-]+|[\w.-]+|)#(\d+)(,?)", part):
            name, number, comma = found.groups()
            last = name or last
            owner = last if "/" in last else f"{OWNERS.get(last, last)}/{last}"
            out.append(f"[{name}#{number}](https://github.com/{owner}/issues/{number}){comma}")
        else:
            out.append(part)
    return "".join(out)


OWNERS = {"deepspeed": "deepspeedai", "OneTrainer": "Nerogar", "speculators": "vllm-project"}
PAGES = {"faults.md": faults, "optimizers.md": optimizers, "silent-bugs.md": silent_bugs}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
