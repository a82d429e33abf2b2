"""Writes the reports that the site shows live: a healthy run, a run with faults, a transformer under AdamW, an audit.

    python docs/example_reports.py [FOLDER]

mkdocs calls it before it builds the site (`hooks` in mkdocs.yml). They are made, not kept: docs/reports is not in the
repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech

HERE = Path(__file__).parent
Batches = Callable[[int], tuple[Tensor, Tensor]]


def points() -> Batches:
    """Five noisy classes in twenty dimensions, 64 points a batch."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 20, generator=g)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(0, 5, (64,), generator=g)
        return centres[y] + torch.randn(64, 20, generator=g), y

    return batch


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)
    )


class Attention(nn.Module):
    """One block of a small transformer over twenty tokens, with a mean over them and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.unsqueeze(-1))
        n = self.norm(h)
        h = h + self.attention(n, n, n, need_weights=False)[0]
        return self.head((h + self.feed(h)).mean(1))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, path: Path, name: str,
    spoil: Callable[[int, nn.Module, Tensor], Tensor] | None = None,
) -> None:  # fmt: skip
    """A run with a cosine schedule and a monitor; `spoil` may do harm between forward and step."""
    batch = points()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with neuromech.instrument(model, name=name) as probe:
        probe.monitor(on_fault=lambda fault: None)
        for step in range(1, steps + 1):
            x, y = batch(step)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            if spoil is not None:
                loss = spoil(step, model, loss)
            loss.backward()
            optimizer.step()
            schedule.step()
    probe.report(str(path))


def faults(step: int, model: nn.Module, loss: Tensor) -> Tensor:
    """A penalty that somebody forgot from step 60 on, and a bit that flips before step 90."""
    if step == 90:
        with torch.no_grad():
            model[3].weight.data.view(torch.int32)[3, 7] ^= 1 << 26  # type: ignore[index, union-attr, operator]
    return loss + 1e-3 * sum(p.square().sum() for p in model.parameters()) if step >= 60 else loss


def audit(path: Path) -> None:
    from neuromech import physics
    from neuromech.report import audit_page

    system = physics.systems.pendulum()
    start = system.initial(20, torch.Generator().manual_seed(0))
    found = physics.audit(lambda u: u + 0.02 * system.velocity(u), start, energy=system.energy, steps=200)
    audit_page(found, path, title="Euler's method on a pendulum")


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = perceptron()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    train(model, sgd, 150, folder / "healthy.html", "a healthy run")
    model = perceptron()
    train(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        150,
        folder / "faults.html",
        "two faults",
        faults,
    )
    attention = Attention()
    adamw = torch.optim.AdamW(attention.parameters(), lr=3e-3, weight_decay=0.1)
    train(attention, adamw, 120, folder / "adamw.html", "a transformer under AdamW")
    audit(folder / "audit.html")


def on_pre_build(config: Any) -> None:
    """mkdocs' hook."""
    folder = Path(config["docs_dir"]) / "reports"
    if not (folder / "audit.html").exists():  # the last one to be written
        write(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "reports")
