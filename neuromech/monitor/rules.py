"""What an optimizer says that it does, element by element in float64: the rules that a step is held to.

A rule has two halves, so that a wrong step can be told from a wrong state:

    advance   state, gradient          -> the state after the step
    update    state after the step     -> u, in theta+ = decay * theta - lr * u

and each says how large the terms are that it adds up: rounding is relative to those. Sources: the pages of
`torch.optim` (the pseudocode of each optimizer), Kingma and Ba 2015 (Adam), Loshchilov and Hutter 2019 (AdamW).

All tensors are of one shape, [elements]; `settings` is a param group with numbers for values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

Settings = Mapping[str, Any]
State = dict[str, Tensor]


class Sized(NamedTuple):
    """A value, and the sum of the absolute values of the terms that were added up to make it."""

    value: Tensor
    size: Tensor


class Rule(NamedTuple):
    """`state`: the entries of `optimizer.state[p]` that `advance` predicts; `clock`: the entry that counts steps."""

    state: Callable[[Settings], tuple[str, ...]]
    advance: Callable[[Settings, Tensor, Tensor, State, Tensor], dict[str, Sized]]
    update: Callable[[Settings, Tensor, Tensor, State, Tensor], Sized]
    decay: Callable[[Settings], float]
    clock: bool


def rule_of(optimizer: torch.optim.Optimizer) -> Rule | None:
    """The rule of `optimizer`; None if its class, or what was made of its `step`, is not known here."""
    for kind, rule in _RULES.items():
        if isinstance(optimizer, kind) and inspect.unwrap(optimizer.step) is inspect.unwrap(kind.step):
            return rule if all(_usual(kind, group) for group in optimizer.param_groups) else None
    return None


def _usual(kind: type[torch.optim.Optimizer], group: Settings) -> bool:
    return not (kind is torch.optim.RMSprop and group.get("centered"))


def _gradient(s: Settings, theta: Tensor, g: Tensor, coupled: bool = True) -> Sized:
    g = -g if s.get("maximize") else g
    decayed = float(s.get("weight_decay", 0.0)) * theta if coupled else torch.zeros_like(theta)
    return Sized(g + decayed, g.abs() + decayed.abs())


def _average(beta: float, old: Tensor, new: Sized) -> Sized:
    return Sized(beta * old + (1 - beta) * new.value, beta * old.abs() + (1 - beta) * (new.size + old.abs()))


# -- torch.optim.SGD; `t` counts from 1, and the first step makes the buffer ------------------------------------------


def _sgd_state(s: Settings) -> tuple[str, ...]:
    return ("momentum_buffer",) if s["momentum"] else ()


def _sgd_advance(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> dict[str, Sized]:
    if not s["momentum"]:
        return {}
    big, b = _gradient(s, theta, g), state["momentum_buffer"]
    later = (t != 1).double()
    mu, kappa = float(s["momentum"]) * later, 1.0 - float(s["dampening"]) * later
    return {"momentum_buffer": Sized(mu * b + kappa * big.value, mu * b.abs() + kappa * big.size)}


def _sgd_update(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> Sized:
    big = _gradient(s, theta, g)
    if not s["momentum"]:
        return big
    b = state["momentum_buffer"]
    if not s["nesterov"]:
        return Sized(b, b.abs())
    return Sized(big.value + s["momentum"] * b, big.size + s["momentum"] * b.abs())


# -- torch.optim.Adam and AdamW --------------------------------------------------------------------------------------


def _decoupled(s: Settings) -> bool:
    return bool(s.get("decoupled_weight_decay"))


def _adam_state(s: Settings) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if s["amsgrad"] else ()))


def _adam_advance(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> dict[str, Sized]:
    (beta1, beta2), big = s["betas"], _gradient(s, theta, g, coupled=not _decoupled(s))
    v = _average(beta2, state["exp_avg_sq"], Sized(big.value.square(), big.size.square()))
    out = {"exp_avg": _average(beta1, state["exp_avg"], big), "exp_avg_sq": v}
    if s["amsgrad"]:
        out["max_exp_avg_sq"] = Sized(torch.maximum(state["max_exp_avg_sq"], v.value), v.size)
    return out


def _adam_update(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> Sized:
    (beta1, beta2), eps = s["betas"], s["eps"]
    rest = 1 - float(beta2) ** t
    v = state["max_exp_avg_sq" if s["amsgrad"] else "exp_avg_sq"].clamp(min=0) / rest
    u = state["exp_avg"] / (1 - float(beta1) ** t) / (v.sqrt() + eps)
    # On a device the bias correction is a difference of numbers near 1 in single precision.
    return Sized(u, u.abs() / rest if s.get("capturable") or s.get("fused") else u.abs())


# -- torch.optim.RMSprop and Adagrad ---------------------------------------------------------------------------------


def _rmsprop_state(s: Settings) -> tuple[str, ...]:
    return ("square_avg", *(("momentum_buffer",) if s["momentum"] else ()))


def _rmsprop_advance(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> dict[str, Sized]:
    big = _gradient(s, theta, g)
    v = _average(s["alpha"], state["square_avg"], Sized(big.value.square(), big.size.square()))
    if not s["momentum"]:
        return {"square_avg": v}
    root, b = v.value.sqrt() + s["eps"], float(s["momentum"]) * state["momentum_buffer"]
    return {"square_avg": v, "momentum_buffer": Sized(b + big.value / root, b.abs() + big.size / root)}


def _rmsprop_update(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> Sized:
    if s["momentum"]:
        return Sized(state["momentum_buffer"], state["momentum_buffer"].abs())
    big, root = _gradient(s, theta, g), state["square_avg"].clamp(min=0).sqrt() + s["eps"]
    return Sized(big.value / root, big.size / root)


def _adagrad_advance(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> dict[str, Sized]:
    big = _gradient(s, theta, g)
    return {"sum": Sized(state["sum"] + big.value.square(), state["sum"] + big.size.square())}


def _adagrad_update(s: Settings, theta: Tensor, g: Tensor, state: State, t: Tensor) -> Sized:
    big = _gradient(s, theta, g)
    slower = 1.0 / ((1.0 + (t - 1) * float(s["lr_decay"])) * (state["sum"].clamp(min=0).sqrt() + s["eps"]))
    return Sized(big.value * slower, big.size * slower)


def _no_decay(s: Settings) -> float:
    return 1.0


def _adam_decay(s: Settings) -> float:
    return 1.0 - s["lr"] * s["weight_decay"] if _decoupled(s) else 1.0


_ADAM = Rule(_adam_state, _adam_advance, _adam_update, _adam_decay, clock=True)
_RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: Rule(_sgd_state, _sgd_advance, _sgd_update, _no_decay, clock=False),
    torch.optim.AdamW: _ADAM,
    torch.optim.Adam: _ADAM,
    torch.optim.RMSprop: Rule(_rmsprop_state, _rmsprop_advance, _rmsprop_update, _no_decay, clock=True),
    torch.optim.Adagrad: Rule(lambda s: ("sum",), _adagrad_advance, _adagrad_update, _no_decay, clock=True),
}
