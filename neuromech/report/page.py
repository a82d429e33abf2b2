"""The page: one HTML file that needs nothing else, from any recorded run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromech.errors import RecordError
from neuromech.record import Run, read
from neuromech.report import faults, figures, story, words
from neuromech.report.canvas import svg
from neuromech.report.family import FamilyRecord, by_kind, families, law_table, measured
from neuromech.report.forecasts import forecasts, remarks
from neuromech.report.terms import TERMS, visible
from neuromech.rounding import CONFIDENCE, LAW_OPERATIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6
"""Families of a kind that are drawn in the open; the rest is folded."""

LAWS = {
    "exact": ("Exact law", "what each step of this optimizer does to the charge, with nothing left out"),
    "ideal": (
        "Ideal law",
        "the exact law as if every symmetry were perfect: without the eps of norms, and without the rounding of "
        "gradients that cancel, which moves translations",
    ),
    "continuous": (
        "Continuous law",
        "a smooth approximation: the charge as a damped oscillator driven by the gradients",
    ),
    "flow": ("Gradient flow", "the limit of infinitely small steps, where only weight decay changes a charge"),
}

KINDS = {
    "scale": (
        "Scale",
        "Multiplying all of these weights by one positive factor changes nothing. What is conserved is their squared "
        "length: the sum of their squares.",
    ),
    "rescale": (
        "Rescale",
        "A factor on the weights before the slash is undone by its inverse on those behind it. What is conserved is "
        "the difference of the two squared lengths.",
    ),
    "translation": (
        "Translation",
        "Adding one number to all of these weights changes nothing. What is conserved is their sum.",
    ),
    "other": ("Not described", "The records hold rows of symmetries that run.json does not describe."),
}


def write_report(record: Run | str | Path, path: str | Path) -> Path:
    """Write the report of a run, given as its record or its directory, to `path`; returns the path.

    Raises `RecordError` if there is no run, or if `path` cannot be written.
    """
    text = render(record if isinstance(record, Run) else read(record))
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot write the report to {path}: {error}. Choose another file") from error
    return path


def render(record: Run) -> str:
    """The report as HTML."""
    import jinja2

    meta, steps, events = record.meta, record.frame("steps"), record.frame("events")
    found = families(meta, record.frame("charges"), record.frame("terms"))
    n_steps = max(story.number_of_steps(steps), *(int(f.whole["step"].max()) for f in found if len(f.whole)), 0)
    told = faults.faults(record.frame("faults"))
    tone, headline = story.headline(meta, n_steps, found, events)
    overview = figures.overview_figure(found, steps)
    foreseen = forecasts(meta, found, steps)
    template = resources.files("neuromech.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": words.number, "share": words.share, "unbroken": words.unbroken}
    return environment.from_string(template).render(
        tone=tone,
        headline=headline,
        model=meta.get("model") or "model",
        facts=story.run_facts(meta, steps, record.sessions),
        n_steps=n_steps,
        laws=[{**row, "title": LAWS[row["law"]][0], "what": LAWS[row["law"]][1]} for row in law_table(found)],
        overview=_embedded(overview) if overview else None,
        forecasts=foreseen,
        remarks=remarks(foreseen),
        kinds=[_kind(kind, fs, n_steps) for kind, fs in by_kind(found).items()],
        shown=SHOWN,
        legend=_legend(found),
        monitored=faults.verdict(told, n_steps) if told or "monitor" in meta else "",
        faults=told,
        terms=[
            {"title": TERMS[name][0], "colour": TERMS[name][1]}
            for name in visible([f.terms[f.terms["member"] < 0] for f in found])
        ],
        caveats=story.caveats(meta, found),
        completeness=story.completeness(meta, n_steps, found),
        opaque=[{"op": "?", "module": "", "why": "", "blocks": ()} | o for o in meta.get("opaque") or ()],
        rejected=[
            {"name": "?", "reason": ""} | r | {"defect": measured(r.get("defect"))} for r in meta.get("rejected") or ()
        ],
        inactive=meta.get("inactive") or (),
        notes=[n for n in meta.get("notes") or () if n not in str(meta.get("loss"))],
        events=_events(events),
        confidence=CONFIDENCE,
        operations=LAW_OPERATIONS,
        version=meta.get("neuromech") or "",
    )


def _kind(kind: str, found: Sequence[FamilyRecord], n_steps: int) -> dict[str, Any]:
    title, what = KINDS.get(kind, (kind.capitalize(), ""))
    return {
        "title": title,
        "what": what,
        "members": sum(f.size for f in found),
        "families": [
            {"family": f, "figure": _embedded(figures.family_figure(f)) if n_steps and len(f.whole) else None}
            for f in found
        ],
    }


def _embedded(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode()


def _legend(found: Sequence[FamilyRecord]) -> list[dict[str, Any]]:
    """The laws that are drawn, with how."""
    drawn = [law for law in LAWS if any(f.distances[law].notna().any() for f in found)]
    if not any(f.broken_by or f.kind == "translation" for f in found) and "exact" in drawn and "ideal" in drawn:
        drawn.remove("ideal")
    dashes = {
        law: "" if style == "-" else " ".join(f"{2 * x:g}" for x in style[1]) for law, style in figures.STYLES.items()
    }
    return [{"title": LAWS[law][0], "colour": figures.COLOURS[law], "dashes": dashes[law]} for law in drawn]


def _events(events: Any) -> list[Mapping[str, Any]]:
    return events.reindex(columns=["step", "kind", "message"]).to_dict("records") if len(events) else []
