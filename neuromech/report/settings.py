"""What was run and how: facts as (label, value), all settings of optimizers by group, the user's own configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from neuromech.detect import compressed
from neuromech.report.facts import RunFacts, when
from neuromech.report.words import exactly, listing, many, number

SHOWN = 6  # names of parameters of a group
CONFIG = 200  # entries of the user's configuration


def about(facts: RunFacts) -> list[tuple[str, str]]:
    """What was run; what is not known is left out."""
    meta, end = facts.meta, facts.ending
    session: Mapping[str, Any] = facts.sessions[-1] if facts.sessions else {}
    process: Mapping[str, Any] = session.get("process") or {}
    out = [("name", meta.get("name")), ("model", meta.get("model"))]
    out += [("parameters", f"{int(meta['parameters']):,}" if str(meta.get("parameters", "")).isdigit() else None)]
    out += [("number format", meta.get("dtype")), ("autocast", meta.get("autocast")), ("device", meta.get("device"))]
    out += [("loss", meta.get("loss")), ("steps", f"{facts.n_steps:,}")]
    out += [("time", _time(facts)), ("started", when(facts.sessions[0].get("started")) if facts.sessions else None)]
    out += [("last seen", end.last), ("duration", _duration(end.seconds)), ("a step took", _step(facts))]
    if not math.isnan(end.measuring):
        out.append(("measuring took", f"{100 * end.measuring:.1f} % of the time"))
    out += [("recorded", _recorded(meta))]
    if len(facts.sessions) > 1:
        out.append(("sessions", f"{len(facts.sessions)}, resumed {many(len(facts.sessions) - 1, 'time')}"))
    out += [("command", process.get("command")), ("directory", process.get("directory")), ("host", process.get("host"))]
    out += [("commit", process.get("commit"))]
    versions = [f"{k} {meta[k]}" for k in ("neuromech", "torch", "python") if meta.get(k)]
    out.append(("versions", ", ".join(versions)))
    config = meta.get("config")
    if isinstance(config, Mapping):
        out += [(f"config: {k}", str(v)) for k, v in list(config.items())[:CONFIG]]
    return [(label, str(value)) for label, value in out if value not in (None, "")]


def optimizers(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each optimizer with every setting of every group that differs or matters."""
    out = []
    for o in meta.get("optimizers") or ():
        groups = []
        for g in o.get("groups") or ():
            names = compressed(map(str, g.get("names") or ()))
            which = (
                listing(names) if len(names) <= SHOWN else f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
            )
            said = [f"{k.replace('_', ' ')} {_value(v)}" for k, v in g.items() if k not in ("parameters", "names")]
            groups.append(
                {"which": which or many(int(g.get("parameters") or 0), "tensor"), "settings": ", ".join(said)}
            )
        wrapper = o.get("wrapper") or {}
        how = ", ".join(f"{k} {wrapper[k]}" for k in ("order", "follow", "backend") if k in wrapper)
        inside = f"{wrapper.get('class')} ({how}) of "
        out.append({"class": (inside if wrapper else "") + str(o.get("class") or "?"), "groups": groups})
    return out


def _value(x: Any) -> str:
    return exactly(x) if isinstance(x, (int, float)) and not isinstance(x, bool) else str(x)


def _time(facts: RunFacts) -> str | None:
    if not len(facts.steps) or "time" not in facts.steps:
        return None
    several = "optimizer" in facts.steps and facts.steps.loc[facts.steps["step"] > 0, "optimizer"].nunique() > 1
    whose = "the first groups of all optimizers" if several else "the first group"
    return f"{number(float(facts.steps['time'].max()))} (sum of the learning rates of {whose})"


def _recorded(meta: Mapping[str, Any]) -> str | None:
    if "every" not in meta:
        return None
    every, members = int(meta["every"] or 1), meta.get("members")
    of = "all members" if members is None else f"{members} members of each family singly"
    return f"every step, {of}" if every == 1 else f"one step in {every}, {of}"


def _duration(seconds: float) -> str | None:
    if math.isnan(seconds):
        return None
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _step(facts: RunFacts) -> str | None:
    seconds = facts.ending.seconds
    if math.isnan(seconds) or facts.n_steps == 0 or len(facts.sessions) > 1:
        return None
    each = seconds / facts.n_steps
    return f"{each:.2f} s on average" if each >= 1 else f"{1e3 * each:.3g} ms on average"
