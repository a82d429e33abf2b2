"""What the settings of a param group say about lengths: how fast decay shrinks them, how the update answers to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from neuromech.optimizers.rule import Rule
from neuromech.optimizers.settings import ParamGroup, number


class Hyperparameters(NamedTuple):
    """Of one param group; `power` and `memory` as in `Rule`.

    `decay`: by which a squared length shrinks per unit of lr under weight decay alone. nan where nothing tells it from
    the update: behind a preconditioner, or under an optimizer that is not known. `accumulation`, `unit`, `fixed`
    and `recall` as in `Rule`, for a parameter of this shape; nan where they are not known.
    """

    lr: float
    weight_decay: float
    power: int
    memory: float
    decay: float
    accumulation: float = math.nan
    unit: float = math.nan
    fixed: bool = False
    recall: float = 0.0


def hyperparameters_of(rule: Rule | None, group: ParamGroup, shape: Sequence[int] = ()) -> Hyperparameters:
    """Of a param group of an optimizer, or of its settings as records keep them; `rule` None: nothing is known of it.
    `shape`: of the parameter, which counts where updates are made of whole matrices.

    A buffer of heavy ball goes on adding up what decay has put into it: its rate is 2 kappa weight_decay / (1 -
    momentum), with kappa = 1 - dampening (Kunin et al. 2021).
    """
    lr, weight_decay = (number(group.get(key) or 0.0) for key in ("lr", "weight_decay"))
    if rule is None:
        return Hyperparameters(lr, weight_decay, 0, math.nan, math.nan)
    memory = rule.memory(group)
    if weight_decay == 0 or rule.decoupled(group):
        decay = 2.0 * weight_decay
    elif rule.power == 1:
        decay = 2.0 * weight_decay * (1.0 - number(group.get("dampening") or 0.0)) / (1.0 - memory)
    else:
        decay = math.nan
    if rule.accumulation is not None:
        accumulation = rule.accumulation(group, shape) if len(shape) > 1 or rule.local else math.nan
    else:
        accumulation = (1.0 + memory) / (1.0 - memory)
    unit = rule.unit(group, shape) if len(shape) > 1 or rule.local else math.nan
    more = accumulation, unit, rule.fixed, rule.recall(group)
    return Hyperparameters(lr, weight_decay, rule.power, memory, decay, *more)
