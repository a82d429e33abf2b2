"""Does the loss have terms of its own in the weights? The gradient of the model alone, computed once more, tells.

A penalty (L1, L2, orthogonality, the distance from kept weights, ...) breaks symmetries as a wrong backward does. But
what reaches the weights by way of the model can be had a second time: a forward again, and the gradients that its
outputs received sent back through it. If that gradient leaves the loss where its symmetries do, and the gradient of the
step does not, then the rest is not part of the model: a term of the loss.

One forward is enough. Those that share its step, other micro-batches, other forwards of one loss, other processes, add
to the gradient and nothing to its torques, which are linear in it: a torque is the term's alone. If nothing else has
added to the gradient, the rest is the term's gradient, and tells its size and form parameter by parameter; else the
torques tell in which families it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.checks.gradients import CLEAR, TorqueCheck
from neuromech.monitor.evidence import Broken, Evidence, Penalty
from neuromech.monitor.facts import Step
from neuromech.monitor.model_gradient import ModelGradient
from neuromech.monitor.torque import TorqueJudge, TorqueMeter, Torques
from neuromech.params import dot, norm

HALF = 0.5  # of the digits
SAME = 0.9  # the cosine between two steps of what depends on weights alone
LIKE = 3.0  # times the other's length, at most


class _Seen(NamedTuple):
    """Of one step: its torques, and what the model did not explain of its gradients; {}: that is not known."""

    torques: Torques
    rest: dict[str, Tensor]
    asked: bool = True  # the model


class PenaltyCheck:
    """Asks of every torque whether a term of the loss explains it.

    The answer takes two steps: a term of the loss depends on the weights, which hardly change, so its torques must be
    the same twice. Those of a backward that is wrong by chance are not. Only where whole families are violated, and
    nothing explains it yet, is a fault waited with; what single members show is told at once, unless a term is known.
    """

    def __init__(self, torque: TorqueCheck, gradient: ModelGradient | None, declared: bool = False) -> None:
        """`declared`: there are such terms, so that what is the same twice is one where the model cannot be asked."""
        self._torque, self._gradient, self._declared = torque, gradient, declared
        self._waiting: Evidence | None = None
        self._last: _Seen | None = None  # of the step before
        self._asked = False
        self._met = declared  # a term of the loss
        self._forms: set[tuple[str, float]] = set()  # of the terms that were met, with their coefficients

    def before(self, step: Step) -> Evidence:
        found = self._beyond_known_terms(self._torque.before(step), step)
        if self._torque.piled(step):  # what gradients hold beside the model's is of earlier steps, and no term's
            held, self._waiting, self._asked, self._last = self._waiting, None, False, None
            return found if held is None else held | found
        if self._gradient is None and not self._declared:
            return found
        if self._asked or (found.since_start and step.number == 1):  # whose forward is there
            return self._answered(found, step)
        met = self._met or found.since_start
        known = (found.penalty is not None and not met) or found.delayed or found.between or found.cut
        if not found.torques or known or not (met or _whole_or_faint(found)):
            return found
        torques = _judged(step)
        return self._wait(found, None if torques is None else _Seen(torques, {}, asked=False))

    def after(self, step: Step) -> Evidence:
        return self._torque.after(step)

    def _beyond_known_terms(self, found: Evidence, step: Step) -> Evidence:
        """Without the families in which a term shows that was met elsewhere: until now its trace there was zero."""
        torques = _judged(step)
        if not (found.torques and self._forms and torques is not None):
            return found
        meter, params = self._torque.meter, self._torque.params
        shown = _shown(params)
        traces = [factor * meter(params, shown[form]).torque for form, factor in self._forms]

        def explained(i: int) -> bool:
            rows = meter.slices[i]
            return i >= 0 and any(_is(torques.torque[rows], t[rows], step.eps) for t in traces)

        return _left(found, [b for b in found.torques if not explained(b.index)])

    def _wait(self, found: Evidence, seen: _Seen | None) -> Evidence:
        """Hold the torques back until the next step."""
        if self._gradient is not None:
            self._gradient.ask()
        self._asked, self._last = True, seen
        self._waiting = found if self._waiting is None else self._waiting | found
        return replace(found, torques=(), penalty=None)

    def _answered(self, found: Evidence, step: Step) -> Evidence:
        self._asked, last, self._last = False, self._last, None
        seen = self._seen(found, step)
        both = (self._waiting or NOTHING) | found
        steady = self._steady(both, seen, last) if seen and last else set()
        if seen is not None and (last is None or (steady and not last.asked)):
            return self._wait(found, seen)
        self._waiting = None
        if seen is None or last is None:
            return both
        meter, params = self._torque.meter, self._torque.params
        terms: Sequence[Penalty] = ()
        if seen.rest and last.rest and _alike(seen.rest, last.rest):
            by_name = penalties(seen.rest, step.grads, params, step.eps)
            steady |= {i for i, s in enumerate(meter.symmetries) if by_name.keys() & set(s.parameters)}
            terms = tuple(by_name.values())
        elif steady:
            terms = terms_by_torque(sorted(steady), seen.torques, meter, params, step.eps)
        self._met = self._met or bool(terms)
        self._forms |= {(t.form, t.coefficient) for t in terms if t.form}
        self._torque.unjudged |= steady
        return replace(_left(both, [b for b in both.torques if b.index not in steady]), terms=tuple(terms))

    def _seen(self, found: Evidence, step: Step) -> _Seen | None:
        """None if the model's own gradient leaves the loss alone no more than that of the step, or is not to be had."""
        alone = self._gradient() if self._gradient is not None else None
        torques = _judged(step)
        if torques is None:
            return None
        if alone is None:
            return _Seen(torques, {}) if self._declared else None
        meter, params = self._torque.meter, self._torque.params
        excess = TorqueJudge(meter)(meter(params, alone), step.eps)
        broken = {b.index for b in ((self._waiting or NOTHING) | found).torques}
        if any(i < 0 or bool((excess[meter.slices[i]] > 1).any()) for i in broken):
            return None
        if step.changed or step.elsewhere:
            return _Seen(torques, {})
        rest = {n: g.to_dense() - alone[n] if n in alone else g.to_dense() for n, g in step.grads.items()}
        return _Seen(torques, rest)

    def _steady(self, found: Evidence, seen: _Seen, last: _Seen) -> set[int]:
        """The families that are violated in the same way twice."""
        broken = {b.index for b in found.torques if b.index >= 0}
        now, before = seen.torques.torque, last.torques.torque
        return {i for i in broken if _same(now[self._torque.meter.slices[i]], before[self._torque.meter.slices[i]])}


def _left(found: Evidence, torques: Sequence[Broken]) -> Evidence:
    """What is left of a finding where these torques are."""
    kept = found if torques else replace(found, penalty=None, cut=(), delayed=False, between=False)
    return replace(kept, torques=tuple(torques))


def _whole_or_faint(found: Evidence) -> bool:
    return max(b.excess for b in found.torques) < CLEAR or any(b.members == b.size for b in found.torques)


def _judged(step: Step) -> Torques | None:
    """The torques that a step was judged by: of its gradients as the backward left them."""
    raw = step.backward
    return raw.torques if raw is not None and raw.judged else step.torques


def _alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """True if both point the same way."""
    return float(dot(a, b)) > SAME * float(norm(a)) * float(norm(b))


def _same(a: Tensor, b: Tensor) -> bool:
    """True if both point the same way, and are about as long."""
    x, y = float(a.norm()), float(b.norm())
    return float(a @ b) > SAME * x * y and max(x, y) <= LIKE * min(x, y)


def terms_by_torque(
    families: Sequence[int], found: Torques, meter: TorqueMeter, params: Mapping[str, Tensor], eps: float
) -> tuple[Penalty, ...]:
    """The terms of a loss that leave these torques in `families`: of what form, and how large at least."""
    rows = torch.cat([torch.arange(meter.slices[i].start, meter.slices[i].stop) for i in families])
    rows = rows.to(found.torque.device)
    traces = {form: meter(params, g).torque[rows] for form, g in _shown(params).items()}
    form, factor = _form(found.torque[rows], traces, eps)
    share = (found.torque.abs() / found.size.clamp(min=torch.finfo(torch.float64).tiny)).cpu()
    out: dict[str, float] = {}
    for i in families:
        for name in meter.symmetries[i].parameters:
            out[name] = max(out.get(name, 0.0), float(share[meter.slices[i]].max()))
    return tuple(Penalty(name, form, factor, x, at_least=True) for name, x in out.items())


def penalties(
    rest: Mapping[str, Tensor], grads: Mapping[str, Tensor], params: Mapping[str, Tensor], eps: float
) -> dict[str, Penalty]:
    """The parameters whose gradient has a `rest` that the model does not explain: of what form, and how large."""
    out: dict[str, Penalty] = {}
    for name, r in rest.items():
        size = float(r.double().norm())
        whole = float(grads[name].to_dense().double().norm())
        if size > eps**HALF * whole:
            theta = params[name].detach().double()
            out[name] = Penalty(name, *_form(r.double(), {"L1": theta.sign(), "L2": theta}, eps), size / whole)
    return out


def _form(r: Tensor, candidates: Mapping[str, Tensor], eps: float) -> tuple[str, float]:
    """("L1" | "L2" | "", coefficient): what a term's trace is a multiple of, up to half of the digits."""
    for form, x in candidates.items():
        square = float((x * x).sum())
        factor = float((r * x).sum()) / square if square else 0.0
        if factor and _is(r, factor * x, eps):
            return form, factor
    return "", 0.0


def _shown(params: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The gradients of the terms whose form is known, at a coefficient of one."""
    theta = {n: p.detach() for n, p in params.items()}
    return {"L1": {n: t.sign() for n, t in theta.items()}, "L2": theta}


def _is(found: Tensor, trace: Tensor, eps: float) -> bool:
    """True if both are the same, up to half of the digits."""
    return bool((found - trace).norm() <= eps**HALF * 8 * found.norm())
