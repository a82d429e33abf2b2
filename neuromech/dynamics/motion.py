"""A torch optimizer read as mechanics: how the next step moves each parameter.

SGD is followed exactly (`Settings`: see optimizers/sgd.py). Seen from afar it is a damped particle in t = sum of lr
(Kunin et al. 2021, sec. 5, for heavy ball; the factors, for every variant, by matching the multistep rule to second
order in lr):

    mass theta'' + (friction + lr * lookahead * Hessian) theta' + force G = 0

The step of every other optimizer is a `Drift`, theta+ = decay theta - rate u. Its direction u is rebuilt from the
optimizer's own buffers by the formula of its rule; the weights enter it only where the optimizer itself puts them:
coupled weight decay behind a preconditioner, and the relative step size of Adafactor. A step that does something else
than its optimizer says is thus found out by the charges.

    early   u from the state before the step and the gradient
    late    u from the state after the step, where its buffers say all; this reads less memory
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.dynamics.discrete import DisplacementForms
from neuromech.dynamics.forms.vectors import Computed
from neuromech.dynamics.updates import Moving, taught
from neuromech.optimizers import ParameterReader, Rule, decay_factor, grad_scale, rule_of, settings_of, skips
from neuromech.optimizers import Settings as Settings

Regime = Literal["free", "overdamped", "critical", "underdamped"]


def regime(gamma: float, omega2: float) -> Regime:
    """How x'' + 2 gamma x' + omega2 x = 0 comes to rest. "critical" is meant up to rounding.

    "free": without a spring (no weight decay) the charge does not return at all.
    """
    if omega2 == 0:
        return "free"
    discriminant = gamma * gamma - omega2
    if abs(discriminant) <= 8 * torch.finfo(torch.float64).eps * gamma * gamma:
        return "critical"
    return "overdamped" if discriminant > 0 else "underdamped"


@dataclass(frozen=True)
class Drift:
    """One step of an optimizer other than SGD: theta+ = decay * theta - rate * u; `late`: u is known after the step.

    `flow`: of the SGD whose gradient flow the step was put on; what turns it there is then no torque of the loss.
    """

    decay: float = 1.0
    rate: float = 1.0
    late: bool = True
    flow: Settings | None = None


class Motion(NamedTuple):
    """How one parameter is about to move: by SGD, with its buffer before the step, or by a `Drift` along `direction`.

    A drift without a direction is one of an optimizer that nothing is known of: its displacement is measured.
    """

    settings: Settings | Drift
    buffer: Tensor | None = None
    direction: Computed | None = None

    @property
    def first(self) -> bool:
        """True if this step makes the momentum buffer."""
        return isinstance(self.settings, Settings) and self.settings.momentum != 0 and self.buffer is None


Law = Literal["exact", "rebuilt", "measured"]


def law_of(optimizer: Optimizer) -> Law:
    """What is known of the steps of an optimizer.

    "exact": SGD, where symmetries protect what the law does not measure. "rebuilt": the update is rebuilt from the
    optimizer's state, and the torque with which it breaks the symmetry is measured. "measured": nothing; the
    displacement itself is measured, and the law is an identity that balances the books.
    """
    if taught(optimizer) is not None:
        return "rebuilt"
    rule = None if _on_flow(optimizer) else rule_of(optimizer)
    return "measured" if rule is None else "exact" if rule.exact else "rebuilt"


def read(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Motion]:
    """The motion that the next step of `optimizer` gives to each parameter of `names` (parameter -> its name).

    A parameter that the optimizer does not hold, or that has no gradient, does not move and is left out.
    """
    if skips(optimizer):
        return {}
    rule, own, scale = rule_of(optimizer), taught(optimizer), grad_scale(optimizer)
    on_flow = _on_flow(optimizer)
    motions: dict[str, Motion] = {}
    for group in optimizer.param_groups:
        told: dict[torch.dtype, Settings] = {}
        for p in group["params"]:
            if p.grad is None or p not in names:
                continue
            if own is not None:
                update = own(Moving.of(optimizer, group, p, scale))
                motion = Motion(Drift(update.decay, update.rate, update.late), None, update.direction)
            elif rule is None:
                motion = Motion(Drift())
            elif rule.exact:
                if p.dtype not in told:
                    decay = decay_factor(group, p.dtype) if rule.decoupled(group) else None
                    told[p.dtype] = settings_of(group, scale, decay)
                if on_flow:
                    motion = Motion(Drift(flow=told[p.dtype]))
                else:
                    motion = Motion(told[p.dtype], optimizer.state.get(p, {}).get("momentum_buffer"))
            elif on_flow:
                motion = Motion(Drift())
            else:
                motion = _drift(rule, ParameterReader(rule, optimizer, group, p, scale))
            motions[names[p]] = motion
    return motions


def buffers(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The momentum buffers of SGD, by the names of their parameters."""
    if law_of(optimizer) != "exact":
        return {}
    held = {names[p]: state.get("momentum_buffer") for p, state in optimizer.state.items() if p in names}
    return {name: b for name, b in held.items() if b is not None}


def _on_flow(optimizer: Optimizer) -> bool:
    """The base of an `EoMOptimizer`: no symmetry of the loss protects the gradients that it is handed."""
    return bool(getattr(optimizer, "follows_flow", False))


def _drift(rule: Rule, reader: ParameterReader) -> Motion:
    e = reader.elements()
    if rule.late:
        direction = Computed(lambda w: rule.update(reader.elements(w), reader.after(w)), rule.local)
    else:
        direction = Computed(lambda w: rule.direction(reader.elements(w)), rule.local)
    return Motion(Drift(rule.decay(e), rule.rate(e), rule.late), None, direction)


def displacement_of(drift: Drift, torque: Tensor, square: Tensor | float, degree: int) -> DisplacementForms:
    """What a drift along u brings, from <u, D theta> before the step and <u, D u>, or from both after it.

    After it theta+ = a theta - rate u stands in for theta: a <d, D theta> = <d, D theta+> + <d, D d>.
    """
    if drift.late:
        along, square = drift.rate * torque[0], drift.rate**2 * torque[1]
        return DisplacementForms(along + square, square)
    return DisplacementForms(drift.decay ** (degree - 1) * drift.rate * torque[0], drift.rate**2 * square)


def displacement(p: Tensor) -> Computed:
    """How far a parameter will have been moved back from where it is now: a copy of it is kept."""
    before = p.detach().clone()
    return Computed(lambda w: w(before) - w(p))
