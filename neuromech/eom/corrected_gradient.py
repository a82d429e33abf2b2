"""What gradient to hand to `torch.optim.SGD` so that its steps, momentum and all, stay on the gradient flow.

Each parameter moves along theta' = -V per step, V = w (sign g + decay theta), w = lr * speed. With e_j = D_V^j V, the
derivatives of V along that flow, a step that follows it is theta+ = theta - sum_j (-1)^j/(j+1)! e_j. The momentum
buffer is a sum of the same kind with known coefficients, so what to hand over is what is missing to the update, and
the buffer is carried from step to step as these few numbers. This holds for schedules of lr, dampening, Nesterov and
torch's first step alike, and is exact to the order that is kept. (For a constant lr it is the generating function of
the multistep rule.)
"""

from __future__ import annotations

from collections.abc import Mapping
from math import factorial
from typing import NamedTuple

from torch import Tensor

from neuromech.compat import foreach_add_, foreach_mul
from neuromech.eom.bseries import Derivative
from neuromech.eom.rule import Rule
from neuromech.eom.terms import VectorField, taylor
from neuromech.params import Params


class Role(NamedTuple):
    """What a step is told about one parameter; `sign` is -1 for maximize."""

    parameter: Tensor
    rule: Rule
    lr: float
    sign: float

    @property
    def w(self) -> float:
        """The step along the flow."""
        return self.lr * self.rule.speed


class Handed(NamedTuple):
    """Coefficients of e_j / w in the gradient to hand over; of e_j / w^(j+1) in the buffer, from the step's end."""

    gradient: tuple[float, ...]
    memory: tuple[float, ...]


def hand_over(rule: Rule, lr: float, order: int, memory: tuple[float, ...] | None) -> Handed:
    """The next step of `rule`; `memory` is what the last one returned, None for the first, which makes the buffer."""
    update = tuple(rule.speed * float(c) for c in taylor(order))
    if rule.momentum == 0:
        return Handed(update, ())
    w = lr * rule.speed
    mu, kappa = (0.0, 1.0) if memory is None else (rule.momentum, rule.kappa)
    # Where w is 0 nothing moves, every e_j / w with j > 0 is 0, and only the first coefficient counts.
    held = tuple(a / w**j if w else a * (j == 0) for j, a in enumerate(memory or (0.0,) * (order + 1)))
    seen = (
        rule.momentum * mu if rule.nesterov else mu
    )  # how much of the old buffer, and of the gradient, is in the update
    given = 1.0 + rule.momentum * kappa if rule.nesterov else kappa
    gradient = tuple((u - seen * b) / given for u, b in zip(update, held, strict=True))
    buffer = tuple(mu * b + kappa * g for b, g in zip(held, gradient, strict=True))
    # From the end of the step, a time of 1 along -V later, the same buffer is exp(D_V) of it.
    shifted = tuple(sum(buffer[j - m] / factorial(m) for m in range(j + 1)) for j in range(order + 1))
    return Handed(gradient, tuple(b * w**j for j, b in enumerate(shifted)))


class Slope:
    """V as a field over all parameters, from the raw gradient and its derivatives."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self.names = list(roles)
        self._w = [role.w for role in roles.values()]
        self._signs = [role.sign for role in roles.values()]
        self._scale = [role.w * role.sign for role in roles.values()]
        self._pull = [role.w * role.rule.weight_decay for role in roles.values()]
        self._decay = [role.rule.weight_decay for role in roles.values()]

    def derivative(self, raw: Derivative, theta: Params) -> Derivative:
        """d^n V[v1, .., vn] at theta from d^n g."""

        def of_slope(*directions: Params) -> Params:
            return self._sloped(
                raw(*directions), (theta, *directions)[len(directions)] if len(directions) < 2 else None
            )

        return of_slope

    def field(self, gradient: VectorField, theta: Params, here: Params) -> VectorField:
        """V at any point from g; the gradient `here` at `theta` is known and not asked for again."""

        def of_slope(params: Params) -> Params:
            return self._sloped(here if params is theta else gradient(params), params)

        return of_slope

    def _sloped(self, x: Params, linear: Params | None) -> Params:
        out = foreach_mul([x[name] for name in self.names], self._scale)
        if linear is not None and any(self._pull):
            foreach_add_(out, foreach_mul([linear[name] for name in self.names], self._pull))
        return dict(zip(self.names, out, strict=True))

    def handed(
        self, powers: list[Params], coefficients: list[tuple[float, ...]], gradient: Params, theta: Params
    ) -> Params:
        """The raw gradient with which SGD, that flips its sign and adds decay, acts on sum_j c_j e_j / w.

        `coefficients` by parameter. Nothing is added where nothing is to be corrected: c = (1, 0, ..) gives `gradient`.
        """
        first = [c[0] for c in coefficients]
        out = foreach_mul([gradient[name] for name in self.names], first)
        if any(self._decay):
            left = [s * (c - 1.0) * decay for s, c, decay in zip(self._signs, first, self._decay, strict=True)]
            foreach_add_(out, foreach_mul([theta[name] for name in self.names], left))
        for j, power in enumerate(powers[1:], 1):
            weights = [s * c[j] / w if w else 0.0 for s, c, w in zip(self._signs, coefficients, self._w, strict=True)]
            foreach_add_(out, foreach_mul([power[name] for name in self.names], weights))
        return dict(zip(self.names, out, strict=True))
