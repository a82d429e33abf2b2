"""Figures and films of trajectories, predictions, paths and fields: matplotlib axes, drawn and not shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromech.errors import PhysicsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _axes(axes: Axes | None, size: tuple[float, float] = (5.0, 3.6)) -> Axes:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    made: Axes = Figure(size, layout="constrained").add_subplot()
    return made


def _time_first(motion: Any) -> tuple[Tensor, Tensor]:
    """t [T] and u [T, B, ...] of a `Rollout`, `Trajectories` or `Paths`."""
    if hasattr(motion, "positions"):
        return motion.times.detach().cpu(), motion.positions.detach().cpu()
    if not (hasattr(motion, "t") and hasattr(motion, "u")):
        raise PhysicsError(f"{type(motion).__name__} is no motion: expected a Rollout, Trajectories or Paths")
    t, u = motion.t.detach().cpu(), motion.u.detach().cpu()
    u = u if len(t) == len(u) and t.ndim == 1 and not hasattr(motion, "pairs") else u.transpose(0, 1)
    return (t if t.ndim == 1 else t.reshape(-1, *t.shape[1:])[:, 0] if len(t) == len(u) else t[0]), u


def phase_portrait(motion: Any, axes: Axes | None = None, at: tuple[int, int] = (0, 1), label: str = "") -> Axes:
    """Entries `at` of the states against one another, a line a sample; the dot is where it starts."""
    _, u = _time_first(motion)
    if u.ndim != 3 or u.shape[2] <= max(at):
        raise PhysicsError(f"a portrait needs states [B, n] with entries {at}; found {tuple(u.shape[1:])}")
    axes = _axes(axes, (4.2, 4.0))
    for k in range(u.shape[1]):
        (line,) = axes.plot(u[:, k, at[0]], u[:, k, at[1]], linewidth=1, label=label if k == 0 and label else None)
        axes.plot(u[0, k, at[0]], u[0, k, at[1]], "o", color=line.get_color(), markersize=4)
    axes.set_xlabel(f"entry {at[0]} of the state")
    axes.set_ylabel(f"entry {at[1]} of the state")
    return axes


def energy_curve(motion: Any, energy: Callable[[Tensor], Tensor], axes: Axes | None = None, label: str = "") -> Axes:
    """The energy of every sample over time, less that at the start."""
    t, u = _time_first(motion)
    with torch.no_grad():
        values = torch.stack([energy(x) for x in u])
    axes = _axes(axes)
    for k, line in enumerate((values - values[0]).T.cpu()):
        axes.plot(t, line, linewidth=1, label=label if k == 0 and label else None)
    axes.set_xlabel("time")
    axes.set_ylabel("energy - energy at the start")
    return axes


def space_time(motion: Any, sample: int = 0, dx: float = 1.0, axes: Axes | None = None) -> Axes:
    """A field in one dimension: place to the right, time upwards, its value in colour."""
    t, u = _time_first(motion)
    if u.ndim != 3:
        raise PhysicsError(f"a picture of space and time is of fields [B, n], not {tuple(u.shape[1:])}")
    axes = _axes(axes)
    far = float(u[:, sample].abs().max())
    shown = axes.imshow(
        u[:, sample].numpy(), origin="lower", aspect="auto", cmap="RdBu_r", vmin=-far, vmax=far,
        interpolation="nearest",
        extent=(0, u.shape[2] * dx, float(t[0]), float(t[-1])),
    )  # fmt: skip
    axes.figure.colorbar(shown, ax=axes, label="u")
    axes.set_xlabel("place")
    axes.set_ylabel("time")
    return axes


def arrows(field: Callable[[Tensor], Tensor], points: Tensor, axes: Axes | None = None) -> Axes:
    """Vectors of a field [B, 2] -> [B, 2] at points [B, 2]; the colour is their length."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise PhysicsError(f"arrows are drawn in the plane, at points [B, 2]; found {tuple(points.shape)}")
    with torch.no_grad():
        v = field(points).cpu()
    x, axes = points.cpu(), _axes(axes, (4.8, 4.0))
    shown = axes.quiver(x[:, 0], x[:, 1], v[:, 0], v[:, 1], v.norm(dim=1), cmap="viridis", angles="xy")
    axes.figure.colorbar(shown, ax=axes, label="speed")
    axes.set_aspect("equal")
    return axes


def film(
    motion: Any, path: str | Path, every: int = 1, frames_per_second: int = 20, at: tuple[int, int] = (0, 1)
) -> Path:
    """A GIF of a motion: points of the plane (entries `at`), a field on a line, or a field in the plane."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    t, u = _time_first(motion)
    rows = range(0, len(t), every)
    axes = _axes(None, (4.2, 4.0))
    if u.ndim == 4:
        far = float(u.abs().max())
        picture = axes.imshow(u[0, 0].numpy(), cmap="RdBu_r", vmin=-far, vmax=far)
        update: Callable[[int], Any] = lambda k: picture.set_data(u[k, 0].numpy())  # noqa: E731
    elif u.shape[2] > 8:
        (line,) = axes.plot(u[0, 0], linewidth=1.4)
        axes.set_ylim(float(u[:, 0].min()), float(u[:, 0].max()) + 1e-12)
        update = lambda k: line.set_ydata(u[k, 0])  # noqa: E731
    else:
        dots = axes.plot(u[0, :, at[0]], u[0, :, at[1]], "o", markersize=3)[0]
        low, high = u[..., list(at)].amin((0, 1)), u[..., list(at)].amax((0, 1))
        axes.set_xlim(float(low[0]), float(high[0]) + 1e-12)
        axes.set_ylim(float(low[1]), float(high[1]) + 1e-12)
        update = lambda k: dots.set_data(u[k, :, at[0]], u[k, :, at[1]])  # noqa: E731

    def draw(k: int) -> None:
        update(k)
        axes.set_title(f"t = {float(t[k]):.3g}")

    figure: Any = axes.figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    FuncAnimation(figure, draw, list(rows)).save(str(path), PillowWriter(frames_per_second))
    return Path(path)


def save(figure: Axes | Figure, path: str | Path, **configuration: Any) -> Path:
    """A PNG or SVG, with what it was made of in a .json beside it."""
    path = Path(path)
    drawn: Any = getattr(figure, "figure", figure)
    drawn.savefig(path, dpi=150)
    path.with_suffix(".json").write_text(json.dumps(configuration, indent=1, default=str))
    return path
