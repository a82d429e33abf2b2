"""ADOPT: Adam that divides by the second moment before the gradient joins it, so that it converges for any beta2.

Source: Taniguchi et al. 2024, algorithm 2; the package pytorch_optimizer.
"""

from __future__ import annotations

from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule


def _advance(e: Elements) -> dict[str, Tensor]:
    """The first step only fills the second moment."""
    (b1, b2), g = e.betas, po.force(e)
    if e.step == 1.0:
        return {po.SECOND: e.old(po.SECOND).addcmul(g, g), po.FIRST: e.old(po.FIRST)}
    normed = g.div(e.old(po.SECOND).sqrt().clamp_(min=e.number("eps")))
    if (clip := e.group["clip_lambda"]) is not None:
        most = clip(int(e.step))
        normed = normed.clamp(min=-most, max=most)
    return {
        po.FIRST: e.old(po.FIRST).lerp(normed, 1.0 - b1),
        po.SECOND: e.old(po.SECOND).mul(b2).addcmul_(g, g, value=1.0 - b2),
    }


ADOPT = Rule(
    "ADOPT",
    "the package pytorch_optimizer; Taniguchi et al. 2024, algorithm 2",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "clip_lambda"),
    lambda e, after: after[po.FIRST],
    _advance,
    decay=po.decay,
    late=True,
    clock="group",
    attributes=("maximize", "clip_lambda"),
    memory=po.beta1,
    decoupled=po.decoupled,
    package=po.PACKAGE,
)
