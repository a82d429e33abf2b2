"""Figures and films of trajectories, predictions, paths and fields: matplotlib axes, drawn and not shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy import EnergyModel

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
    """t [T, B], each sample's own, and u [T, B, ...] of a `Rollout`, `Trajectories` or `Paths`."""
    from neuromech.physics.energy import Rollout, Trajectories
    from neuromech.physics.fields import Paths

    if isinstance(motion, Paths):
        t, u = motion.times, motion.positions
    elif isinstance(motion, Rollout | Trajectories):
        t, u = motion.t, motion.u
    else:
        raise PhysicsError(f"{type(motion).__name__} is not a motion: expected a Rollout, Trajectories or Paths")
    if isinstance(motion, Trajectories):
        u, t = u.transpose(0, 1), t.T if t.ndim == 2 else t
    t = t.unsqueeze(1).expand(-1, u.shape[1]) if t.ndim == 1 else t
    return t.detach().cpu(), u.detach()


def _lines(axes: Axes, label: str) -> Iterator[dict[str, Any]]:
    """How to draw a line a sample: in colours of their own, or all in one, with a name in the legend."""
    if not label:
        while True:
            yield {"linewidth": 1}
    (first,) = axes.plot([], [], linewidth=1, label=label)
    axes.legend(frameon=False)
    while True:
        yield {"linewidth": 1, "color": first.get_color()}


def _check_sample(sample: int, u: Tensor) -> None:
    if not -u.shape[1] <= sample < u.shape[1]:
        raise PhysicsError(f"there is no sample {sample} among {u.shape[1]}")


def _place(path: str | Path, *kinds: str) -> Path:
    """Where a picture is written, in a folder that is there by then. Raises `PhysicsError` for other kinds."""
    path = Path(path)
    if path.suffix.lower() not in kinds:
        raise PhysicsError(f"{path} is not a name of a picture: it ends in {', '.join(kinds)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def phase_portrait(motion: Any, axes: Axes | None = None, at: tuple[int, int] = (0, 1), label: str = "") -> Axes:
    """Entries `at` of the states against one another, a line a sample; the dot is where it starts.

    `label`: a name in the legend for all of them, which are then of one colour; to lay motions over one another.
    """
    _, u = _time_first(motion)
    if u.ndim != 3 or not all(-u.shape[2] <= k < u.shape[2] for k in at):
        raise PhysicsError(f"a portrait needs states [B, n] with entries {at}; found {tuple(u.shape[1:])}")
    axes, u = _axes(axes, (4.2, 4.0)), u.cpu()
    for k, how in zip(range(u.shape[1]), _lines(axes, label), strict=False):
        (line,) = axes.plot(u[:, k, at[0]], u[:, k, at[1]], **how)
        axes.plot(u[0, k, at[0]], u[0, k, at[1]], "o", color=line.get_color(), markersize=4)
    axes.set_xlabel(f"entry {at[0]} of the state")
    axes.set_ylabel(f"entry {at[1]} of the state")
    return axes


def energy_curve(motion: Any, energy: Callable[[Tensor], Tensor], axes: Axes | None = None, label: str = "") -> Axes:
    """The energy of every sample over time, less that at the start; `label` as in `phase_portrait`."""
    t, u = _time_first(motion)
    if isinstance(energy, EnergyModel):
        energy = energy.energy
    with torch.no_grad():
        values = torch.stack([energy(x) for x in u]).cpu()
    values = values.squeeze(-1) if values.ndim == 3 and values.shape[2] == 1 else values
    if values.shape != u.shape[:2]:
        raise PhysicsError(f"an energy is one number a sample; of {u.shape[1]} states found {list(values.shape[1:])}")
    axes = _axes(axes)
    for k, how in zip(range(u.shape[1]), _lines(axes, label), strict=False):
        axes.plot(t[:, k].numpy(), (values[:, k] - values[0, k]).numpy(), **how)
    axes.set_xlabel("time")
    axes.set_ylabel("energy - energy at the start")
    return axes


def space_time(motion: Any, sample: int = 0, dx: float = 1.0, axes: Axes | None = None) -> Axes:
    """A field in one dimension: place to the right, time upwards, its value in colour. Times need not be regular."""
    t, u = _time_first(motion)
    if u.ndim != 3:
        raise PhysicsError(f"a picture of space and time is of fields [B, n], not {tuple(u.shape[1:])}")
    _check_sample(sample, u)
    axes, u = _axes(axes), u[:, sample].cpu()
    far = float(u.abs().max())
    place = dx * torch.arange(u.shape[1])
    shown = axes.pcolormesh(
        place.numpy(),
        t[:, sample].numpy(),
        u.numpy(),
        shading="nearest",
        cmap="RdBu_r",
        vmin=-far,
        vmax=far,
        rasterized=True,
    )
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
    axes.figure.colorbar(shown, ax=axes, label="length")
    axes.set_aspect("equal")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    return axes


def film(
    motion: Any,
    path: str | Path,
    every: int = 1,
    frames_per_second: int = 20,
    at: tuple[int, int] | None = None,
    sample: int = 0,
) -> Path:
    """A GIF: samples as points of the plane (entries `at`), or one sample of fields, on a line or in the plane.

    States [B, n] are points if `at` is given or n <= 8, else fields on a line; [B, n, m] are fields in the plane.
    """
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    t, u = _time_first(motion)
    if u.ndim not in (3, 4) or every < 1:
        raise PhysicsError(f"a film is of states [B, n] or [B, n, m], not {tuple(u.shape[1:])}; {every=} is 1 or more")
    _check_sample(sample, u)
    path = _place(path, ".gif")
    u, axes = u.cpu(), _axes(None, (4.6, 4.0))
    if u.ndim == 4:
        update = _film_of_plane(axes, u[:, sample])
    elif at is None and u.shape[2] > MOST_ENTRIES:
        update = _film_of_line(axes, u[:, sample])
    else:
        update = _film_of_points(axes, u[..., list(at or (0, 1))], at or (0, 1))

    def draw(k: int) -> None:
        update(k)
        axes.set_title(f"t = {float(t[k, sample]):.3g}")

    figure: Any = axes.figure
    FigureCanvasAgg(figure)
    FuncAnimation(figure, draw, list(range(0, len(t), every))).save(str(path), PillowWriter(frames_per_second))
    return path


MOST_ENTRIES = 8  # of a state whose film shows points, if nothing else is asked for


def _margin(low: Tensor, high: Tensor) -> tuple[float, float]:
    """Limits of an axis with some room, so that dots at its ends are whole."""
    room = 0.05 * float(high - low) or 1.0
    return float(low) - room, float(high) + room


def _film_of_points(axes: Axes, u: Tensor, at: tuple[int, int]) -> Callable[[int], Any]:
    dots = axes.plot(u[0, :, 0], u[0, :, 1], "o", markersize=4)[0]
    axes.set_xlim(*_margin(u[..., 0].min(), u[..., 0].max()))
    axes.set_ylim(*_margin(u[..., 1].min(), u[..., 1].max()))
    axes.set_xlabel(f"entry {at[0]} of the state")
    axes.set_ylabel(f"entry {at[1]} of the state")
    return lambda k: dots.set_data(u[k, :, 0], u[k, :, 1])


def _film_of_line(axes: Axes, u: Tensor) -> Callable[[int], Any]:
    (line,) = axes.plot(u[0], linewidth=1.4)
    axes.set_ylim(*_margin(u.min(), u.max()))
    axes.set_xlabel("cell")
    axes.set_ylabel("u")
    return lambda k: line.set_ydata(u[k])


def _film_of_plane(axes: Axes, u: Tensor) -> Callable[[int], Any]:
    """The first axis of the field to the right, the second upwards."""
    far = float(u.abs().max())
    picture = axes.imshow(u[0].T.numpy(), origin="lower", cmap="RdBu_r", vmin=-far, vmax=far)
    axes.figure.colorbar(picture, ax=axes, label="u")
    return lambda k: picture.set_data(u[k].T.numpy())


def save(figure: Axes | Figure, path: str | Path, **configuration: Any) -> Path:
    """A PNG or SVG; what it was made of, if that is given, in a .json of its name beside it."""
    drawn: Any = getattr(figure, "figure", figure)
    path = _place(path, *(f".{kind}" for kind in drawn.canvas.get_supported_filetypes()))
    drawn.savefig(path, dpi=150)
    if configuration:
        path.with_suffix(".json").write_text(json.dumps(configuration, indent=1, default=str))
    return path
