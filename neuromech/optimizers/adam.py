"""The Adam family: a mean of gradients over the root of a mean of their squares.

Sources: `torch.optim.Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`; Kingma and Ba 2015 (Adam, Adamax), Loshchilov and
Hutter 2019 (AdamW), Dozat 2016 (NAdam), Liu et al. 2020 (RAdam).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuromech.optimizers.rule import Elements, Rule, State, decoupled_decay, plain_rate
from neuromech.optimizers.settings import ParamGroup, number

FIRST, SECOND, LARGEST, INFINITY = "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"


def decoupled(group: ParamGroup) -> bool:
    return bool(group.get("decoupled_weight_decay", False))


def _decoupled_w(group: ParamGroup) -> bool:
    """AdamW of earlier torch has no such key."""
    return bool(group.get("decoupled_weight_decay", True))


def beta1(group: ParamGroup) -> float:
    return number(group["betas"][0])


def recall(group: ParamGroup) -> float:
    """Of the second mean; the largest of all forgets nothing, and is none."""
    return 0.0 if group.get("amsgrad") else number(group["betas"][1])


def decay(e: Elements) -> float:
    return decoupled_decay(e) if decoupled(e.group) else 1.0


def force(e: Elements) -> Tensor:
    return e.force(0.0 if decoupled(e.group) else e.number("weight_decay"))


def moments(e: Elements) -> dict[str, Tensor]:
    """The two means, after the step."""
    return _moments(e, force(e))


def _moments(e: Elements, g: Tensor) -> dict[str, Tensor]:
    b1, b2 = e.betas
    return {
        FIRST: e.old(FIRST).lerp(g, 1.0 - b1),
        SECOND: e.old(SECOND).mul(b2).addcmul_(g, g, value=1.0 - b2),
    }


def correction(e: Elements, which: int) -> float:
    """1 - beta^step: by what a mean that began at zero is short."""
    return float(1.0 - e.betas[which] ** e.step)


def cancels(e: Elements) -> float:
    """On a device the bias correction is a difference of numbers near 1 in single precision."""
    single = e.group.get("capturable") or e.group.get("fused")
    return 1.0 / correction(e, 1) if single else 1.0


def white(group: ParamGroup, shape: Sequence[int]) -> float:
    """Of white gradients, the mean that is divided by their root mean square adds up to steps of one an entry."""
    return math.nan if group.get("amsgrad") or group.get("ams_bound") else 1.0


# -- Adam and AdamW, with amsgrad: the bias corrections are moved into rate and eps ------------------------------------


def _adam_update(e: Elements, after: State) -> Tensor:
    eps = e.number("eps") * math.sqrt(correction(e, 1))
    return after[FIRST] / after[LARGEST if e.group["amsgrad"] else SECOND].sqrt().add_(eps)


def _adam_rate(e: Elements) -> float:
    return e.number("lr") * math.sqrt(correction(e, 1)) / correction(e, 0)


def _flow(kind: str, group: ParamGroup, separate: bool) -> dict[str, Any]:
    told = {"kind": kind, "betas": tuple(map(number, group["betas"])), "eps": number(group["eps"])}
    return told | {"weight_decay": number(group["weight_decay"]), "decoupled": separate}


def _adam(name: str, source: str, separate: Callable[[ParamGroup], bool]) -> Rule:
    def advance(e: Elements) -> dict[str, Tensor]:
        out = _moments(e, e.force(0.0 if separate(e.group) else e.number("weight_decay")))
        return out | {LARGEST: e.old(LARGEST).maximum(out[SECOND])} if e.group["amsgrad"] else out

    def flow(group: ParamGroup) -> dict[str, Any] | str:
        return "with amsgrad it remembers for ever" if group["amsgrad"] else _flow("adam", group, separate(group))

    return Rule(
        name,
        source,
        ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"),
        _adam_update,
        advance,
        _adam_rate,
        lambda e: decoupled_decay(e) if separate(e.group) else 1.0,
        late=True,
        clock="state",
        cancels=cancels,
        memory=beta1,
        unit=white,
        recall=recall,
        decoupled=separate,
        flow=flow,
    )


ADAM = _adam("Adam", "torch.optim.Adam; Kingma and Ba 2015, algorithm 1", decoupled)
ADAMW = _adam("AdamW", "torch.optim.AdamW; Loshchilov and Hutter 2019, algorithm 2", _decoupled_w)


# -- NAdam and NAdamW --------------------------------------------------------------------------------------------------


def _nadam_weights(e: Elements) -> tuple[float, float]:
    """Of the gradient and of its new mean, with the bias corrections."""
    b1, drift = e.betas[0], e.number("momentum_decay")
    mu, ahead = (b1 * (1.0 - 0.5 * 0.96 ** (k * drift)) for k in (e.step, e.step + 1.0))
    product = number(e.scalars.get("mu_product", torch.ones(())) * mu)  # in the precision of the buffer
    return (1.0 - mu) / (1.0 - product), ahead / (1.0 - product * ahead)


def _nadam_update(e: Elements, after: State) -> Tensor:
    now, later = _nadam_weights(e)
    root = after[SECOND].div(correction(e, 1)).sqrt_().add_(e.number("eps"))
    return force(e).mul(now).add_(after[FIRST], alpha=later).div_(root)


NADAM = Rule(
    "NAdam",
    "torch.optim.NAdam; Dozat 2016",
    ("lr", "betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay", "maximize"),
    _nadam_update,
    moments,
    decay=decay,
    clock="state",
    scalars=("mu_product",),
    cancels=cancels,
    unit=white,
    recall=recall,
    decoupled=decoupled,
    flow=lambda group: _flow("nadam", group, decoupled(group)) | {"drift": number(group["momentum_decay"])},
)


# -- RAdam: rectified while the variance of the second mean is bounded, before that momentum alone ---------------------


def _rectified(e: Elements) -> float | None:
    """The factor of the step once it is adaptive; None before."""
    b2, step = e.betas[1], e.step
    longest = 2.0 / (1.0 - b2) - 1.0
    length = longest - 2.0 * step * b2**step / correction(e, 1)
    if length <= 5.0:
        return None
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def _radam_update(e: Elements, after: State) -> Tensor:
    return after[FIRST] if _rectified(e) is None else after[FIRST] / after[SECOND].sqrt().add_(e.number("eps"))


def _radam_rate(e: Elements) -> float:
    found = _rectified(e)
    adaptive = 1.0 if found is None else found * math.sqrt(correction(e, 1))
    return e.number("lr") * adaptive / correction(e, 0)


RADAM = Rule(
    "RAdam",
    "torch.optim.RAdam; Liu et al. 2020, algorithm 2",
    ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize"),
    _radam_update,
    moments,
    _radam_rate,
    decay,
    late=True,
    clock="state",
    cancels=cancels,
    memory=beta1,
    unit=white,
    recall=recall,
    decoupled=decoupled,
    flow=lambda group: _flow("radam", group, decoupled(group)),
)


# -- Adamax: the largest gradient, slowly forgotten, instead of a mean of squares --------------------------------------


def _adamax_advance(e: Elements) -> dict[str, Tensor]:
    (b1, b2), g = e.betas, e.force(e.number("weight_decay"))
    largest = e.old(INFINITY).mul(b2).maximum(g.abs().add_(e.number("eps")))
    return {FIRST: e.old(FIRST).lerp(g, 1.0 - b1), INFINITY: largest}


def _adamax_rate(e: Elements) -> float:
    return plain_rate(e) / correction(e, 0)


ADAMAX = Rule(
    "Adamax",
    "torch.optim.Adamax; Kingma and Ba 2015, algorithm 2",
    ("lr", "betas", "eps", "weight_decay", "maximize"),
    lambda e, after: after[FIRST] / after[INFINITY],
    _adamax_advance,
    _adamax_rate,
    late=True,
    clock="state",
    memory=beta1,
)
