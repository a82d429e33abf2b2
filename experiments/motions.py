"""What the experiments on learned motion share: data made once, models trained and resumed, predictions kept.

A run directory holds config.json, data.pt, and for every model NAME: NAME.pt (its training, resumable), NAME.csv (the
loss of every step, seconds), NAME-prediction.pt (states, and why it gave up if it did). Nothing is done twice.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics import Training, fit, simulate
from neuromech.physics.data import Trajectories
from neuromech.physics.integrators import Scheme
from neuromech.physics.systems import System


def open_run(directory: Path, config: Any) -> None:
    """Make the run directory, or check that it is of this configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    path, text = directory / "config.json", json.dumps(asdict(config), indent=1)
    if path.exists() and path.read_text() != text:
        raise PhysicsError(f"{directory} holds a run of another configuration: give another --out, or delete it")
    path.write_text(text)


def data(directory: Path, system: System, count: int, seed: int, steps: int | None = None) -> Trajectories:
    """Exact trajectories, made once."""
    path = directory / "data.pt"
    if not path.exists():
        made = simulate(system, count, seed=seed, steps=steps, progress=True)
        _write(path, {"t": made.t, "u": made.u})
    stored = torch.load(path, weights_only=True)
    return Trajectories(stored["t"], stored["u"])


def train(directory: Path, name: str, scheme: Scheme, training: Training, examples: Trajectories) -> None:
    """Train `scheme` on the pairs of `examples`, or go on where its checkpoint ends; a progress bar shows the loss."""
    from tqdm import tqdm

    checkpoint, log = directory / f"{name}.pt", directory / f"{name}.csv"
    done = len(torch.load(checkpoint, weights_only=True)["losses"]) if checkpoint.exists() else 0
    seconds = _rows(log)[:done]
    with tqdm(total=training.steps, initial=done, desc=name, unit="step") as bar, log.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("step", "loss", "seconds"))
        rows.writerows(seconds)
        last = time.perf_counter()

        def note(step: int, loss: float) -> None:
            nonlocal last
            now = time.perf_counter()
            rows.writerow((step, loss, now - last))
            last = now
            bar.update()
            bar.set_postfix(loss=f"{loss:.2e}", refresh=False)
            if (step + 1) % training.save_every == 0:
                file.flush()

        fit(scheme, examples.pairs(), training, checkpoint=checkpoint, progress=note)


def _rows(log: Path) -> list[list[str]]:
    if not log.exists():
        return []
    with log.open() as file:
        return list(csv.reader(file))[1:]


def predict(directory: Path, name: str, scheme: Scheme, start: Tensor, dt: float, steps: int) -> None:
    """States [steps + 1, B, ...] from `start`; a motion that diverges is kept as far as it went."""
    path = directory / f"{name}-prediction.pt"
    if path.exists():
        return
    began = time.perf_counter()
    try:
        states, note = scheme.predict(start, dt, steps).u, ""
    except ConvergenceError as error:
        states, note = error.states, str(error)
    _write(path, {"u": states.cpu(), "gave_up": note, "seconds": time.perf_counter() - began})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    torch.save(dict(content), part := path.with_suffix(".part"))
    os.replace(part, path)


def reproducible(seed: int, make: Callable[[], Scheme], dtype: torch.dtype, device: str) -> Scheme:
    """A scheme whose initial parameters depend on `seed` alone."""
    torch.manual_seed(seed)
    return make().to(device=device, dtype=dtype)
