"""One page of all claims: claimed, measured, expected, verdict, and the figures that the analyses drew."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>neuromech: evidence</title><style>
body {font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222}
table {border-collapse: collapse} th, td {text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0}
tr {border-bottom: 1px solid #ddd} img {max-width: 100%} .holds {color: #00664b}
.not {color: #a03000; font-weight: bold}
</style></head><body>
<h1>Evidence</h1>
<p>{{ holding }} of {{ answers|length }} claims hold. Made by <code>make evidence</code>.</p>
<table><tr><th>claim</th><th>measured</th><th>expected</th><th>verdict</th></tr>
{% for a in answers %}<tr><td>{{ a.claim }}<br><small>{{ a.name }}, {{ a.seconds|round|int }} s</small></td>
<td>{{ a.measured }}</td><td>{{ a.expected }}</td>
<td class="{{ 'holds' if a.verdict == 'holds' else 'not' }}">{{ a.verdict }}</td></tr>
{% endfor %}</table>
{% for name, image in figures %}<h2>{{ name }}</h2><img alt="{{ name }}" src="data:image/{{ image }}">
{% endfor %}</body></html>
"""


def page(answers: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Writes evidence.html in `out`, with every figure below it inside; returns its path."""
    import jinja2

    images = sorted(p for p in out.rglob("*") if p.suffix in (".png", ".gif"))
    figures = [(p.stem.replace("_", " "), f"{p.suffix[1:]};base64,{_encoded(p)}") for p in images]
    holding = sum(a["verdict"] == "holds" for a in answers)
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    path = out / "evidence.html"
    path.write_text(template.render(answers=answers, figures=figures, holding=holding), encoding="utf-8")
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
