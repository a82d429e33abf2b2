"""One figure as plain SVG, for the first screen, for print and where no script runs: a curve, with marks of faults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from neuromech.report.canvas import corners, drawable
from neuromech.report.words import number

WIDTH, HEIGHT = 760, 240
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 34


def curve(
    step: Sequence[float], values: Sequence[float], name: str, alt: str, marks: Sequence[tuple[float, str]], log: bool
) -> str:
    """An SVG document fragment; colours are those of the page. `marks`: steps with what happened there."""
    x, y = np.asarray(step, float), drawable(values)
    shown = corners(y)
    x, y = x[shown], y[shown]
    seen = np.where(np.isfinite(y) & ((y > 0) | (not log)), y, np.nan)
    known = np.log10(seen[np.isfinite(seen)]) if log else seen[np.isfinite(seen)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    pad = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    first, last = float(x.min()), max(float(x.max()), float(x.min()) + 1)

    def across(v: float) -> float:
        return LEFT + (v - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def up(v: float) -> float:
        return HEIGHT - BOTTOM - ((math.log10(v) if log else v) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    path, pen = [], "M"
    for a, b in zip(x, seen, strict=True):
        if np.isfinite(b):
            path.append(f"{pen}{across(a):.1f},{up(b):.1f}")
            pen = "L"
        else:
            pen = "M"  # a gap, never a zero
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">']
    for k in range(4):
        level = low + (k + 0.5) * (high - low) / 4
        v = 10**level if log else level
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(v):.1f}" y2="{up(v):.1f}"/>',
            f'<text x="{LEFT - 6}" y="{up(v) + 4:.1f}" text-anchor="end">{number(v)}</text>',
        ]
    for v in (first, (first + last) / 2, last):
        anchor = "end" if v == last else "start" if v == first else "middle"
        parts.append(f'<text x="{across(v):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">{round(v):,}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    axis = HEIGHT - BOTTOM
    parts += [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis}" y2="{axis}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}" text-anchor="middle">step</text>',
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(name)}</text>',
    ]
    for at, text in marks:
        if first <= at <= last:
            parts.append(
                f'<line class="mark" x1="{across(at):.1f}" x2="{across(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                f"<title>{escape(f'step {at:g}: {text}')}</title></line>"
            )
    parts.append(f'<path class="line value" d="{"".join(path)}"/></svg>')
    return "".join(parts)
