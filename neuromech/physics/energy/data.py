"""Trajectories: exact ones of a system, pairs of states to train on, and measured ones from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy.systems import System

if TYPE_CHECKING:
    import numpy as np

# Of the integrator, a step; what it leaves of the states is below 1e-10 on every system (tests compare with analytic
# motion and with another method).
ACCURACY = 1e-13
# Trajectories that are integrated as one system: many for the integrator's overhead, few for its step size, and no more
# numbers than keep the progress visible.
TOGETHER, NUMBERS = 25, 12_500


@dataclass(frozen=True)
class Trajectories:
    """States `u` [N, T, ...] of N trajectories at the times `t` [T]."""

    t: Tensor
    u: Tensor

    def __post_init__(self) -> None:
        if self.t.ndim != 1 or self.u.ndim < 3 or self.u.shape[1] != len(self.t):
            raise PhysicsError(
                f"trajectories are states [N, T, ...] at times [T]; not {tuple(self.u.shape)} at {tuple(self.t.shape)}"
            )
        if not torch.isfinite(self.u).all():
            bad = torch.nonzero(~torch.isfinite(self.u))[0].tolist()
            raise PhysicsError(f"the states are not all finite, the first bad one at [trajectory, time, ...] = {bad}")
        if not (self.t.diff() > 0).all():
            k = int((~(self.t.diff() > 0)).nonzero()[0])
            raise PhysicsError(f"times increase; between rows {k} and {k + 1} they go {self.t[k]} to {self.t[k + 1]}")

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, rows: slice) -> Trajectories:
        return Trajectories(self.t, self.u[rows])

    def pairs(self) -> Pairs:
        """All pairs of states that follow one another."""
        before, after = self.u[:, :-1].flatten(0, 1), self.u[:, 1:].flatten(0, 1)
        return Pairs(before, after, self.t.diff().repeat(len(self.u)))

    def noisy(self, scale: float, generator: torch.Generator) -> Trajectories:
        """With Gaussian noise of this standard deviation on every entry."""
        noise = torch.randn(self.u.shape, dtype=self.u.dtype, generator=generator)
        return Trajectories(self.t, self.u + scale * noise)

    def to(self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Trajectories:
        return Trajectories(self.t.to(device, dtype), self.u.to(device, dtype))


@dataclass(frozen=True)
class Pairs:
    """States [M, ...] before and after steps `dt` [M]."""

    before: Tensor
    after: Tensor
    dt: Tensor

    def __len__(self) -> int:
        return len(self.before)

    def take(self, rows: Tensor) -> Pairs:
        return Pairs(self.before[rows], self.after[rows], self.dt[rows])


def simulate(
    system: System,
    count: int,
    *,
    seed: int = 0,
    dt: float | None = None,
    steps: int | None = None,
    progress: bool = False,
) -> Trajectories:
    """`count` exact trajectories of `system`, in float64, from initial states drawn with `seed`."""
    from tqdm import tqdm

    if not (isinstance(count, int) and count >= 1) or (steps is not None and steps < 1):
        raise PhysicsError(f"trajectories are at least one, of at least one step; found {count} of {steps}")
    if dt is not None and not 0 < dt < float("inf"):
        raise PhysicsError(f"the time between two states is positive; found dt = {dt}")
    start = system.initial(count, torch.Generator().manual_seed(seed))
    t = torch.arange((steps or system.steps) + 1, dtype=torch.float64) * (system.dt if dt is None else dt)
    together = max(1, min(TOGETHER, NUMBERS // start[0].numel()))
    bar = tqdm(start.split(together), desc=system.name, disable=not progress)
    return Trajectories(t, torch.cat([solve(system, u0, t) for u0 in bar]))


def solve(system: System, u0: Tensor, t: Tensor) -> Tensor:
    """The motion from the states `u0` [B, ...] at the times `t` [T] (the first is that of u0): [B, T, ...].

    DOP853 at `ACCURACY` a step. Raises `PhysicsError` if the integrator gives up, as it does in a collision.
    """
    from scipy.integrate import solve_ivp

    def rate(_: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out: np.ndarray = system.velocity(torch.from_numpy(y).reshape(u0.shape)).reshape(-1).numpy()
            return out

    times, start = t.double().numpy(), u0.double().reshape(-1).numpy()
    found = solve_ivp(rate, (times[0], times[-1]), start, "DOP853", times, rtol=ACCURACY, atol=ACCURACY)
    if not found.success or found.y.shape[1] != len(times):
        at = f"{found.t[-1]:.6g}" if len(found.t) else "0"
        raise PhysicsError(f"{system.name}: the motion could not be followed past t = {at}: {found.message}")
    return torch.from_numpy(found.y.T.copy()).reshape(len(times), *u0.shape).transpose(0, 1).contiguous()


def load_pendulum(path: str | Path, columns: Sequence[int] = (1, 2, 3)) -> Trajectories:
    """The measured pendulum of Schmidt and Lipson (2009), a file of the user's: one trajectory of (angle, velocity).

    `columns`: of time, angle and velocity, counted from 0, in a table of numbers separated by blanks or commas; lines
    that begin with a letter, % or # are skipped. Times need not be regular. Raises `PhysicsError` naming the bad line.
    """
    path = Path(path)
    if not path.is_file():
        raise PhysicsError(
            f"there is no file {path}: the measured pendulum is not part of neuromech; give your own copy"
        )
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields or line.lstrip()[0] in "%#" or line.lstrip()[0].isalpha():
            continue
        try:
            rows.append([float(fields[c]) for c in columns])
        except (ValueError, IndexError) as error:
            raise PhysicsError(f"{path}, line {number}: {line!r} has no numbers in columns {tuple(columns)}") from error
    if len(rows) < 2:
        raise PhysicsError(f"{path} holds {len(rows)} rows of numbers; a trajectory has at least 2")
    table = torch.tensor(rows, dtype=torch.float64)
    return Trajectories(table[:, 0], table[None, :, 1:])
