"""The few numbers of a run that a logger should draw, from its records: those of `Probe.scalars`, by the same tags."""

from __future__ import annotations

import numpy as np

from neuromech.dynamics import spread
from neuromech.record import LOSS, NORMS
from neuromech.report.facts import RunFacts
from neuromech.report.norms import norms
from neuromech.report.outcome import followed

TURNS = ("norm", "update_to_weight", "angle", "effective_lr")


def newest(facts: RunFacts) -> dict[str, float]:
    """Of the last recorded step; how weights turn is the mean over the steps since the row before, of the last row."""
    logged = {
        tag: facts.metrics[name]["value"] for tag, name in ({LOSS: LOSS} | NORMS).items() if name in facts.metrics
    }
    out = {tag: float(values.iloc[-1]) for tag, values in logged.items() if len(values)}
    seen = [f for f in followed(facts) if len(f.whole)] if facts.n_steps else []
    for evidence in dict.fromkeys(f.evidence for f in seen):
        out[f"residual/{evidence}"] = max(float(f.whole["residual"].iloc[-1]) for f in seen if f.evidence == evidence)
    scales = [f for f in seen if f.kind == "scale"]
    last = norms(facts.meta, scales, facts.steps, facts.sides).groupby("symmetry").tail(1)
    lengths = [float(f.whole["observed"].iloc[-1]) for f in scales]
    for tag in TURNS:
        values = np.sqrt(np.maximum(lengths, 0.0)) if tag == "norm" else last[tag].to_numpy(float)
        out |= spread(tag, np.asarray(values, float))
    return out | ({"faults": float(len(facts.faults))} if facts.monitored else {})
