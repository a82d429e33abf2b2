"""What an optimizer's step will do to one parameter, rebuilt from the optimizer's state: theta+ = decay theta - rate u.

A rule reads what the optimizer is told (its param group), its state and the gradient, and gives the `Update`. The
direction u is rebuilt from the optimizer's own buffers by the formula that its documentation states; the weights enter
it only where the optimizer itself puts them: coupled weight decay behind a preconditioner, and the relative step size
of Adafactor. A step that does something else than its optimizer says is thus found out by the charges.

    early   u from the state before the step and the gradient: Adagrad, RMSprop, NAdam, Lion, Muon, Adafactor
    late    u from the state after the step: Adam, AdamW, whose buffers say all; this reads less memory

`RULES` lists them by class, or by the name of a class that torch does not have; `register` adds one.

Sources: the `torch.optim` documentation of each class; Lion: Chen et al. 2023, algorithm 2.
"""

from __future__ import annotations

import ctypes
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromech.compat import muon_direction, muon_rate
from neuromech.dynamics.forms.vectors import Computed, Window

Group = Mapping[str, Any]
State = Mapping[str, Any]


class Update(NamedTuple):
    """theta+ = decay * theta - rate * u, with u computed when it is read; `late`: after the step."""

    decay: float
    rate: float
    direction: Computed
    late: bool = False


class Moving(NamedTuple):
    """What a rule is given: the param group, the state of the parameter (empty before its first step; looked up anew at
    every call), the parameter, and the gradient that the step follows, without weight decay."""

    group: Group
    state: Callable[[], State]
    parameter: Tensor
    gradient: Callable[[Window], Tensor]

    def number(self, key: str) -> float:
        return number(self.group[key])

    @property
    def step(self) -> float:
        """Which step this will be for the parameter: 1, 2, ..."""
        return number(self.state().get("step", 0.0)) + 1.0

    @property
    def decay(self) -> float:
        """The factor of the weights under decoupled weight decay."""
        return decay_factor(self.group, self.parameter.dtype)

    def kept(self, key: str, w: Window) -> Tensor:
        """A piece of a buffer, before the step; zeros if it is not there yet."""
        found = self.state().get(key)
        return w(found) if isinstance(found, Tensor) else torch.zeros_like(w(self.parameter))

    def force(self, w: Window, coupled: float) -> Tensor:
        """Gradient + coupled * theta."""
        g = self.gradient(w)
        return g.add(w(self.parameter), alpha=coupled) if coupled else g


Rule = Callable[[Moving], Update]


def adam(m: Moving) -> Update:
    """Adam and AdamW, with amsgrad, coupled or decoupled decay. Bias corrections are moved into rate and eps."""
    (beta1, beta2), step = map(number, m.group["betas"]), m.step
    root = math.sqrt(1.0 - beta2**step)
    eps = m.number("eps") * root
    second = "max_exp_avg_sq" if m.group["amsgrad"] else "exp_avg_sq"

    def direction(w: Window) -> Tensor:
        after = m.state()
        return w(after["exp_avg"]) / w(after[second]).sqrt().add_(eps)

    decay = m.decay if m.group.get("decoupled_weight_decay", False) else 1.0
    return Update(decay, m.number("lr") * root / (1.0 - beta1**step), Computed(direction), late=True)


def nadam(m: Moving) -> Update:
    """NAdam and NAdamW."""
    (beta1, beta2), step, drift = map(number, m.group["betas"]), m.step, m.number("momentum_decay")
    decoupled = bool(m.group.get("decoupled_weight_decay", False))
    coupled = 0.0 if decoupled else m.number("weight_decay")
    mu, ahead = (beta1 * (1.0 - 0.5 * 0.96 ** (k * drift)) for k in (step, step + 1.0))
    mu_product = number(m.state().get("mu_product", torch.ones(())) * mu)  # in the precision of the buffer
    now, later = (1.0 - mu) / (1.0 - mu_product), ahead / (1.0 - mu_product * ahead)
    correction = 1.0 - beta2**step

    def direction(w: Window) -> Tensor:
        g = m.force(w, coupled)
        first = torch.lerp(m.kept("exp_avg", w), g, 1.0 - beta1)
        second = m.kept("exp_avg_sq", w).mul(beta2).addcmul_(g, g, value=1.0 - beta2)
        return g.mul(now).add_(first, alpha=later).div_(second.div_(correction).sqrt_().add_(m.number("eps")))

    return Update(m.decay if decoupled else 1.0, m.number("lr"), Computed(direction))


def rmsprop(m: Moving) -> Update:
    """RMSprop, plain, centered, with momentum."""
    alpha, momentum, coupled = m.number("alpha"), m.number("momentum"), m.number("weight_decay")

    def direction(w: Window) -> Tensor:
        g = m.force(w, coupled)
        second = m.kept("square_avg", w).mul(alpha).addcmul_(g, g, value=1.0 - alpha)
        if m.group["centered"]:
            mean = torch.lerp(m.kept("grad_avg", w), g, 1.0 - alpha)
            second = second.addcmul_(mean, mean, value=-1.0)
        size = second.sqrt_().add_(m.number("eps"))
        return m.kept("momentum_buffer", w).mul(momentum).addcdiv_(g, size) if momentum > 0 else g / size

    return Update(1.0, m.number("lr"), Computed(direction))


def adagrad(m: Moving) -> Update:
    """Adagrad with lr_decay."""
    coupled, lr = m.number("weight_decay"), m.number("lr") / (1.0 + (m.step - 1.0) * m.number("lr_decay"))

    def direction(w: Window) -> Tensor:
        g = m.force(w, coupled)
        return g / m.kept("sum", w).addcmul(g, g).sqrt_().add_(m.number("eps"))

    return Update(1.0, lr, Computed(direction))


def lion(m: Moving) -> Update:
    """Lion: the sign of a mixture of buffer and gradient; decoupled decay."""
    beta1 = number(m.group["betas"][0])

    def direction(w: Window) -> Tensor:
        return m.kept("exp_avg", w).mul(beta1).add_(m.gradient(w), alpha=1.0 - beta1).sign_()

    return Update(m.decay, m.number("lr"), Computed(direction))


def muon(m: Moving) -> Update:
    """Muon; the orthogonalization is torch's own, run once more. The rate, which depends on the shape, is in u."""
    told, momentum = m.group, m.number("momentum")
    rate = muon_rate(m.number("lr"), told["adjust_lr_fn"], m.parameter.shape)

    def direction(w: Window) -> Tensor:
        g = m.gradient(w)
        buffer = torch.lerp(m.kept("momentum_buffer", w), g, 1.0 - momentum)
        update = torch.lerp(g, buffer, momentum) if told["nesterov"] else buffer
        shaped = muon_direction(update, told["ns_coefficients"], told["ns_steps"], told["eps"])
        return shaped.to(m.parameter.dtype).mul_(rate)

    return Update(m.decay, 1.0, Computed(direction, local=False))


def adafactor(m: Moving) -> Update:
    """Adafactor. Its step size is relative to the root mean square of the weights, which is part of u."""
    told, step = m.group, m.step
    new = step ** m.number("beta2_decay")
    largest = min(m.number("lr"), 1.0 / math.sqrt(step))
    eps1, eps2 = told["eps"]
    eps1 = torch.finfo(m.parameter.dtype).eps if eps1 is None else eps1

    def average(key: str, x: Tensor) -> Tensor:
        old = m.state().get(key)
        return torch.lerp(torch.zeros_like(x) if old is None else old, x, new)

    def direction(w: Window) -> Tensor:
        g = m.gradient(w)
        if g.ndim > 1:
            row = average("row_var", g.square().mean(-1, keepdim=True))
            column = average("col_var", g.square().mean(-2, keepdim=True))
            second = (row @ column) / row.mean(-2, keepdim=True).clamp_(min=eps1)
        else:
            second = average("variance", g.square())
        u = second.clamp_(min=eps1 * eps1).rsqrt_().mul_(g)
        size = m.parameter.norm() / math.sqrt(m.parameter.numel())
        clip = (u.norm() / (math.sqrt(u.numel()) * m.number("d"))).clamp_(min=1.0)
        return u.mul_(size.clamp_(min=eps2) * largest / clip)

    return Update(m.decay, 1.0, Computed(direction, local=False))


RULES: dict[type | str, Rule] = {
    torch.optim.Adam: adam,
    torch.optim.AdamW: adam,
    torch.optim.NAdam: nadam,
    torch.optim.RMSprop: rmsprop,
    torch.optim.Adagrad: adagrad,
    "Lion": lion,
}
for _name, _rule in (("Muon", muon), ("Adafactor", adafactor)):  # torch has them since 2.9 and 2.5
    if hasattr(torch.optim, _name):
        RULES[getattr(torch.optim, _name)] = _rule


def register(optimizer: type[torch.optim.Optimizer] | str, rule: Rule) -> None:
    """Teach the laws an optimizer, given as its class or the name of its class: what its step says that it does.

    `rule(moving) -> Update` is asked for every parameter before every step. What the step then does to the charges is
    held against it.
    """
    RULES[optimizer] = rule


def rule_of(optimizer: torch.optim.Optimizer) -> Rule | None:
    """The rule of the class of an optimizer, or of one that it inherits its `step` from; else by the class's name."""
    for cls in type(optimizer).__mro__:
        if cls in RULES and takes_step_of(optimizer, cls):
            return RULES[cls]
    return RULES.get(type(optimizer).__name__)


def takes_step_of(optimizer: torch.optim.Optimizer, cls: type) -> bool:
    """True if the `step` of an optimizer is that of `cls`.

    torch wraps `step` on classes (hooks) and on instances (schedulers); both keep `__wrapped__`, which is followed.
    """
    return inspect.unwrap(optimizer.step) is inspect.unwrap(cls.step)  # type: ignore[attr-defined]


def decay_factor(group: Group, dtype: torch.dtype) -> float:
    """1 - lr * weight_decay in the precision in which torch multiplies weights of `dtype` by it."""
    factor = 1.0 - number(group["lr"]) * number(group["weight_decay"])
    return factor if dtype == torch.float64 else ctypes.c_float(factor).value


def number(x: float | Tensor) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else float(x)
