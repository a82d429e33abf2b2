"""AdamC: AdamW whose decay of normalised weights follows the square of the schedule: gradients do not grow late.

Source: Defazio 2025, algorithm 1; the package pytorch_optimizer.
"""

from __future__ import annotations

from neuromech.optimizers import conventions as po
from neuromech.optimizers.adam import recall, white
from neuromech.optimizers.rule import Elements, Rule
from neuromech.optimizers.settings import number


def _decay(e: Elements) -> float:
    """lr^2 / (largest lr) takes the place of lr where `normalized` says that the weights are."""
    lr = e.number("lr")
    return po.decay(e, lr**2 / number(e.group["max_lr"]) if e.group.get("normalized") else lr)


ADAMC = Rule(
    "AdamC",
    "the package pytorch_optimizer; Defazio 2025, algorithm 1",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "ams_bound", "normalized"),
    lambda e, after: after[po.FIRST] / po.root(e, after),
    lambda e: po.moments(e, po.force(e)),
    lambda e: e.number("lr") / po.debias(e, 0),
    _decay,
    late=True,
    clock="group",
    attributes=("maximize", "max_lr"),
    memory=po.beta1,
    unit=white,
    recall=recall,
    decoupled=po.decoupled,
    package=po.PACKAGE,
)
