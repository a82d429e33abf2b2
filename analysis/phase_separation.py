"""Judges the run of `experiments.phase_separation`: the stencils that were learned, and the motion that they make.

    python -m analysis.phase_separation runs/phase_separation

Prints each stencil with the properties that its form promises, as measured, and writes phases.png. Exits with 1 if one
of them does not hold, if the learned energy grows in any step, if a stencil with the true energy is no Laplacian to a
tenth (edge + 2 corner = 1, all that smooth fields see), or if the one from fine steps is not the five-point Laplacian
that made the data, to a tenth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from analysis.reporting import FEW, asked, verdict
from experiments.phase_separation import FINE, Config, schemes, system_of
from experiments.runs import config_of
from neuromech.physics import LearnedStencil

FIVE_POINT = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)


def largest_symbol(kernel: Tensor, n: int) -> float:
    """The largest eigenvalue on a periodic n x n grid but that of the constants, relative to the most negative."""
    whole = torch.zeros(n, n, dtype=kernel.dtype)
    whole[:3, :3] = kernel
    symbol = torch.fft.fft2(whole.roll((-1, -1), (0, 1))).real.flatten()
    return float(symbol[1:].max() / symbol.abs().max())


def judge(name: str, kernel: Tensor, energy: Tensor, total: Tensor, n: int) -> list[str]:
    """Print what is measured; return what is not as claimed."""
    size = float(kernel.abs().max())
    turned = float((kernel - kernel.rot90()).abs().max()) / size
    found = {
        "sum of the entries": abs(float(kernel.sum())) / size,
        "change under a quarter turn": turned,
        "largest eigenvalue but that of the constants": largest_symbol(kernel, n),
        "largest growth of its energy in a step": float(energy.diff(dim=0).max() / energy.abs().max()),
        "largest change of the total": float((total - total[0]).abs().max()),
    }
    bounds = (1e-13, 1e-13, 0.0, 1e-12, 1e-9)
    rows = "\n".join("  " + "".join(f"{x:10.4f}" for x in row) for row in kernel.tolist())
    corner, edge = float(kernel[0, 0]), float(kernel[0, 1])
    print(f"\n{name}: stencil in units of 1/dx^2, corner : edge = {corner / edge:.3f}\n{rows}")
    missed = []
    for (what, value), bound in zip(found.items(), bounds, strict=True):
        ok = value <= bound
        print(f"  {what:46} {value:9.1e}   {'holds' if ok else 'DOES NOT HOLD'}")
        missed += [] if ok else [f"{name}: {what} is {value:.1e}"]
    return missed


def main() -> int:
    directory = asked(__doc__)[0]
    config = config_of(Config, directory)
    stored = torch.load(directory / "data.pt", weights_only=True)
    states = {"exact": stored["u"][config.train :].transpose(0, 1)}
    kernels = {"exact": FIVE_POINT}
    missed: list[str] = []
    for name, scheme in schemes(config).items():
        scheme.load_state_dict(torch.load(directory / f"{name}.pt", weights_only=True, map_location="cpu")["module"])
        kept = torch.load(directory / f"{name}-prediction.pt", weights_only=True)
        if kept["gave_up"]:
            missed.append(f"{name}: the prediction gave up: {kept['gave_up']}")
            continue
        u = states[name] = kept["u"]
        with torch.no_grad():
            energy = torch.stack([scheme.model.energy(x) for x in u])
        structure = scheme.model.structure
        assert isinstance(structure, LearnedStencil)
        kernel = kernels[name] = structure.kernel()
        missed += judge(name, kernel, energy, u.flatten(2).mean(-1), config.n)
        print(f"  mean squared error of the state {float(((u - states['exact']) ** 2).mean()):.2e}")
        if name != "both learned":
            moment = float(kernel[0, 1] + 2 * kernel[0, 0])
            print(f"  edge + 2 corner {moment:.3f} (any Laplacian has 1)")
            missed += [] if abs(moment - 1) < 0.1 else [f"{name}: edge + 2 corner is {moment:.3f}"]
        if name == FINE and not (kernel - FIVE_POINT).abs().max() < 0.1:
            missed.append(f"{name}: the stencil is not that of the five-point Laplacian")
    plot(directory, config, states, kernels)
    said = f"{len(kernels) - 1} learned stencils; of what is claimed of them {len(missed)} missed"
    kept, enough = "the learned structures are as claimed", config.steps >= FEW
    return verdict(not missed, kept, "; ".join(missed), said, enough)


def plot(directory: Path, config: Config, states: dict[str, Tensor], kernels: dict[str, Tensor]) -> None:
    """phases.png: each stencil, the first test state at five times, exact and predicted, and the true energy of it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    times = [round(k * config.length / 4) for k in range(5)]
    figure, grid = plt.subplots(
        len(states),
        7,
        figsize=(13, 1.9 * len(states)),
        layout="constrained",
        width_ratios=[1] * 6 + [1.7],
        squeeze=False,
    )
    energy = system_of(config).energy
    t = torch.arange(config.length + 1) * config.dt
    for row, (name, u) in zip(grid, states.items(), strict=True):
        kernel = kernels[name]
        row[0].imshow((kernel / kernel.abs().max()).numpy(), vmin=-1, vmax=1, cmap="PuOr_r")
        for (i, j), value in zip(((i, j) for i in range(3) for j in range(3)), kernel.flatten().tolist(), strict=True):
            row[0].text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9, color="w" if i == j == 1 else "k")
        row[0].set(xticks=[], yticks=[], ylabel=name.replace(", ", ",\n"))
        for axes, k in zip(row[1:], times, strict=False):
            axes.imshow(u[k, 0].numpy(), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="none")
            axes.set(xticks=[], yticks=[])
        row[6].plot(t, energy(states["exact"][:, 0]), color="black", lw=2.5, label="exact")
        if name != "exact":
            row[6].plot(t, energy(u[:, 0]), "--", color="tab:red", label="predicted")
        row[6].set(ylabel="true energy", xticklabels=[])
        row[6].legend(frameon=False, fontsize=8)
    grid[0, 0].set_title("G, in $1/\\Delta x^2$", fontsize=10)
    for axes, k in zip(grid[0, 1:], times, strict=False):
        axes.set_title(f"t = {k * config.dt:.3g}", fontsize=10)
    grid[-1, 6].set(xlabel="time")
    grid[-1, 6].tick_params(labelbottom=True)
    grid[-1, 6].xaxis.set_major_formatter("{x:g}")
    figure.savefig(directory / "phases.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
