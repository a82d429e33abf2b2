"""Writes the pages that the code knows best: faults from the table of causes, optimizers from the book.

    python docs/generate.py

A test fails while a page is not what this writes.
"""

from __future__ import annotations

from pathlib import Path

from neuromech.monitor import CAUSES
from neuromech.optimizers import optimizer_table

HERE = Path(__file__).parent


def faults() -> str:
    """Every cause that the monitor can name, and its advice."""
    head = (
        "# Faults\n\n"
        f"The {len(CAUSES)} causes that `probe.monitor()` tells apart, with what it advises. "
        "[Monitoring](monitoring.md) shows how it is used.\n\n"
        "| what is said | what to do | goes on |\n| --- | --- | --- |\n"
    )
    rows = (f"| {c.title} | {c.advice} | {'from step to step' if c.lasting else 'once'} |" for c in CAUSES.values())
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


PAGES = {"faults.md": faults, "optimizers.md": optimizers}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
