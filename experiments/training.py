"""Training for a given CPU time or number of steps, measured now and then, in steps that survive interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.runs import finish, is_done, run_of
from neuromech.physics import Descent

CHECKPOINT = "checkpoint.pt"


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

    if is_done(directory):
        return directory
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=betas)
    descent = Descent(model, optimizer, directory / CHECKPOINT)
    spent = float(descent.notes.get("spent", 0.0))
    total = seconds if steps is None else steps

    def done(elapsed: float = 0.0) -> float:
        return (spent + elapsed if steps is None else len(descent.losses)) / total

    with (
        run_of(directory, config, about) as record,
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
                value = descent.step(loss, lr * (0.5 + 0.5 * math.cos(math.pi * fraction)) + 1e-6)
            spent += time.process_time() - begin
            shown = round(measures * done(), 6)
            bar.update(round(total * done()) - bar.n)
            row = {"step": len(descent.losses), "seconds": spent, "loss": value} | measure()
            record.append("progress", {k: [v] for k, v in row.items()})
            record.flush()
            descent.notes["spent"] = spent
            descent.save()
    return finish(directory)
