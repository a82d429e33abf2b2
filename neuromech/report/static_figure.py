"""One figure as plain SVG, for the first screen, for print and where no script runs: a curve, with marks of faults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from neuromech.report.canvas import corners, drawable
from neuromech.report.words import apart

WIDTH, HEIGHT = 760, 240
RIGHT, TOP, BOTTOM = 12, 10, 34
TITLE, LETTER = 36, 7  # room for the title of the axis, and for each letter of the longest label


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
    levels = [10.0**d for d in round_numbers(low, high, whole=True)] if log else round_numbers(low, high)
    labels = apart(levels)
    left = TITLE + LETTER * max(map(len, labels))
    first, last = float(x.min()), max(float(x.max()), float(x.min()) + 1)

    def across(v: float) -> float:
        return left + (v - first) / (last - first) * (WIDTH - left - RIGHT)

    def up(v: float) -> float:
        return HEIGHT - BOTTOM - ((math.log10(v) if log else v) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    path, drawn = [], np.isfinite(seen)
    for k in np.flatnonzero(drawn):  # a gap, never a zero; what stands alone is a dot
        pen = "L" if k and drawn[k - 1] else "M"
        alone = pen == "M" and not drawn[k + 1 : k + 2].any()
        path.append(f"{pen}{across(x[k]):.1f},{up(seen[k]):.1f}{'h0' if alone else ''}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">']
    for v, label in zip(levels, labels, strict=True):
        parts += [
            f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{up(v):.1f}" y2="{up(v):.1f}"/>',
            f'<text x="{left - 6}" y="{up(v) + 4:.1f}" text-anchor="end">{label}</text>',
        ]
    for v in dict.fromkeys((first, float((first + last) // 2), last)):
        anchor = "end" if v == last else "start" if v == first else "middle"
        parts.append(f'<text x="{across(v):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">{round(v):,}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    axis = HEIGHT - BOTTOM
    parts += [
        f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{axis}" y2="{axis}"/>',
        f'<text x="{(left + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}" text-anchor="middle">step</text>',
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


def round_numbers(low: float, high: float, whole: bool = False) -> list[float]:
    """Between two and seven multiples of 1, 2, 2.5 or 5 times a power of ten; `whole`: of whole numbers."""
    raw = (high - low) / 6
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= raw)
    step = max(1.0, math.ceil(step)) if whole else step
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
