"""Draws the annotated picture of docs/report.md from a run of the demo: `neuromech demo --run runs/demo`, and then
`python docs/annotated.py runs/demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

import neuromech

FAMILY = "conv2_1.weight[i]"
# Panel from the top, where to point (shares of the panel), where the note stands, and what it says.
NOTES = (
    (0, (0.355, 0.855), (0.12, 0.62), "dots: the charge, observed in the weights"),
    (0, (0.62, 0.79), (0.44, 0.42), "line: the law, computed from the optimizer's arithmetic"),
    (0, (0.60, 0.11), (0.44, 0.24), "dotted: the flow, steps without size"),
    (1, (0.75, 0.24), (0.40, 0.05), "single members of the family, each with its law"),
    (2, (0.50, 0.20), (0.30, 0.62), "grey: what rounding can do; the law stays inside, so it holds"),
    (3, (0.45, 0.70), (0.18, 0.42), "what moved the charge, by cause: here momentum (green) and weight decay"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "images" / "report.png")
    options = parser.parse_args()
    axes = neuromech.open_run(options.run).plot(FAMILY)
    figure = axes[0].figure
    figure.set_size_inches(8.4, 8.0)
    for panel, to, at, text in NOTES:
        axes[panel].annotate(
            text, to, at, xycoords="axes fraction", textcoords="axes fraction", fontsize=10, zorder=9,
            arrowprops={"arrowstyle": "->", "color": "#444444"}, bbox={"fc": "white", "ec": "#bbbbbb", "pad": 3},
        )  # fmt: skip
    figure.savefig(options.output, dpi=110, bbox_inches="tight")
    print(options.output)


if __name__ == "__main__":
    main()
