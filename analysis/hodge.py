"""Judges the runs of `experiments.hodge`: orthogonality of the parts, and how far each is from the known one.

    python -m analysis.hodge runs/hodge [--figures figures]

Exits with 1 if the inner product of two parts exceeds 1e-3 of the field's energy, or its cosine 1e-3.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

from analysis.reporting import asked, show, verdict
from experiments.hodge import Config, domain_of, parts_of
from experiments.runs import config_of, finished
from neuromech.physics import HodgeDecomposition
from neuromech.record import read

BOUND = 1e-3


def draw(path: Path, directory: Path) -> Path:
    """The known parts of a two-dimensional case, above those that were found, as arrows on their size."""
    from matplotlib.figure import Figure

    torch.set_default_dtype(torch.float64)
    config = config_of(Config, path)
    hodge = HodgeDecomposition(domain_of(config.case), width=config.width, depth=config.depth)
    hodge.load_state_dict(torch.load(path / "model.pt", weights_only=True))
    parts = parts_of(config.case)
    hodge.remember(lambda x: torch.stack([f(x) for f in parts.values()]).sum(0))
    fine, side = 96, 13
    x, y = torch.meshgrid(*[(torch.arange(fine) + 0.5) / fine] * 2, indexing="xy")
    points = torch.stack([x.flatten(), y.flatten()], -1)
    found = hodge.parts(points)
    top = max(float(part(points).norm(dim=1).max()) for part in parts.values())
    figure = Figure(figsize=(8.4, 5.8), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for k, (name, part) in enumerate(parts.items()):
        for row, field in enumerate((part(points), found[name])):
            ax, (u, v) = axes[row, k], field.T.reshape(2, fine, fine)
            size = ax.imshow(
                (u * u + v * v).sqrt(), origin="lower", extent=(0, 1, 0, 1), cmap="Blues", vmin=0, vmax=top
            )
            some = (slice(fine // side // 2, None, fine // side),) * 2
            ax.quiver(x[some], y[some], u[some], v[some], scale=12 * top, width=0.006, color="#333333")
            ax.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes[0, k].set_title(name.replace("_", "-"))
    axes[0, 0].set_ylabel("known")
    axes[1, 0].set_ylabel("found")
    figure.colorbar(size, ax=axes, shrink=0.6, label="size of the field")
    directory.mkdir(parents=True, exist_ok=True)
    out = directory / f"hodge_{config.case}.png"
    figure.savefig(out, dpi=130)
    return out


def main() -> int:
    directory, figures = asked(__doc__)
    paths = finished(directory)
    pairs = pd.concat([read(p).frame("pairs").assign(case=p.name) for p in paths])
    parts = pd.concat([read(p).frame("parts").assign(case=p.name) for p in paths])
    errors = parts.pivot(index="case", columns="part", values="error").add_prefix("error of ")
    worst = pairs.groupby("case")[["inner", "cosine"]].max()
    show(errors.join(worst), "{:.1e}", index=True)
    for p in paths:
        if p.name.endswith("-2"):
            print(draw(p, figures))
    missed = int((worst > BOUND).any(axis=1).sum())
    enough = min(config_of(Config, p).steps for p in paths) >= 100  # of L-BFGS, each worth many others
    said = f"inner products and cosines of the parts up to {worst.to_numpy().max():.1e}, in {len(worst)} cases"
    kept, short = f"the parts are orthogonal to {BOUND:g}", f"{missed} cases MISSED {BOUND:g}"
    return verdict(not missed, kept, short, said, enough)


if __name__ == "__main__":
    sys.exit(main())
