"""What the steps of an optimizer minimise beside the loss, as a number: their implicit regularisation.

SGD: the flow to first order in lr is -speed grad(L + lr c / (2 speed) |g|^2), where c comes from its series (1/2
without momentum: Barrett and Dherin 2021; with momentum Ghosh et al. 2023). Adam's family, where |g| is far above eps:
-grad(L + lr (c1 - c2) |g|_1) / |g| with the mean ages c of its two averages; the larger age of the squares makes it
negative: it seeks large gradients (Cattaneo, Klusowski and Shigida 2024).
"""

from __future__ import annotations

from torch.optim import Optimizer

from neuromech.eom.bseries import GRADIENT
from neuromech.eom.derivatives import gradient_at
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.memory import ages
from neuromech.eom.rule import Rule, check_lr, rule_and_lr
from neuromech.errors import EoMError
from neuromech.params import Params, norm


def implicit_penalty(rule: Rule | Optimizer, loss: LossFunction, params: Params, lr: float | None = None) -> float:
    """The penalty at `params`, in units of the loss, to first order in lr and in the steady state.

    Raises `EoMError` for decoupled decay, and for rules whose flow is not a gradient of anything (Lion, Muon).
    """
    rule, lr = rule_and_lr(rule, lr, "pass lr")
    check_lr(float("nan") if lr is None else lr)
    rate = float(lr or 0.0)
    if rule.decoupled and rule.weight_decay:
        raise EoMError("decoupled decay is not part of the loss, and mixes with its penalty: take weight_decay=0")
    landscape = PureLandscape(loss, params)
    g = gradient_at(landscape)
    force = {n: x + rule.weight_decay * landscape.here[n] for n, x in g.items()}
    if rule.kind == "sgd":
        bend = -float(rule.fields(1)[1].get((GRADIENT,), 0))
        return rate * bend / (2.0 * rule.speed) * float(norm(force)) ** 2
    if rule.kind not in ("adam", "rmsprop", "nadam", "radam"):
        raise EoMError(f"the flow of {rule.kind} is not the gradient of a penalized loss: there is no such number")
    first, second = (ages(beta, float("inf"))[0] for beta in rule.betas)
    if rule.kind == "nadam":
        first *= rule.betas[0]
    return rate * (first - second) * sum(float(x.abs().sum()) for x in force.values())
