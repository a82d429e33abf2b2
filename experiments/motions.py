"""What the experiments on learned motion share: data made once, models trained and resumed, predictions kept.

A run directory holds config.json, data.pt, and for every model NAME: NAME.pt (its training, resumable), NAME.csv (the
loss of every step, seconds), NAME-prediction.pt (states, and why it gave up if it did). Nothing is done twice.
"""

from __future__ import annotations

import argparse
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
from neuromech.physics.energy.data import Trajectories
from neuromech.physics.energy.integrators import MotionScheme
from neuromech.physics.energy.systems import System

# Steps of a prediction between two writes of it. Each part begins anew, so an interrupted one ends in the same numbers.
PART = 500


def device(name: str) -> str:
    """`--device`, refused before anything is made if this machine does not have it."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise argparse.ArgumentTypeError(
            f"{name!r} is no device that PyTorch can use here ({reason}); try cpu"
        ) from error
    return name


def open_run(directory: Path, config: Any) -> None:
    """Make the run directory, or check that it is of this configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    path, text = directory / "config.json", json.dumps(asdict(config), indent=1)
    if path.exists() and path.read_text() != text:
        raise PhysicsError(f"{directory} holds a run of another configuration: give another --out, or delete it")
    path.write_text(text)


def data(
    directory: Path, system: System, count: int, seed: int, steps: int | None = None, name: str = "data"
) -> Trajectories:
    """Exact trajectories, made once."""
    path = directory / f"{name}.pt"
    if not path.exists():
        made = simulate(system, count, seed=seed, steps=steps, progress=True)
        _write(path, {"t": made.t, "u": made.u})
    stored = torch.load(path, weights_only=True)
    return Trajectories(stored["t"], stored["u"])


def train(directory: Path, name: str, scheme: MotionScheme, training: Training, examples: Trajectories) -> None:
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
            _write(path, kept)
            bar.update(len(states) - 1)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    torch.save(dict(content), part := path.with_suffix(".part"))
    os.replace(part, path)


def reproducible(seed: int, make: Callable[[], MotionScheme], dtype: torch.dtype, device: str) -> MotionScheme:
    """A scheme whose initial parameters depend on `seed` alone."""
    torch.manual_seed(seed)
    return make().to(device=device, dtype=dtype)
