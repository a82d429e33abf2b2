"""Schedule-free SGD and AdamW: gradients are taken at y, between a fast sequence z and the mean of its past.

In training the weights are y. With c the weight of the newest z in the mean, d the update of z and beta the momentum,

    y+ = y + c (z - y) - lr (1 - beta (1 - c)) d,    z+ = z - lr d

Source: Defazio et al. 2024, and the package schedulefree.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from neuromech.optimizers.rule import Elements, Rule, State
from neuromech.optimizers.settings import ParamGroup, number

FAST, SECOND = "z", "exp_avg_sq"


def _schedule(e: Elements) -> tuple[float, float]:
    """(lr with its warm-up, weight of the newest z) of this step."""
    k, warmup = e.number("k"), e.number("warmup_steps")
    lr = e.number("lr") * ((k + 1.0) / warmup if k < warmup else 1.0)
    weight = (k + 1.0) ** e.number("r") * max(lr, e.number("lr_max")) ** e.number("weight_lr_power")
    total = e.number("weight_sum") + weight
    return lr, weight / total if total else 0.0


def _fast(e: Elements) -> Tensor:
    found = e.kept(FAST)
    return e.theta if found is None else found


DescentFormula = Callable[[Elements, State], Tensor]


def _rule(
    name: str, settings: tuple[str, ...], power: int, momentum: Callable[[Elements], float], descent: DescentFormula,
    advance: Callable[[Elements], dict[str, Tensor]],
) -> Rule:  # fmt: skip
    def update(e: Elements, after: State) -> Tensor:
        lr, c = _schedule(e)
        fast, d = _fast(e), descent(e, after)
        return d.mul(lr * (1.0 - momentum(e) * (1.0 - c))).add(fast.sub(e.theta), alpha=-c)

    def moved(e: Elements) -> dict[str, Tensor]:
        lr, _ = _schedule(e)
        out = advance(e)
        return out | {FAST: _fast(e).sub(descent(e, out).mul(lr))}

    return Rule(
        name,
        "the package schedulefree; Defazio et al. 2024",
        settings,
        update,
        moved,
        rate=lambda e: 1.0,
        power=power,
        package="schedulefree",
    )


def _normed(e: Elements, after: State) -> Tensor:
    b2 = e.betas[1]
    root = after[SECOND].div(1.0 - b2 ** (e.number("k") + 1.0)).sqrt_().add_(e.number("eps"))
    u, coupled = e.gradient.div(root), e.number("weight_decay")
    return u.add(e.theta, alpha=coupled) if coupled else u


def _second(e: Elements) -> dict[str, Tensor]:
    b2, g = e.betas[1], e.gradient
    return {SECOND: e.old(SECOND).mul(b2).addcmul_(g, g, value=1.0 - b2)}


def _momentum(group: ParamGroup) -> float:
    return number(group["momentum"])


SGD_SCHEDULE_FREE = _rule(
    "SGDScheduleFree",
    ("lr", "momentum", "weight_decay", "warmup_steps", "r", "weight_lr_power"),
    1,
    lambda e: _momentum(e.group),
    lambda e, after: e.force(e.number("weight_decay")),
    lambda e: {},
)
ADAMW_SCHEDULE_FREE = _rule(
    "AdamWScheduleFree",
    ("lr", "betas", "eps", "weight_decay", "warmup_steps", "r", "weight_lr_power"),
    0,
    lambda e: e.betas[0],
    _normed,
    _second,
)
