"""`Rule`: a discrete optimizer as mathematics, and the vector fields whose flow its steps follow, as series in lr.

    theta+ = a theta - lr u,   b+ = momentum b + kappa g,   u = b+ (heavy ball) or g + momentum b+ (Nesterov)

with a = 1 - lr decay for decoupled weight decay, else 1 (coupled decay is a part of g). The steps lie on the flow of
F = F_0 + lr F_1 + ..., theta_(k+1) = exp(lr F) theta_k, which by elimination of the buffer solves, order by order,

    (1 - momentum) decay theta + sum_(i>=1) lr^(i-1)/i! (1 + (-1)^i momentum a) D_F^(i-1) F = -sigma

where D_F is differentiation along F, and sigma is kappa g, or (1 + momentum) g - momentum exp(-lr D_F) g for Nesterov.
Without momentum this is the equation of motion of Miyagawa (NeurIPS 2022), and of Hairer, Lubich, Wanner, ch. IX.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import factorial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuromech import optimizers
from neuromech.eom.bseries import GRADIENT, IDENTITY, Series, add, lie
from neuromech.errors import EoMError
from neuromech.optimizers import rule_of

UpdateRule = Literal["sgd", "adam", "rmsprop", "nadam", "radam", "lion", "muon"]
KINDS: tuple[UpdateRule, ...] = get_args(UpdateRule)
_ARE_KNOWN = (
    "those of SGD with all its options, SGDW, Adam and AdamW without amsgrad, NAdam, RAdam, Lion, Muon, and RMSprop "
    "without momentum and centered are"
)
MAX_ORDER = 6  # the series is asymptotic, and a term of order n costs about 3^n gradients


def check_order(order: int, most: int = MAX_ORDER) -> None:
    """Raises `EoMError` for an order that is not a whole number from 0 to `most`."""
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= most:
        why = (
            "the Adam family is worked out to order 1" if most == 1 else "the series is asymptotic: more makes it worse"
        )
        raise EoMError(f"order is the number of counter terms, a whole number from 0 to {most} ({why}); got {order!r}")


def check_lr(lr: float) -> None:
    """Raises `EoMError` for a learning rate that is not a positive finite number."""
    if not 0.0 < float(lr) < float("inf"):
        raise EoMError(f"lr is {lr!r}: flows are expanded around lr = 0, so it has to be a positive finite number")


@dataclass(frozen=True)
class Rule(optimizers.Multistep):
    """What an optimizer does to parameters, apart from its learning rate.

    `momentum`, `dampening` and `nesterov` belong to "sgd" (the first and last to "muon" too), `betas` to the others,
    the second alone to "rmsprop", `eps` to all but "sgd" and "lion". `drift` is NAdam's momentum_decay; `coefficients`,
    `iterations` and `adjust` are Muon's. `decoupled`: weight decay shrinks the parameters by themselves (AdamW)
    instead of being added to the gradient.

    Raises `EoMError` if the values make no sense together.
    """

    kind: UpdateRule = "sgd"
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    drift: float = 4e-3
    coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    iterations: int = 5
    adjust: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EoMError(f"no rule is called {self.kind!r}: there are {', '.join(KINDS)}")
        if not 0.0 <= self.momentum < 1.0:
            raise EoMError(f"momentum is {self.momentum}: a flow exists for values in [0, 1) only")
        if not 0.0 <= self.dampening < 1.0:
            raise EoMError(f"dampening is {self.dampening}: only values in [0, 1) let gradients act downhill")
        if self.kind != "muon" and self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise EoMError("nesterov needs momentum > 0 and dampening 0, as in torch.optim.SGD")
        if self.weight_decay < 0:
            raise EoMError(f"weight_decay is {self.weight_decay}: it has to be 0 or more")
        if self.kind == "rmsprop" and (self.betas[0] or self.decoupled):
            raise EoMError("rmsprop has one beta, the second (write (0, alpha)), and coupled decay only")
        if self.kind != "sgd" and not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise EoMError(f"betas are {self.betas}: they have to be in [0, 1)")
        if self.kind not in ("sgd", "muon") and (self.momentum or self.nesterov):
            raise EoMError(f"momentum and nesterov belong to 'sgd'; {self.kind} has betas")

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Rule:
        """The rule of a torch optimizer. Its parameter groups have to agree, apart from their lr.

        Raises `EoMError` if they do not, or for an optimizer whose flow is not known.
        """
        known = rule_of(optimizer)
        if known is None:
            raise EoMError(
                f"the flow that {type(optimizer).__name__} follows is not known: nothing is known of its steps; "
                f"{_ARE_KNOWN}, and neuromech.register_optimizer teaches others"
            )
        rules = {cls._of_group(known, group) for group in optimizer.param_groups}
        if len(rules) > 1:
            raise EoMError(f"the parameter groups follow different rules, {rules}: one flow needs one rule")
        return rules.pop()

    @classmethod
    def _of_group(cls, known: optimizers.Rule, group: dict[str, Any]) -> Rule:
        if group.get("maximize"):
            raise EoMError("maximize=True climbs: negate the loss instead")
        told = known.flow(group)
        if isinstance(told, str):
            raise EoMError(f"the flow that {known.name} follows with these settings is not known: {told}; {_ARE_KNOWN}")
        return cls(**told)

    def optimizer(self, params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        """The torch optimizer of this rule; decoupled decay of "sgd" has none, and is left to the caller."""
        params = list(params)
        decay, own = self.weight_decay, 0.0 if self.decoupled else self.weight_decay
        if self.kind == "adam":
            kind = torch.optim.AdamW if self.decoupled else torch.optim.Adam
            return kind(params, lr=lr, betas=self.betas, eps=self.eps, weight_decay=decay)
        adaptive: dict[str, Any] = {"betas": self.betas, "eps": self.eps, "decoupled_weight_decay": self.decoupled}
        if self.kind == "nadam":
            return torch.optim.NAdam(params, lr, weight_decay=decay, momentum_decay=self.drift, **adaptive)
        if self.kind == "radam":
            return torch.optim.RAdam(params, lr, weight_decay=decay, **adaptive)
        if self.kind in ("lion", "muon"):
            raise EoMError(f"torch has no {self.kind} for every parameter and precision: take the steps yourself")
        if self.kind == "rmsprop":
            return torch.optim.RMSprop(params, lr=lr, alpha=self.betas[1], eps=self.eps, weight_decay=own)
        return torch.optim.SGD(
            params, lr=lr, momentum=self.momentum, dampening=self.dampening, nesterov=self.nesterov, weight_decay=own
        )

    @property
    def speed(self) -> float:
        """The flow of lr -> 0 is theta' = -speed * g."""
        return self.kappa / (1.0 - self.momentum)

    @property
    def charge_drift(self) -> float:
        """How far steps of "sgd" move a quadratic charge that the flow keeps, in units of <u, Q'' u> / 2 of updates u.

        1 without momentum, (1 + momentum) / (1 - momentum) for heavy ball: the coefficient of Hg in the first term.
        """
        bare = replace(self, weight_decay=0.0, decoupled=False)
        return -2.0 * float(bare.fields(1)[1].get((GRADIENT,), 0)) / self.speed**2

    def fields(self, order: int) -> tuple[Series, ...]:
        """F_0, .., F_order of "sgd": series of elementary differentials of g; coupled decay is a part of g.

        Raises `EoMError` for a wrong order, or for another kind.
        """
        check_order(order)
        if self.kind != "sgd":
            raise EoMError(
                f"the field of {self.kind} is not a series of elementary differentials: take "
                "neuromech.eom.flow_of, which knows it to order 1"
            )
        # A coupled decay is no part of the series: without it equal series are computed once.
        return _fields(self if self.decoupled else replace(self, weight_decay=0.0, decoupled=False), order)


def _exact(x: float) -> Fraction:
    return Fraction(repr(float(x)))  # 0.9 is meant as 9/10


@lru_cache(maxsize=64)
def _fields(rule: Rule, order: int) -> tuple[Series, ...]:
    mu, decay = _exact(rule.momentum), _exact(rule.weight_decay)
    kappa = 1 - _exact(rule.dampening) if mu else Fraction(1)
    fields: list[Series] = []
    # moved[i][n], pulled[i][n]: coefficients of lr^n in D_F^i F and, for Nesterov, in D_F^i g.
    moved: list[list[Series]] = [fields]
    pulled: list[list[Series]] = [[{GRADIENT: Fraction(1)}]]

    def at(powers: list[list[Series]], i: int, n: int) -> Series:
        while len(powers) <= i:
            powers.append([])
        while len(powers[i]) <= n:
            m = len(powers[i])
            below = [(fields[k], at(powers, i - 1, m - k)) for k in range(m + 1)] if i else []
            powers[i].append(add(*((1, lie(along, field)) for along, field in below)))
        return powers[i][n]

    for n in range(order + 1):
        terms: list[tuple[Fraction | int, Series]] = []
        if n == 0:
            terms += [(-(1 - mu) * decay, {IDENTITY: Fraction(1)})]
            terms += [(-(1 + mu) if rule.nesterov else -kappa, {GRADIENT: Fraction(1)})]
        for i in range(2, n + 2):
            terms.append((-Fraction(1 + (-1) ** i * mu, factorial(i)), at(moved, i - 1, n - i + 1)))
        for i in range(1, n + 1):
            terms.append(((-1) ** i * mu * decay / factorial(i), at(moved, i - 1, n - i)))
        if rule.nesterov:
            terms += [((-1) ** i * mu / factorial(i), at(pulled, i, n - i)) for i in range(n + 1)]
        fields.append(add(*((c / (1 - mu), series) for c, series in terms)))
    return tuple(fields)


def rule_and_lr(
    rule: Rule | Optimizer, lr: float | None, todo: str = "one flow needs one; pass lr"
) -> tuple[Rule, float | None]:
    """The rule, and `lr` or that of the optimizer. Raises `EoMError` if its groups have several; `todo`: what then."""
    if not isinstance(rule, Optimizer):
        return rule, lr
    rates = {float(group["lr"]) for group in rule.param_groups}
    if lr is None and len(rates) > 1:
        raise EoMError(f"the parameter groups have different lr, {sorted(rates)}: {todo}")
    return Rule.of(rule), rates.pop() if lr is None else lr
