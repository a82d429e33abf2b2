"""Trajectories: exact ones of a system, pairs of states to train on, and measured ones from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy.states import check_tensors
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
    """States `u` [N, T, ...] of N trajectories at the times `t` [T], or [N, T] where each has its own.

    `inputs` [N, T - 1, k], of structures with ports, and `condition` [N, ...], what the energy takes beside the state,
    where there are any. Of other lengths each: `Pairs.join` of the pairs of each.
    """

    t: Tensor
    u: Tensor
    inputs: Tensor | None = None
    condition: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensors(**vars(self))
        if self.t.ndim not in (1, 2) or self.u.ndim < 3 or self.u.shape[2 - self.t.ndim : 2] != self.t.shape:
            raise PhysicsError(
                "trajectories are states [N, T, ...] at times [T], or [N, T]; not "
                f"{tuple(self.u.shape)} at {tuple(self.t.shape)}"
            )
        wanted = (self.u.shape[0], self.u.shape[1] - 1)
        if self.inputs is not None and self.inputs.shape[:2] != wanted:
            raise PhysicsError(f"inputs have shape {tuple(self.inputs.shape)}; expected {(*wanted, 'k')}, one a step")
        if self.condition is not None and len(self.condition) != len(self.u):
            raise PhysicsError(f"the condition is of {len(self.condition)} trajectories, and there are {len(self.u)}")
        if not torch.isfinite(self.u).all():
            bad = torch.nonzero(~torch.isfinite(self.u))[0].tolist()
            raise PhysicsError(f"the states are not all finite, the first bad one at [trajectory, time, ...] = {bad}")
        if not (self.t.diff() > 0).all():
            *row, k = (~(self.t.diff() > 0)).nonzero()[0].tolist()
            t = self.t[row[0]] if row else self.t
            raise PhysicsError(f"times increase; between rows {k} and {k + 1} they go {t[k]} to {t[k + 1]}")

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, rows: slice | int | Sequence[int] | Tensor) -> Trajectories:
        """Some of the trajectories: one, a slice, by their numbers, or by a mask [N]."""
        if not isinstance(rows, slice):
            rows = self._numbers(rows)
        t = self.t if self.t.ndim == 1 else self.t[rows]
        inputs, condition = (None if x is None else x[rows] for x in (self.inputs, self.condition))
        return Trajectories(t, self.u[rows], inputs, condition)

    def _numbers(self, rows: object) -> Tensor:
        every = torch.arange(len(self), device=self.u.device)
        try:
            chosen = every[torch.as_tensor(rows, device=self.u.device)]
        except IndexError:
            if isinstance(rows, int):  # which ends the loops of `for`
                raise
            chosen = every.new_empty(0, 0)
        except (TypeError, ValueError, RuntimeError):
            chosen = every.new_empty(0, 0)
        if chosen.ndim > 1 or not chosen.numel():
            raise PhysicsError(
                f"{rows!r} chooses none of {len(self)} trajectories: give a number, a slice, numbers or a mask; of "
                "times and entries, index .u"
            )
        return chosen.reshape(-1)

    def pairs(self) -> Pairs:
        """All pairs of states that follow one another."""
        before, after = self.u[:, :-1].flatten(0, 1), self.u[:, 1:].flatten(0, 1)
        dt = self.t.diff().expand(len(self.u), -1).flatten()
        inputs = None if self.inputs is None else self.inputs.flatten(0, 1)
        condition = None if self.condition is None else self.condition.repeat_interleave(self.u.shape[1] - 1, 0)
        return Pairs(before, after, dt, inputs, condition)

    def noisy(self, scale: float, generator: torch.Generator) -> Trajectories:
        """With Gaussian noise of this standard deviation on every entry."""
        noise = torch.randn(self.u.shape, dtype=self.u.dtype, generator=generator, device=generator.device)
        return replace(self, u=self.u + scale * noise.to(self.u.device))

    def to(self, *target: Any, **named: Any) -> Trajectories:
        """As `Tensor.to`; what holds no floating-point numbers, as a mask, moves but keeps its type."""
        return Trajectories(**_moved(vars(self), target, named))


@dataclass(frozen=True)
class Pairs:
    """States [M, ...] before and after steps `dt` [M], and what acted in them.

    `inputs` [M, k]: of structures with ports. `condition` [M, ...]: what the energy takes beside the state.
    """

    before: Tensor
    after: Tensor
    dt: Tensor
    inputs: Tensor | None = None
    condition: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensors(**vars(self))
        for name, x in (("after", self.after), ("dt", self.dt), *self.acting().items()):
            if x.ndim and len(x) != len(self.before):
                raise PhysicsError(f"there are {len(self.before)} samples before a step, and {name} of {len(x)}")

    def __len__(self) -> int:
        return len(self.before)

    def acting(self) -> dict[str, Tensor]:
        """Inputs and condition, where there are any, by name."""
        return {k: v for k, v in (("inputs", self.inputs), ("condition", self.condition)) if v is not None}

    def take(self, rows: Tensor) -> Pairs:
        fields: dict[str, Any] = {k: None if v is None else v[rows] for k, v in vars(self).items()}
        return Pairs(**fields)

    def to(self, *target: Any, **named: Any) -> Pairs:
        """As `Tensor.to`; what holds no floating-point numbers, as a mask, moves but keeps its type."""
        return Pairs(**_moved(vars(self), target, named))

    @staticmethod
    def join(parts: Sequence[Pairs]) -> Pairs:
        """All pairs of several, as of trajectories of different lengths."""
        if not parts:
            raise PhysicsError("there are no pairs to join")
        names = [sorted(p.acting()) for p in parts]
        if any(n != names[0] for n in names):
            raise PhysicsError(
                f"some pairs have what others lack: {names}; give all of them inputs and condition, or none"
            )
        every = [(p.before, p.after, p.dt, *(p.acting()[n] for n in sorted(p.acting()))) for p in parts]
        before, after, dt, *rest = (torch.cat(x) for x in zip(*every, strict=True))
        return Pairs(before, after, dt, **dict(zip(names[0], rest, strict=True)))


def _moved(fields: dict[str, Tensor | None], target: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    like = next(x for x in fields.values() if x is not None).new_empty(0).to(*target, **named)
    if not like.is_floating_point():
        raise PhysicsError(f"states are floating-point numbers, and cannot become {like.dtype}")
    return {
        k: x if x is None else x.to(*target, **named) if x.is_floating_point() else x.to(like.device)
        for k, x in fields.items()
    }


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
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise PhysicsError(f"{path} is not a table in text ({error})") from error
    for number, line in enumerate(lines, 1):
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
