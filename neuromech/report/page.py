"""The page: one HTML file that needs nothing else, from any recorded run. Data once; figures are drawn when seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.detect import compressed
from neuromech.errors import RecordError
from neuromech.record import BACKWARDS, GRADIENT, LOSS, WEIGHTS, Run, read, refuse_link
from neuromech.report import curves, settings, words
from neuromech.report.advice import advice
from neuromech.report.canvas import corners, drawable
from neuromech.report.evidence import MEANING
from neuromech.report.facts import RunFacts, gather
from neuromech.report.family import FamilyRecord, measured
from neuromech.report.forecast_table import COLUMNS, OF_CHARGES
from neuromech.report.judgement import decide
from neuromech.report.layer_table import NONE, NOT_LOOKED, UNSOUGHT, causes, place, rows
from neuromech.report.layers import Layer, layers_of
from neuromech.report.no_symmetry import why_nothing
from neuromech.report.rendering import rendered
from neuromech.report.static_figure import curve
from neuromech.report.terms import titles
from neuromech.report.timeline import happened, sentence
from neuromech.report.words import number, share
from neuromech.rounding import CONFIDENCE, LAW_OPERATIONS, eps_of

if TYPE_CHECKING:
    import pandas as pd

MANY = 60  # families from which on curves have fewer points and no members
LONGEST = 400  # characters of a reason
OF_LOSS = ("the loss was given", "the loss was recognised")  # notes that stand among the settings
FORMULA = {
    "translation": "Σ w",
    "scale": "Σ w²",
    "rescale": "Σ w₁² − Σ w₂²",
    "matrix": "W₁W₁ᵀ − W₂ᵀW₂",
}
PILLS = {
    "finished": ("ok", "finished"),
    "raised": ("bad", "ended with an exception"),
    "interrupted": ("none", "interrupted"),
    "failed": ("mixed", "measuring stopped"),
    "killed": ("bad", "killed"),
    "running": ("none", "running when written"),
    "unknown": ("none", "no end seen"),
}


def write_report(record: Run | str | Path, path: str | Path, refresh: float = 0.0) -> Path:
    """Write the report of a run, given as its record or its directory, to `path`; returns the path.

    `refresh`: seconds after which the page loads itself anew, until someone has begun to use it; 0: never. What was
    read of the record stays with it for the next page then; else a long run is in memory but once.
    Raises `RecordError` if there is no run, or if `path` cannot be written or is a link in the run's own directory.
    """
    run = record if isinstance(record, Run) else read(record)
    path = Path(path).expanduser()
    refuse_link(path, run)
    return write(path, render(run, refresh > 0, refresh))


def write(path: Path, text: str) -> Path:
    """Raises `RecordError` if it cannot be written."""
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise RecordError(f"cannot write the report to {path}: {error}. Choose another file") from error
    return path


def render(record: Run, keep: bool = True, refresh: float = 0.0) -> str:
    """The report as HTML. `keep`: see `gather`; `refresh`: see `write_report`."""
    import markupsafe

    facts = gather(record, keep)
    judged = decide(facts)
    layers = layers_of(facts.meta, facts.families, facts.n_steps)
    metrics = _metrics(facts)
    data = _data(facts, layers, metrics)
    return rendered(
        "page",
        data,
        refresh=refresh,
        title=_title(record, facts),
        pill=PILLS[facts.ending.how],
        judged=judged,
        facts=facts,
        first=markupsafe.Markup(_first_figure(facts, metrics)),
        dashed=_dashed(data["marks"]),
        tiles=_tiles(facts),
        happened=happened(facts, judged),
        explained=(chosen := _explained(facts)),
        place=next(k for k, f in enumerate(facts.families) if f is chosen) if chosen else 0,
        rows=rows(layers, facts),
        causes=causes(layers, facts),
        names=titles(bool(facts.wrapper)),
        forecasts=facts.forecasts,
        columns=COLUMNS,
        charge_forecasts=facts.charge_forecasts,
        of_charges=OF_CHARGES,
        remarks=advice(facts.forecasts),
        others=len(metrics) > _several(metrics),
        opaque=[
            {"op": "?", "module": "", "why": ""} | dict(o) | {"blocks": compressed(map(str, o.get("blocks") or ()))}
            for o in facts.meta.get("opaque") or ()
        ],
        rejected=[
            {"name": "?", "reason": ""} | dict(r) | {"defect": measured(r.get("defect"))}
            for r in facts.meta.get("rejected") or ()
        ],
        inactive=compressed(map(str, facts.meta.get("inactive") or ())),
        notes=[sentence(n) for n in _notes(facts)],
        nothing=why_nothing(facts),
        about=settings.about(facts),
        optimizers=settings.optimizers(facts.meta),
        evidence=MEANING,
        confidence=CONFIDENCE,
        operations=LAW_OPERATIONS,
    )


def _notes(facts: RunFacts) -> list[str]:
    """What detection noted, without what stands elsewhere, and without how claims were tried where there are none."""
    tried = bool(facts.families or facts.meta.get("rejected"))
    without = OF_LOSS if tried else (*OF_LOSS, "verified")
    notes = [str(n) for n in facts.meta.get("notes") or () if not str(n).startswith(without)]
    return [f"What was found was {n}" if n.startswith("verified") else n for n in notes]


def _title(record: Run, facts: RunFacts) -> str:
    model = str(facts.meta.get("model") or "model")
    own = str(facts.meta.get("name") or (record.path.name if record.path else ""))
    return f"{own} ({model})" if own else model


# -- the data that figures are drawn from


def _data(facts: RunFacts, layers: Sequence[Layer], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    few = len(facts.families) > MANY
    marks = [{"step": f.step, "text": f.title} for f in facts.faults]
    marks += [{"step": int(s), "text": str(k), "soft": True} for s, k in _soft_marks(facts.events)]
    return {
        "metrics": metrics,
        "several": _several(metrics),
        "marks": marks[:60],
        "causes": titles(bool(facts.wrapper)),
        "none": NONE if facts.looked else UNSOUGHT,
        "layers": [
            {"name": x.name, "families": [place(facts, i) for i in x.families], "strip": x.strip} for x in layers
        ],
        "families": [_family(f, few) for f in facts.families],
    }


def _family(f: FamilyRecord, few: bool) -> dict[str, Any]:
    eps = eps_of(f.dtype)
    scale = f.whole["scale"].to_numpy(float)
    largest = float(np.nanmax(scale, initial=0.0)) if np.isfinite(scale).any() else 0.0
    return {
        "name": words.short(f.name)[:LONGEST],
        "kind": f.kind,
        "size": f.size,
        "formula": FORMULA.get(f.kind, "charge"),
        "reason": _short(f.reason),
        "defect": number(f.defect),
        "evidence": f.evidence,
        "text": f.verdict.text,
        "told": curves.told_of(f),
        "eps": None if math.isnan(eps) else eps,
        "least": 1e-3 * largest if math.isfinite(largest) else 0.0,  # lest rounding fill the panel
        "curves": curves.of_family(f, few) if len(f.whole) else None,
    }


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 2].rsplit(" ", 1)[0] + " …"


def _soft_marks(events: pd.DataFrame) -> list[tuple[float, str]]:
    kinds = ("settings", "changed", "non-finite", "failed")
    shown = events[events["kind"].isin(kinds)]
    return list(zip(shown["step"], shown["kind"], strict=True))


def _dashed(marks: Sequence[Mapping[str, Any]]) -> str:
    """What the dashed lines of the figures are."""
    if not marks:
        return ""
    kinds = {bool(m.get("soft")) for m in marks}
    said = "steps of faults" if kinds == {False} else "steps at which something happened"
    return (
        f"Dashed: {said if len(kinds) == 1 else 'red at steps of faults, grey at those of other events'}, told below."
    )


def _metrics(facts: RunFacts) -> list[dict[str, Any]]:
    """Everything that is a number a step, the loss first: packed, and told in words."""
    named = dict(facts.metrics)
    last = (WEIGHTS, GRADIENT)
    order = [n for n in (LOSS, *(n for n in named if n not in (LOSS, BACKWARDS, *last)), *last) if n in named]
    order.sort(key=lambda n: len(named[n]) < 2)
    out = [_metric(name, named[name]) for name in order]
    if {"step", "optimizer", "lr"} <= {*facts.steps}:
        for number_, rows in facts.steps[facts.steps["step"] > 0].groupby("optimizer"):
            if rows["lr"].nunique() < 2:
                continue  # which the tile says
            which = f" of optimizer {number_}" if facts.steps["optimizer"].nunique() > 1 else ""
            rate = rows.rename(columns={"lr": "value"})[["step", "value"]]
            out.append(_metric(f"learning rate{which}", rate) | {"rate": True, "log": False})
    return [m for m in out if m]


def _several(metrics: Sequence[Mapping[str, Any]]) -> int:
    """1 if the first of them was recorded at more than one step: then it is the first figure, else drawn below it."""
    return int(bool(metrics) and metrics[0]["points"] > 1 and not metrics[0].get("rate"))


def _metric(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    step, value = rows["step"].to_numpy(float), rows["value"].to_numpy(float)
    shown = corners(drawable(value))
    known = value[np.isfinite(value) & (np.abs(value) < 1e100)]
    log = bool(len(known) and known.min() > 0 and known.max() > 50 * known.min())
    text = curves.told(step, value)
    packed = {"step": curves.packed(step[shown]), "value": curves.packed(value[shown])}
    said = {"name": name, "title": f"{name.capitalize()} by step", "alt": f"{name}: {text}."}
    return packed | said | {"log": log, "points": len(rows)}


def _first_figure(facts: RunFacts, metrics: list[dict[str, Any]]) -> str:
    """The loss where there is one, else the first thing that is known at more than one step."""
    marks = [(float(f.step), f.title) for f in facts.faults]
    for m in metrics[:1]:
        rows = facts.metrics.get(m["name"])
        if rows is not None and len(rows) > 1:
            x, y = rows["step"].tolist(), rows["value"].tolist()
            return f"<figcaption>{escape(m['title'])}</figcaption>{curve(x, y, m['name'], m['alt'], marks, m['log'])}"
    for f in facts.families:
        if len(f.whole) > 1:
            x, y = f.whole["step"].tolist(), f.whole["observed"].tolist()
            title = escape(f"Charge: {words.short(f.name)[:LONGEST]}")
            picture = curve(
                x, y, FORMULA.get(f.kind, "charge"), f"Charge of {f.name}: {curves.told_of(f)}.", marks, False
            )
            return f"<figcaption>{title}</figcaption>{picture}"
    return ""


# -- what is said


def _tiles(facts: RunFacts) -> list[tuple[str, str, str]]:
    found = facts.families
    count = {e: sum(f.evidence == e and f.verdict.status != "empty" for f in found) for e in MEANING}
    broken, lost = (sum(f.verdict.status == status for f in found) for status in ("broken", "diverged"))
    worst = [
        f.verdict.worst for f in found if f.evidence not in ("measured", "unknown") and not math.isnan(f.verdict.worst)
    ]
    laws = [f"{n} {e}" for e, n in count.items() if n and e != "found"]
    families = words.many(len(found), "family", "families") if facts.looked else NOT_LOOKED[-1]
    out = [("symmetries found", families, _dimension(facts.meta) if found else "")]
    if found:
        none = "not readable" if facts.charges_lost else "none followed"
        out.append(("laws", ", ".join(laws) or none, "by what they rest on"))
    if found and facts.n_steps:
        of = f"of {sum(count.values()) - count['found']} followed" + (f"; {lost} not a number" if lost else "")
        out.append(("broken", str(broken) if laws else "–", of))
        out.append(("furthest off", share(max(worst)) if worst else "–", "relative, of laws that could have failed"))
    out += _rates(facts)
    found_faults = words.many(len(facts.faults), "fault") if facts.monitored else "not watched"
    since = f"watched from step {facts.unwatched + 1:,} on" if facts.unwatched else "watched from the first step on"
    out.append(("monitor", found_faults, since if facts.monitored else "probe.monitor() turns it on"))
    return out


def _rates(facts: RunFacts) -> list[tuple[str, str, str]]:
    """The learning rate of the first group of each optimizer."""
    if not {"step", "lr", "optimizer"} <= {*facts.steps}:
        return []
    taken = facts.steps[facts.steps["step"] > 0]
    known = facts.meta.get("optimizers") or ()
    out = []
    for i, rate in ((int(k), own) for k, own in taken.groupby("optimizer")["lr"]):  # type: ignore[arg-type]
        first, last, most = float(rate.iloc[0]), float(rate.iloc[-1]), float(rate.max())
        same = rate.nunique() == 1
        ends = "first and last step" + (f", {number(most)} at most" if most > max(first, last) else "")
        o = known[i] if i < len(known) else {}
        groups = o.get("groups") or ()
        of = f", of the first of {len(groups)} groups" if len({g.get("lr") for g in groups}) > 1 else ""
        which = f" of {o.get('class') or f'optimizer {i}'}" if taken["optimizer"].nunique() > 1 else ""
        text = words.exactly(first) + ("" if same else f" → {number(last)}")
        out.append((f"learning rate{which}", text, ("constant" if same else ends) + of))
    return out


def _dimension(meta: Mapping[str, Any]) -> str:
    if meta.get("rejected"):
        return ""  # some of them may be withdrawn
    known = {str(k): int(n) for k, n in (meta.get("dimension") or {}).items() if n}
    return ", ".join(f"{n:,} of {'mixing' if k == 'matrix' else k}" for k, n in known.items())


def _explained(facts: RunFacts) -> FamilyRecord | None:
    """The most instructive family: one that is broken, else the one that moved furthest and was predicted."""

    def moved(f: FamilyRecord) -> float:
        observed, scale = f.whole["observed"].to_numpy(float), f.whole["scale"].to_numpy(float)
        known = np.isfinite(observed) & np.isfinite(scale)
        if len(observed) < 2 or not known.any() or not scale[known].max() > 0:
            return -1.0
        with np.errstate(over="ignore"):
            return float(np.ptp(observed[known]) / scale[known].max())

    some = [f for f in facts.families if len(f.whole) > 1 and f.whole["observed"].notna().any()]
    strength = {"predicted": 3, "checked": 2, "measured": 1, "unknown": 1, "found": 0}
    return max(some, key=lambda f: (f.verdict.status == "broken", strength[f.evidence], moved(f)), default=None)
