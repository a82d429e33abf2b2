"""Does the loss have terms of its own in the weights? The gradient of the model alone, computed once more, tells.

A penalty (L1, L2, orthogonality, the distance from kept weights, ...) breaks symmetries as a wrong backward does. But
what reaches the weights by way of the model can be had a second time: the first forward again, and the gradients that
its outputs received sent back through it. If that gradient leaves the loss where its symmetries do, and the gradient
of the step does not, then the rest is no part of the model: a term of the loss, its size and form known by parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.checks.gradients import CLEAR, TorqueCheck
from neuromech.monitor.evidence import Evidence, Penalty
from neuromech.monitor.facts import Step
from neuromech.monitor.model_gradient import ModelGradient
from neuromech.monitor.torque import TorqueJudge
from neuromech.params import dot, norm

HALF = 0.5  # of the digits
SAME = 0.9  # the cosine between two steps of what depends on weights alone


class PenaltyCheck:
    """Asks of every torque whether a term of the loss explains it.

    The answer takes the model's own gradient at two steps: a term of the loss depends on the weights, which hardly
    change, so what the model does not explain must be the same twice. A backward that is wrong by chance is not. Only
    where whole families are violated, and nothing explains it yet, is a fault waited with; what single members show is
    told at once.
    """

    def __init__(self, torque: TorqueCheck, gradient: ModelGradient | None) -> None:
        self._torque, self._gradient = torque, gradient
        self._waiting: Evidence | None = None
        self._rest: dict[str, Tensor] | None = None  # what the model did not explain of the gradients of the last step
        self._asked = False

    def before(self, step: Step) -> Evidence:
        found = self._torque.before(step)
        if self._gradient is None:
            return found
        if self._asked or found.since_start:
            return self._answered(found, step, self._gradient)
        known = found.penalty is not None or found.delayed or found.between or found.cut
        faint = bool(found.torques) and max(b.excess for b in found.torques) < CLEAR
        if not found.torques or known or not (faint or any(b.members == b.size for b in found.torques)):
            return found
        return self._wait(found, self._gradient, None)

    def after(self, step: Step) -> Evidence:
        return self._torque.after(step)

    def _wait(self, found: Evidence, gradient: ModelGradient, rest: dict[str, Tensor] | None) -> Evidence:
        """Hold the torques back until the next step."""
        gradient.ask()
        self._asked, self._rest = True, rest
        self._waiting = found if self._waiting is None else self._waiting | found
        return replace(found, torques=(), penalty=None)

    def _answered(self, found: Evidence, step: Step, gradient: ModelGradient) -> Evidence:
        self._asked, last, self._rest = False, self._rest, None
        rest = self._unexplained(found, step, gradient)
        if rest is not None and last is None:
            return self._wait(found, gradient, rest)
        waiting, self._waiting = self._waiting or NOTHING, None
        if rest is None or last is None or not _alike(rest, last):
            return waiting | found
        terms = penalties(rest, step.grads, self._torque.params, step.eps)
        symmetries = self._torque.meter.symmetries
        self._torque.unjudged |= {i for i, s in enumerate(symmetries) if terms.keys() & set(s.parameters)}
        both = waiting | found
        left = tuple(b for b in both.torques if b.index not in self._torque.unjudged)
        kept = both if left else replace(both, penalty=None, cut=(), delayed=False, between=False)
        return replace(kept, torques=left, terms=tuple(terms.values()))

    def _unexplained(self, found: Evidence, step: Step, gradient: ModelGradient) -> dict[str, Tensor] | None:
        """What the model does not explain of the gradients, if its own share leaves the loss alone and they do not."""
        alone = gradient()
        if alone is None or not found.torques or step.changed or step.elsewhere:
            return None
        meter, params = self._torque.meter, self._torque.params
        excess = TorqueJudge(meter)(meter(params, alone), step.eps)
        broken = {b.index for b in found.torques}
        if any(i < 0 or bool((excess[meter.slices[i]] > 1).any()) for i in broken):
            return None
        return {n: g.to_dense() - alone[n] if n in alone else g.to_dense() for n, g in step.grads.items()}


def _alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """True if both point the same way."""
    return float(dot(a, b)) > SAME * float(norm(a)) * float(norm(b))


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
