"""A page about an audit: what a model, a rollout or data keep, in numbers and over time."""

from __future__ import annotations

import html
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromech.physics import Audit, Residual

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
table {{ border-collapse: collapse; width: 100% }} th, td {{ padding: .35rem .6rem; border-bottom: 1px solid #ddd }}
th {{ text-align: left; font-weight: 600 }} td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
p.note {{ color: #555 }} svg {{ max-width: 100%; height: auto }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181c; color: #e6e6e6 }} th, td {{ border-color: #3a3d44 }}
p.note {{ color: #aaa }} svg {{ background: #fff }} }}
</style></head><body><h1>{title}</h1>
<p>{said}</p>
<table><thead><tr><th>law</th><th>off by (rms)</th><th>&plusmn; standard error</th><th>worst sample</th>
<th>in units of</th><th>samples</th></tr></thead><tbody>{rows}</tbody></table>
{figure}{left_out}</body></html>
"""


def audit_page(found: Audit, path: str | Path, title: str = "What is conserved") -> Path:
    """Write the page; `found`: of `neuromech.physics.audit`."""
    rows = "".join(_row(r) for r in found.residuals)
    left_out = "".join(
        f'<p class="note">{html.escape(name)}: not looked at, {html.escape(why)}.</p>'
        for name, why in found.left_out.items()
    )
    curves = [r for r in found.residuals if len(r.curve) > 1]
    text = _PAGE.format(
        title=html.escape(title),
        said=html.escape(_said(found)),
        rows=rows,
        figure=_figure(curves) if curves else "",
        left_out=left_out,
    )
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def _said(found: Audit) -> str:
    if not found.residuals:
        return "Nothing could be asked of it."
    worst = max(found.residuals, key=lambda r: r.mean if math.isfinite(r.mean) else math.inf)
    return (
        f"The law that is kept least is {worst.name}: off by {worst.mean:.2g} of its size, {worst.worst:.2g} at worst."
    )


def _row(r: Residual) -> str:
    error = f"{r.error:.1e}" if math.isfinite(r.error) else "one sample"
    cells = (f"{r.mean:.2e}", error, f"{r.worst:.2e}", f"{r.size:.3g}", str(r.samples))
    return f"<tr><td>{html.escape(r.name)}</td>" + "".join(f'<td class="n">{c}</td>' for c in cells) + "</tr>"


def _figure(curves: list[Residual]) -> str:
    """How far off every law is after so many steps."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure((7.0, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for r in curves:
        axes.plot(range(len(r.curve)), [x if x > 0 else math.nan for x in r.curve], label=r.name, linewidth=1.4)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("off by, of its size (rms)")
    axes.legend(frameon=False)
    out = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(out)
    return out.getvalue()[out.getvalue().index("<svg") :]
