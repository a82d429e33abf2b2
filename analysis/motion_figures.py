"""Figures of learned motion: portraits and energy of an oscillator over long times; fields over space and time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromech.physics import Trajectories
from neuromech.physics.energy.systems import System

Motions = Mapping[str, Tensor]
# One colour a kind of model, one dash a method: by the start of the name, the first that fits.
COLOURS = {"NODE": "#999999", "HNN": "#d55e00", "symplectic": "#009e73", "discrete": "#0072b2"}
DASHES = {"by DG": (1.5, 1.5), "dopri5": (4, 1.5), "wide": (1, 1)}


def plot(directory: Path, system: System, exact: Trajectories, motions: Motions, own: Mapping[str, Any]) -> None:
    """energy.png, and of fields states.png, into a run; `own`: learned energies [steps, B], where there are any."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="ticks", rc={"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    if system.shape == (2,):
        figures = {"energy": _oscillator(system, exact, motions, own)}
    elif system.name.endswith("body"):
        figures = {"energy": _energy(system, exact, motions)}
    else:
        figures = {"states": _fields(system, exact, motions), "energy": _energy(system, exact, motions)}
    for name, figure in figures.items():
        figure.savefig(directory / f"{name}.png", dpi=150)
        plt.close(figure)


def style(name: str) -> dict[str, Any]:
    colour = next(c for start, c in COLOURS.items() if name.startswith(start))
    dashes: tuple[Any, ...] = next((d for part, d in DASHES.items() if part in name), ())
    return {"color": colour, "dashes": dashes, "lw": 2.2 if name.startswith("discrete") else 1.4}


def over_a_period(h: Tensor, period: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """At steps that are even on a logarithmic axis: which, and the mean, least and largest h of the period around."""
    parts = h.unfold(0, period, 1)
    at = torch.from_numpy(np.unique(np.geomspace(1, len(parts), 200).astype(int) - 1))
    return at + period // 2, parts.mean(1)[at], parts.amin(1)[at], parts.amax(1)[at]


def _oscillator(system: System, exact: Trajectories, motions: Motions, own: Mapping[str, Any]) -> Any:
    """Portraits of the plane, coloured by time; below them the true energy and the change of the learned one."""
    import matplotlib.pyplot as plt

    shown = {name: u[:, 0] for name, u in motions.items() if "," not in name}
    figure = plt.figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[1, 1.75])
    upper, lower = (figure.add_subfigure(grid[k]) for k in range(2))
    _portraits(upper, exact, shown)
    left, right = lower.subplots(1, 2)
    _true_energy(left, system, exact, shown)
    _own_energy(right, len(exact.t) - 1, own)
    lower.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncol=len(shown), frameon=False)
    return figure


def _portraits(figure: Any, exact: Trajectories, shown: Motions) -> None:
    from matplotlib.collections import LineCollection

    limit = 1.6 * float(exact.u[0].abs().max())
    every = figure.subplots(1, len(shown))
    for axes, (name, u) in zip(every, shown.items(), strict=True):
        lines = LineCollection(list(torch.stack([u[:-1], u[1:]], 1).numpy()), cmap="viridis", lw=0.6, rasterized=True)
        lines.set_array(exact.t[1 : len(u)].numpy())
        lines.set_clim(0, float(exact.t[-1]))
        axes.add_collection(lines)
        axes.plot(*exact.u[0, :64].T, color="black", lw=0.9)
        axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], xlabel="$q$")
        axes.set_title(name, color=style(name)["color"], fontsize=10)
    every[0].set_ylabel("$p$")
    figure.colorbar(lines, ax=every, shrink=0.8, label="time", pad=0.01)


def _true_energy(axes: Any, system: System, exact: Trajectories, shown: Motions) -> None:
    q = exact.u[0, :, 0]
    turns = ((q[1:] > 0) & (q[:-1] <= 0)).sum()
    period = round(len(q) / max(int(turns), 1))
    with torch.no_grad():
        for name, u in shown.items():
            at, mean, least, largest = over_a_period(system.energy(u) / system.energy(u[:1]), period)
            axes.fill_between(exact.t[at], least, largest, color=style(name)["color"], alpha=0.15, lw=0)
            axes.plot(exact.t[at], mean, label=name, **style(name))
    axes.axhline(1, color="black", lw=0.9)
    axes.set(xscale="log", xlabel="time", ylim=(0, 2.2), ylabel="$H(t)\\,/\\,H(0)$")
    axes.set_title("true energy: mean and range over a period", loc="left", fontsize=10)


def _own_energy(axes: Any, steps: int, own: Mapping[str, Any]) -> None:
    for name, h in own.items():
        if h is not None:
            change = (h - h[0]).abs().amax(1).double().cummax(0).values[1:].clamp(min=1e-17)
            axes.loglog(np.arange(1, len(change) + 1), change, **style(name))
    n = np.array([30.0, steps])
    axes.loglog(n, 1e-15 * np.sqrt(n / n[0]), color="black", lw=0.8, ls=":")
    axes.text(n[1], 5e-16 * np.sqrt(n[1] / n[0]), r"$\propto\sqrt{n}$", ha="right", va="top", fontsize=9)
    controls = "dotted: the Hamiltonian networks,\nstepped by their discrete gradients"
    axes.text(1, 3e-13, controls, fontsize=9, va="bottom")
    axes.set(xlabel="step $n$", ylabel=r"$\max_{k\leq n}\,|H_\theta(u_k) - H_\theta(u_0)|$")
    axes.set_title("learned energy: largest change so far", loc="left", fontsize=10)


def _energy(system: System, exact: Trajectories, motions: Motions) -> Any:
    """The error of the true energy along every motion, the mean over the test states."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 4), layout="constrained")
    with torch.no_grad():
        truth = torch.stack([system.energy(u) for u in exact.u.transpose(0, 1)])
        for name, u in motions.items():
            h = torch.stack([system.energy(x) for x in u])
            error = (h - truth[: len(h)]).abs().mean(1)[1:]
            axes.semilogy(exact.t[1 : len(u)], error, label=name, **style(name))
    axes.set(xlabel="time", ylabel="|H(model) - H(exact)|", title=f"{system.name}: error of the true energy")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _fields(system: System, exact: Trajectories, motions: Motions) -> Any:
    """The first test state over space (up) and time (right), exact and by every model, in one colour scale."""
    import matplotlib.pyplot as plt

    every = {"exact": exact.u.transpose(0, 1)} | dict(motions)
    figure, grid = plt.subplots(len(every), 1, figsize=(7, 1.1 * len(every) + 0.6), layout="constrained", sharex=True)
    limit = float(exact.u[0].abs().max())
    signed = float(exact.u[0].min()) < -0.1 * limit
    low, colours = (-limit, "RdBu_r") if signed else (0.0, "viridis")
    for axes, (name, u) in zip(grid, every.items(), strict=True):
        shown = axes.imshow(
            u[:, 0].T.numpy(), aspect="auto", origin="lower", vmin=low, vmax=limit, cmap=colours, interpolation="none",
            extent=(0, float(exact.t[len(u) - 1]), 0, u.shape[-1]),
        )  # fmt: skip
        axes.set(xlim=(0, float(exact.t[-1])), ylabel="cell")
        axes.set_title(name + ("" if len(u) == len(exact.t) else ": gave up"), fontsize=8, loc="left")
    grid[-1].set_xlabel("time")
    figure.colorbar(shown, ax=grid, label="u")
    return figure
