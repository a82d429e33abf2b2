"""Several runs beside each other: settings that differ, how each went, and the first step at which charges part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neuromech.record import Run
from neuromech.report import curves
from neuromech.report.canvas import corners, drawable
from neuromech.report.facts import RunFacts, gather
from neuromech.report.judgement import decide
from neuromech.report.rendering import rendered
from neuromech.report.statements import SAYS
from neuromech.report.words import many, number, share
from neuromech.rounding import eps_of, rounding_bound

CHARTS = 40
VERSIONS = ("torch", "neuromech", "python")
DASHES = ("exact", "continuous", "flow", "ideal")


@dataclass(frozen=True)
class Parting:
    """The first recorded step at which a charge of two runs differs by more than rounding explains; None: never
    until step `until`, the last that both have recorded (0: they share none)."""

    first: str
    second: str
    family: str
    step: int | None
    by: float
    until: int = 0


@dataclass(frozen=True)
class Comparison:
    """`settings`: (name, value in each run) where they differ; `partings`: for each pair, the earliest."""

    runs: tuple[str, ...]
    headlines: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    partings: tuple[Parting, ...]
    shared: int

    @property
    def verdicts(self) -> list[tuple[str, tuple[str, str]]]:
        """Name of each run, with tone and headline."""
        return list(zip(self.runs, self.headlines, strict=True))

    def data(self) -> dict[str, Any]:
        return {
            "runs": [{"run": r, "tone": t, "headline": h} for r, (t, h) in zip(self.runs, self.headlines, strict=True)],
            "settings": {name: dict(zip(self.runs, values, strict=True)) for name, values in self.settings},
            "partings": [vars(p) for p in self.partings],
            "shared families": self.shared,
        }

    def __str__(self) -> str:
        lines = [f"{run}: {text}" for run, (_, text) in zip(self.runs, self.headlines, strict=True)]
        lines += ["", "settings that differ:" if self.settings else "no recorded setting differs"]
        lines += [f"  {name}: {' | '.join(values)}" for name, values in self.settings]
        lines += ["", f"{many(self.shared, 'family', 'families')} in common"]
        lines += [f"  {told(p)}" for p in self.partings]
        return "\n".join(lines)


def told(p: Parting) -> str:
    pair = f"{p.first} and {p.second}"
    if not p.family:
        return f"{pair}: no family in common"
    if p.step is None:
        if not p.until:
            return f"{pair}: no step was recorded in both"
        until = f"until step {p.until:,}, the last of both records"
        return f"{pair}: no charge parts by more than rounding explains {until}"
    how = f"differs by {share(p.by)}" if math.isfinite(p.by) else "is NaN or infinite in one of them"
    return f"{pair} part at step {p.step:,}: {p.family} {how}"


def compare_runs(runs: Mapping[str, Run]) -> Comparison:
    """By name of the run."""
    facts = {name: gather(run) for name, run in runs.items()}
    common = set.intersection(*({f.name for f in x.families} for x in facts.values()))
    pairs = itertools.combinations(facts, 2)
    judged = {name: decide(x) for name, x in facts.items()}
    return Comparison(
        runs=tuple(facts),
        headlines=tuple((judged[name].tone, judged[name].headline) for name in facts),
        settings=tuple(_differing({name: _flat(x.meta) for name, x in facts.items()})),
        partings=tuple(_parting(a, b, facts[a], facts[b]) for a, b in pairs),
        shared=len(common),
    )


def _flat(meta: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a run by name."""
    keys = (
        "model",
        "parameters",
        "dtype",
        "device",
        "autocast",
        "loss",
        "every",
        "members",
        "torch",
        "neuromech",
        "python",
    )
    out = {key: str(meta[key]) for key in keys if meta.get(key) is not None}
    config = meta.get("config")
    out |= {f"config.{k}": str(v) for k, v in config.items()} if isinstance(config, Mapping) else {}
    for i, o in enumerate(meta.get("optimizers") or ()):
        out[f"optimizer {i}"] = str(o.get("class"))
        for j, g in enumerate(o.get("groups") or ()):
            out |= {f"optimizer {i} group {j} {k}": str(v) for k, v in g.items() if k != "names"}
    return out


def _differing(flat: Mapping[str, Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    keys = dict.fromkeys(k for one in flat.values() for k in one)
    rows = [(k, tuple(one.get(k, "–") for one in flat.values())) for k in keys]
    return [(k, values) for k, values in rows if len(set(values)) > 1]


def _parting(a: str, b: str, one: RunFacts, other: RunFacts) -> Parting:
    mine = {f.name: f for f in one.families if len(f.whole)}
    best = Parting(a, b, "", None, math.nan)
    for f in other.families:
        if f.name not in mine or not len(f.whole):
            continue
        best = best if best.family else Parting(a, b, f.name, None, math.nan)
        columns = ["step", "observed", "scale"]
        rows = mine[f.name].whole[columns].merge(f.whole[columns], on="step", suffixes=("", "_other"))
        if rows.empty:
            continue
        best = replace(best, until=max(best.until, int(rows["step"].max())))
        larger = np.fmax(rows["scale"].to_numpy(float), rows["scale_other"].to_numpy(float))
        scale = np.fmax.accumulate(larger)
        x, y = rows["observed"].to_numpy(float), rows["observed_other"].to_numpy(float)
        alike = (x == y) | ~(np.isfinite(x) | np.isfinite(y))
        with np.errstate(all="ignore"):
            off = np.where(alike, 0.0, np.abs(x - y) / scale)
        eps = eps_of(f.dtype)
        beyond = ~(off <= rounding_bound(rows["step"].to_numpy(float), 1e-7 if math.isnan(eps) else eps))
        if beyond.any():
            k = int(np.argmax(beyond))
            step = int(rows["step"].iloc[k])
            if best.step is None or (step, -off[k]) < (best.step, -best.by):
                best = replace(best, family=f.name, step=step, by=float(off[k]))
    return best


def comparison_page(runs: Mapping[str, Run], compared: Comparison) -> str:
    """A page with losses and charges of all runs overlaid."""
    facts = {name: gather(run) for name, run in runs.items()}
    charts = [c for c in [_chart("loss", "loss", {n: _series(x.loss) for n, x in facts.items()})] if c]
    families = {n: {f.name: f for f in x.families if len(f.whole)} for n, x in facts.items()}
    for family in list(dict.fromkeys(f for own in families.values() for f in own))[:CHARTS]:
        lines = {n: _series(own[family].whole, "observed") for n, own in families.items() if family in own}
        charts += [c for c in [_chart(f"Charge: {family}", "charge", lines)] if c]
    return rendered(
        "comparison",
        {"metrics": [], "marks": [], "causes": {}, "layers": [], "families": [], "overlays": charts},
        compared=compared,
        partings=[told(p) for p in compared.partings],
        says=SAYS,
    )


def _series(rows: Any, column: str = "value") -> tuple[np.ndarray, np.ndarray] | None:
    if rows is None or len(rows) < 2:
        return None
    x, y = rows["step"].to_numpy(float), drawable(rows[column])
    shown = corners(y)
    return x[shown], y[shown]


def _chart(title: str, unit: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray] | None]) -> dict[str, Any] | None:
    known = {name: line for name, line in lines.items() if line is not None}
    if not known:
        return None
    alt = "; ".join(f"{name}: {curves.told(*line)}" for name, line in known.items())
    ends = [float(y[-1]) for _, y in known.values() if np.isfinite(y[-1])]
    return {
        "title": title,
        "unit": unit,
        "alt": f"{title}. {alt}.",
        "note": f"ends at {', '.join(number(e) for e in ends)}" if ends else "",
        "lines": [
            {"step": curves.packed(x), "value": curves.packed(y), "label": name, "style": DASHES[i % len(DASHES)]}
            for i, (name, (x, y)) in enumerate(known.items())
        ],
    }
