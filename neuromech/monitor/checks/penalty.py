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

from neuromech.monitor.checks.gradients import CLEAR, TorqueCheck
from neuromech.monitor.evidence import Evidence, Penalty
from neuromech.monitor.facts import Step
from neuromech.monitor.model_gradient import ModelGradient
from neuromech.monitor.torque import TorqueJudge

HALF = 0.5  # of the digits


class PenaltyCheck:
    """Asks of every torque whether a term of the loss explains it.

    At the first step the answer is at hand. Later the next forward is waited for, where whole families are violated
    and nothing explains it yet; what single members show is told at once.
    """

    def __init__(
        self, torque: TorqueCheck, gradient: ModelGradient | None, judge: Callable[[int, Evidence], None]
    ) -> None:
        """`judge`: is told what was waited with and is not explained, and of which step it is."""
        self._torque, self._gradient, self._judge = torque, gradient, judge
        self._waiting: tuple[int, Evidence] | None = None

    def before(self, step: Step) -> Evidence:
        found = self._torque.before(step)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            explained = self._explain(found, step)
            if not explained.terms:
                self._judge(*waiting)
            return explained
        if not found.torques or self._gradient is None:
            return found
        if found.since_start:
            return self._explain(found, step)
        known = found.penalty is not None or found.delayed or found.between or found.cut
        faint = max(b.excess for b in found.torques) < CLEAR
        if known or not (faint or any(b.members == b.size for b in found.torques)):
            return found
        self._gradient.ask()
        self._waiting = step.number, found
        return replace(found, torques=())

    def after(self, step: Step) -> Evidence:
        return self._torque.after(step)

    def _explain(self, found: Evidence, step: Step) -> Evidence:
        """`found` without the torques that a term of the loss explains; from now on they are not judged."""
        assert self._gradient is not None
        alone = self._gradient()
        if alone is None or not found.torques or step.changed or step.elsewhere:
            return found
        meter, params = self._torque.meter, self._torque.params
        excess = TorqueJudge(meter)(meter(params, alone), step.eps)
        rest = {n: g.to_dense() - alone[n] if n in alone else g.to_dense() for n, g in step.grads.items()}
        terms = penalties(rest, step.grads, params, step.eps)

        def explains(i: int) -> bool:
            own = terms.keys() & set(meter.symmetries[i].parameters)
            return bool(own) and not bool((excess[meter.slices[i]] > 1).any())

        explained = {b.index for b in found.torques if explains(b.index)}
        if not explained:
            return found
        self._torque.unjudged |= {i for i, s in enumerate(meter.symmetries) if terms.keys() & set(s.parameters)}
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
