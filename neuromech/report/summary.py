"""A run as a few lines of text, as plain data, and as a card for a notebook: views of what was decided about it."""

from __future__ import annotations

import math
import textwrap
from html import escape
from typing import Any

from neuromech.record import Run
from neuromech.report.facts import RunFacts, gather
from neuromech.report.judgement import decide
from neuromech.report.statements import Judgement
from neuromech.report.static_figure import curve
from neuromech.report.verdict import ROTATION
from neuromech.report.words import share

WIDTH = 110
SAYS = {
    "rounding": "held to rounding",
    "close": "held closely, though less so than the rounding of weights explains",
    "observed": "without a prediction",
    "empty": "not followed",
}
STYLE = (
    "<style>.nm .value{fill:none;stroke:#0072b2;stroke-width:1.7}.nm .grid{stroke:#8883}.nm .axis{stroke:#888}"
    ".nm .mark{stroke:#d55e00;stroke-dasharray:3 3}.nm text{font-size:12px;fill:currentColor}</style>"
)
COLOURS = {"ok": "#2e9e57", "mixed": "#c98500", "bad": "#d13b3b", "none": "#7a8694"}  # of a bar, on light or dark


def summarise(run: Run) -> dict[str, Any]:
    """What there is to say of a run, as plain data."""
    facts = gather(run)
    judged = decide(facts)
    loss = facts.loss
    return {
        "name": facts.meta.get("name"),
        "model": facts.meta.get("model"),
        "status": facts.ending.how,
        "steps": facts.n_steps,
        "started": facts.ending.started,
        "last": facts.ending.last,
        "loss": None if loss is None or not len(loss) else [float(loss["value"].iloc[k]) for k in (0, -1)],
        "tone": judged.tone,
        "headline": judged.headline,
        "statements": [vars(s) for s in judged.statements],
        "faults": [vars(f) for f in facts.faults],
        "broken": [f.name for f in facts.families if f.verdict.status == "broken"],
        "diverged": [s.text for s in judged.wrong if s.key in ("not finite", "exploded") and s.tone == "bad"],
        "families": [
            {"name": f.name, "kind": f.kind, "size": f.size, "evidence": f.evidence}
            | {"status": f.verdict.status, "worst": f.verdict.worst, "verdict": f.verdict.text}
            for f in facts.families
        ],
    }


def told(run: Run) -> str:
    """What there is to say of a run, as text of at most 110 columns."""
    facts = gather(run)
    judged = decide(facts)
    name = facts.meta.get("name") or (run.path.name if run.path else "run")
    lines = [f"{name}: {facts.meta.get('model', 'unknown model')}, {facts.ending.how}", *_wrapped(judged.headline)]
    told_to: set[str] = set()  # the same advice is given once
    for title, some in (("what went wrong", judged.wrong), ("limits", judged.limits)):
        shown = [s for s in some if not (title == "what went wrong" and s.key == "limit")]
        if shown:
            lines += ["", f"{title}:"]
        for s in shown:
            lines += _wrapped(s.text, "  - ", "    ")
            lines += _wrapped(f"to do: {s.do}", "    ", "    ") if s.do and s.do not in told_to else []
            told_to.add(s.do)
    if facts.families and facts.n_steps:
        lines += ["", "laws:", *_laws(facts)]
    if facts.n_steps and facts.monitored and not facts.faults:
        lines += ["", "monitor: no fault"]
    return "\n".join(lines)


def _laws(facts: RunFacts) -> list[str]:
    """One line a kind of verdict and evidence, the broken ones singly."""
    broken = [f for f in facts.families if f.verdict.status in ("broken", "diverged")]
    lines = [line for f in broken[:20] for line in _wrapped(f"{f.name}: {f.verdict.text}", "  ✗ ", "    ")]
    lines += [f"  ✗ and {len(broken) - 20} more"] if len(broken) > 20 else []
    groups: dict[tuple[str, str], list[float]] = {}
    for f in facts.families:
        if f not in broken:
            holds = f.verdict.status in ("rounding", "close")
            said = "balanced, as identities do" if holds and f.evidence == "measured" else SAYS[f.verdict.status]
            said = "nothing tells whether they could have failed" if holds and f.evidence == "unknown" else said
            said = "rotations, which have no charge to follow" if f.verdict == ROTATION else said
            said = "within what coarse rounding can do" if f.verdict.little else said
            said = "not readable" if facts.charges_lost else said
            said = "never moved" if f.verdict.still and f.verdict.worst == 0 else said
            groups.setdefault((f.evidence, said), []).append(f.verdict.worst)
    for (evidence, said), worst in groups.items():
        known = [w for w in worst if not math.isnan(w)]
        off = f", off by at most {share(max(known))}" if known else ""
        lines.append(f"  {len(worst)} {evidence}: {said}{off}")
    return lines


def card(run: Run) -> str:
    """HTML for a notebook."""
    facts = gather(run)
    judged = decide(facts)
    colour = COLOURS[judged.tone]
    parts = [
        f'<div style="border-left:5px solid {colour};padding:6px 12px;font-family:system-ui,sans-serif">',
        f"<strong>{escape(str(facts.meta.get('name') or facts.meta.get('model') or 'run'))}</strong> ",
        f"({facts.ending.how})<br>{escape(judged.headline)}",
    ]
    loss = facts.loss
    if loss is not None and len(loss) > 1:
        marks = [(float(f.step), f.title) for f in facts.faults]
        picture = curve(
            loss["step"].tolist(), loss["value"].tolist(), "loss", "loss by step", marks, _log(loss["value"])
        )
        parts.append(f'<div class="nm" style="max-width:560px">{STYLE}{picture}</div>')
    shown = "".join(f"<li>{escape(s.text)}</li>" for s in _worth(judged))
    parts.append(f"<ul>{shown}</ul></div>" if shown else "</div>")
    return "".join(parts)


def _worth(judged: Judgement) -> list[Any]:
    return [s for s in judged.wrong if s.text not in judged.headline][:5]


def _log(values: Any) -> bool:
    known = values[(values.abs() < 1e100)]
    return bool(len(known) and known.min() > 0 and known.max() > 50 * known.min())


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
