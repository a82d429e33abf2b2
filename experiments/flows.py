"""What the experiments with flows share: training for a given CPU time, in steps that survive interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.record import Record

CHECKPOINT = "checkpoint.pt"
DONE = "done"


def train(
    model: nn.Module,
    loss: Callable[[], Tensor],
    measure: Callable[[], dict[str, float]],
    directory: Path,
    config: Any,
    about: dict[str, Any],
    seconds: float,
    lr: float,
    measures: int = 12,
    steps: int | None = None,
    betas: tuple[float, float] = (0.9, 0.99),
) -> Path:
    """Adam under a cosine schedule until `seconds` of CPU time are spent on steps, or for so many `steps`.

    Measuring is not counted. Writes the table `progress` (step, seconds, loss and what `measure` says) and the model's
    state. Called again for a directory that is done, it does nothing; for one that was interrupted, it goes on from the
    last checkpoint.
    """
    from tqdm import tqdm

    if (directory / DONE).exists():
        return directory
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=betas)
    spent, step, saved = 0.0, 0, directory / CHECKPOINT
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        spent, step = state["spent"], state["step"]
    total = seconds if steps is None else steps

    def done(elapsed: float = 0.0) -> float:
        return (spent + elapsed if steps is None else step) / total

    with (
        Record(directory, asdict(config) | about, resume=True) as record,
        tqdm(
            total=round(total),
            initial=round(total * done()),
            unit="cpu-s" if steps is None else "step",
            desc=str(directory),
            leave=False,
        ) as bar,
    ):
        shown = round(measures * done(), 6)
        while done() < 1:
            begin, value = time.process_time(), math.nan
            while (fraction := done(time.process_time() - begin)) < min(1.0, (math.floor(shown) + 1) / measures):
                for group in optimizer.param_groups:
                    group["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * fraction)) + 1e-6
                optimizer.zero_grad()
                current = loss()
                current.backward()
                optimizer.step()
                value, step = float(current.detach()), step + 1
            if not math.isfinite(value):
                raise RuntimeError(f"{directory}: the loss is {value} at step {step}; lower lr ({lr})")
            spent += time.process_time() - begin
            shown = round(measures * done(), 6)
            bar.update(round(total * done()) - bar.n)
            row = {"step": step, "seconds": spent, "loss": value} | measure()
            record.append("progress", {k: [v] for k, v in row.items()})
            record.flush()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
            torch.save(state | {"spent": spent, "step": step}, directory / (CHECKPOINT + ".tmp"))
            (directory / (CHECKPOINT + ".tmp")).replace(saved)
    (directory / DONE).touch()
    return directory


def finished(directory: Path) -> list[Path]:
    """The run directories in `directory` that are done, sorted; ends the program with words if there is none."""
    found = sorted(p.parent for p in directory.glob(f"*/{DONE}"))
    if not found:
        raise SystemExit(f"no finished run in {directory}: run the experiment first, with --out {directory}")
    return found
