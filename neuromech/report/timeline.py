"""What happened in a run, step by step: what is said to be wrong with it, and the events of its records."""

from __future__ import annotations

import math
import re
from typing import Any

from neuromech.report.facts import RunFacts
from neuromech.report.statements import Judgement

EVENTS = 200  # that are listed


def happened(facts: RunFacts, judged: Judgement) -> list[dict[str, Any]]:
    """Findings and events by step."""
    wrong = [s for s in judged.wrong if s.key != "limit"]
    out: list[dict[str, Any]] = []
    out += [{"step": s.step, "tone": s.tone, "text": s.beside or s.text, "do": s.do} for s in wrong]
    still = [s for s in judged.statements if s.key in ("running", "interrupted")]
    out += [{"step": s.step, "tone": "none", "text": s.text, "do": ""} for s in still]
    told = {"fault"} | ({"no forward", "nothing measured"} if facts.looked else set())
    told |= {"none found"} if judged.has("nothing") else set()
    told |= {"nothing measured", "no forward"} if judged.has("not finite") else set()
    told |= {"non-finite"} if judged.has("not finite") else set()
    changed = [s.step for s in wrong if s.key == "changed"]
    again = (facts.events["kind"] == "changed") & facts.events["step"].isin(changed)
    events = facts.events[~facts.events["kind"].isin(told) & ~again].drop_duplicates(["step", "message"])
    for row in events.head(EVENTS).itertuples():
        step = int(row.step) if math.isfinite(float(row.step)) else None  # type: ignore[arg-type]
        out.append({"step": step, "tone": "none", "text": sentence(str(row.message), step), "do": ""})
    if len(events) > EVENTS:
        out.append({"step": None, "tone": "none", "text": f"{len(events) - EVENTS:,} more events", "do": ""})
    out.sort(key=lambda e: (e["step"] is None, e["step"] or 0, e["tone"] != "bad"))
    advised: set[str] = set()  # the same advice is given once
    for e in out:
        e["do"], do = ("" if e["do"] in advised else e["do"]), e["do"]
        advised.add(do)
    return out


def sentence(text: str, step: int | None = None) -> str:
    """As it stands in a list of its own; where the step stands before it, it is not told again."""
    text = re.sub(r"^(step \d+: |from step \d+ on,? )", "", text.strip())
    if step is not None:
        text = re.sub(rf"from step {step} on\b", "from here on", text)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
