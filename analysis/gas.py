"""Judges the runs of `experiments.gas`: errors of density and flux, continuity and mass.

    python -m analysis.gas runs/gas [--figures figures]

Exits with 1 if by construction the density's mean error exceeds 1.2 times that by penalty, or if mass or continuity
are not rounding (1e-6, float32).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

from analysis.reporting import FEW, WORDS, asked, show, verdict
from experiments.gas import DURATION, Built, Config, Penalised, exact
from experiments.runs import config_of, finished
from neuromech.physics.fields.taylor import jacobian
from neuromech.record import read

ROUNDING = 1e-6
LEVEL = 1.2


def draw(paths: dict[str, Path], directory: Path) -> Path:
    """The density over space and time, its error and the continuity residual, by both methods."""
    from matplotlib.figure import Figure

    n = 80
    t, x = torch.cartesian_prod(torch.linspace(0, DURATION, n), (torch.arange(n) + 0.5) / n).T
    y, right = torch.stack([t, x], -1), exact(t, x)[0]
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    extent = (0.0, 1.0, 0.0, DURATION)
    models = {m: (Built if m == "ncl" else Penalised)(config_of(Config, path)) for m, path in paths.items()}
    for method, model in models.items():
        model.load_state_dict(torch.load(paths[method] / "checkpoint.pt", weights_only=True)["module"])
    top = max(float((model(y).detach()[:, 0] - right).abs().max()) for model in models.values())
    for row, (method, model) in enumerate(models.items()):
        density, j = model(y).detach()[:, 0].double(), jacobian(model, y).detach()
        rest = (j[:, 0, 0] + j[:, 1, 1]).abs().clamp_min(1e-9).log10()
        shown = [
            (density, 0.6, 1.4, "viridis"),
            ((density - right).abs(), 0, top, "magma_r"),
            (rest, -8, 0, "magma_r"),
        ]
        for ax, (values, low, high, colours) in zip(axes[row], shown, strict=True):
            image = values.reshape(n, n)
            drawn = ax.imshow(image, origin="lower", extent=extent, aspect="auto", vmin=low, vmax=high, cmap=colours)
            if row == 1:
                ax.set_xlabel("x")
                figure.colorbar(drawn, ax=axes[:, list(axes[row]).index(ax)], orientation="horizontal", shrink=0.8)
        axes[row, 0].set_ylabel(f"{WORDS[method]}\nt")
    for ax, title in zip(axes[0], ("density", "error of the density", "log10 |continuity residual|"), strict=True):
        ax.set_title(title)
    directory.mkdir(parents=True, exist_ok=True)
    out = directory / "gas.png"
    figure.savefig(out, dpi=130)
    return out


def main() -> int:
    directory, figures = asked(__doc__)
    done = finished(directory)
    rows = [{"method": read(p).meta["method"]} | read(p).frame("progress").iloc[-1].to_dict() for p in done]
    groups = pd.DataFrame(rows).groupby("method")
    table = groups[["step", "density_error", "flux_error"]].mean().join(groups[["continuity", "mass"]].max())
    table["seeds"] = groups.size()
    show(table, index=True)
    firsts = {str(read(p).meta["method"]): p for p in reversed(done)}
    print(draw(dict(sorted(firsts.items())), figures))
    errors = table["density_error"].to_dict()
    ratio = errors["ncl"] / errors["pinn"]
    rounding = bool((table[["continuity", "mass"]].to_numpy(float)[list(table.index).index("ncl")] <= ROUNDING).all())
    said = f"error by construction over error by penalty: {ratio:.2f}; mass and continuity rounding: {rounding}"
    holds = bool(ratio <= LEVEL) and rounding
    kept = "by construction is level, and conserves exactly"
    return verdict(holds, kept, "MISSED", said, enough=bool(table["step"].min() >= FEW))


if __name__ == "__main__":
    sys.exit(main())
