"""What the experiments on learned motion share: data made once, models trained and resumed, predictions kept.

A run directory holds its record, data.pt, and for every model NAME: NAME.pt (its training, resumable), a table NAME
(the loss of every step, seconds), NAME-prediction.pt (states, and why it gave up if it did). Nothing is done twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromech.errors import ConvergenceError
from neuromech.physics import Training, Trajectories, fit, simulate
from neuromech.physics.descent import write
from neuromech.physics.energy.integrators import MotionScheme
from neuromech.physics.energy.systems import System
from neuromech.record import Record

# Steps of a prediction between two writes of it. Each part begins anew, so an interrupted one ends in the same numbers.
PART = 500


def data(
    directory: Path, system: System, count: int, seed: int, steps: int | None = None, name: str = "data"
) -> Trajectories:
    """Exact trajectories, made once."""
    path = directory / f"{name}.pt"
    if not path.exists():
        made = simulate(system, count, seed=seed, steps=steps, progress=True)
        write(path, {"t": made.t, "u": made.u})
    stored = torch.load(path, weights_only=True)
    return Trajectories(stored["t"], stored["u"])


def table_of(name: str) -> str:
    """The table that holds the training of a model."""
    return re.sub(r"\W+", "_", name)


def train(record: Record, name: str, scheme: MotionScheme, training: Training, examples: Trajectories) -> None:
    """Train `scheme` on the pairs of `examples`, or go on where its checkpoint ends; a progress bar shows the loss."""
    from tqdm import tqdm

    assert record.path is not None
    checkpoint = record.path / f"{name}.pt"
    done = len(torch.load(checkpoint, weights_only=True)["losses"]) if checkpoint.exists() else 0
    with tqdm(total=training.steps, initial=done, desc=name, unit="step") as bar:
        last = time.perf_counter()

        def note(step: int, loss: float) -> None:
            nonlocal last
            now = time.perf_counter()
            record.append(table_of(name), {"step": [step], "loss": [loss], "seconds": [now - last]})
            last = now
            bar.update()
            bar.set_postfix(loss=f"{loss:.2e}", refresh=False)

        fit(scheme, examples.pairs(), training, checkpoint=checkpoint, progress=note)
    record.flush()


def predict(directory: Path, name: str, scheme: MotionScheme, start: Tensor, dt: float, steps: int) -> None:
    """States [steps + 1, B, ...] from `start`, kept as they are made; a motion that diverges ends where it got to."""
    from tqdm import tqdm

    path = directory / f"{name}-prediction.pt"
    kept: dict[str, Any] = {"u": start[None].cpu(), "gave_up": "", "seconds": 0.0}
    if path.exists():
        kept = torch.load(path, weights_only=True)
    with tqdm(total=steps, initial=len(kept["u"]) - 1, desc=f"{name}: prediction", unit="step") as bar:
        while len(kept["u"]) <= steps and not kept["gave_up"]:
            began, u0 = time.perf_counter(), kept["u"][-1].to(start)
            try:
                states, note = scheme.predict(u0, dt, min(PART, steps + 1 - len(kept["u"]))).u, ""
            except ConvergenceError as error:
                states, note = error.states, str(error)
            seconds = kept["seconds"] + time.perf_counter() - began
            kept = {"u": torch.cat([kept["u"], states[1:].cpu()]), "gave_up": note, "seconds": seconds}
            write(path, kept)
            bar.update(len(states) - 1)


def reproducible(seed: int, make: Callable[[], MotionScheme], dtype: torch.dtype, device: str) -> MotionScheme:
    """A scheme whose initial parameters depend on `seed` alone."""
    torch.manual_seed(seed)
    return make().to(device=device, dtype=dtype)
