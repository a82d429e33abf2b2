"""Does the loss have terms of its own in the weights? The gradient of the model alone, computed once more, tells.

A penalty (L1, L2, orthogonality, the distance from kept weights, ...) breaks symmetries as a wrong backward does. But
what reaches the weights by way of the model can be had a second time: the first forward again, and the gradients that
its outputs received sent back through it. If that gradient leaves the loss where its symmetries do, and the gradient
of the step does not, then the rest is no part of the model: a term of the loss, its size and form known by parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from neuromech.monitor.checks.gradients import TorqueCheck
from neuromech.monitor.evidence import Evidence, Penalty
from neuromech.monitor.facts import Step
from neuromech.monitor.sample import Sample
from neuromech.monitor.torque import TorqueJudge

Gradient = Callable[[], dict[str, Tensor] | None]
HALF = 0.5  # of the digits


class PenaltyCheck:
    """Explains the torques of the first step, if a term of the loss does."""

    def __init__(self, sample: Sample, gradient: Gradient) -> None:
        self._sample, self._gradient = sample, gradient

    def explain(self, found: Evidence, step: Step, torque: TorqueCheck) -> Evidence:
        """`found` without the torques that a term of the loss explains; from now on they are not judged."""
        if not any(b.index >= 0 for b in found.torques) or step.changed or step.elsewhere:
            return found
        alone = self._gradient()
        if alone is None:
            return found
        meter = torque.meter
        params = torque.params
        excess = TorqueJudge(meter)(meter(params, alone), step.eps)
        rest = {n: g.to_dense() - alone[n] if n in alone else g.to_dense() for n, g in step.grads.items()}
        terms = penalties(rest, step.grads, params, step.eps)
        broken = {b.index for b in found.torques if b.index >= 0}
        explained = {
            i for i in broken
            if not bool((excess[meter.slices[i]] > 1).any()) and terms.keys() & set(meter.symmetries[i].parameters)
        }  # fmt: skip
        if not explained:
            return found
        named = {i for i, s in enumerate(meter.symmetries) if terms.keys() & set(s.parameters)}
        torque.unjudged |= named
        left = tuple(b for b in found.torques if b.index not in explained)
        kept = found if left else replace(found, penalty=None, cut=(), delayed=False, between=False)
        return replace(kept, torques=left, terms=tuple(terms.values()))


def penalties(
    rest: Mapping[str, Tensor], grads: Mapping[str, Tensor], params: Mapping[str, Tensor], eps: float
) -> dict[str, Penalty]:
    """The parameters whose gradient has a `rest` that the model does not explain: of what form, and how large."""
    out: dict[str, Penalty] = {}
    for name, r in rest.items():
        size = float(r.double().norm())
        whole = float(grads[name].to_dense().double().norm())
        if size > eps**HALF * whole:
            out[name] = Penalty(name, *_form(r.double(), params[name].detach().double(), eps), size / whole)
    return out


def _form(r: Tensor, theta: Tensor, eps: float) -> tuple[str, float]:
    """("L1" | "L2" | "", coefficient): what a term's gradient is a multiple of, up to half of the digits."""
    for form, x in (("L1", theta.sign()), ("L2", theta)):
        square = float((x * x).sum())
        factor = float((r * x).sum()) / square if square else 0.0
        if factor and float((r - factor * x).norm()) <= eps**HALF * 8 * float(r.norm()):
            return form, factor
    return "", 0.0
