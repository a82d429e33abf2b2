"""Adam and Muon on a hypersphere: weights keep their length, and every step turns them by its learning rate.

theta+ = |theta| v / |v|, v = theta - lr |theta| u / |u|, with u the direction of Adam (bias corrected) or of Muon (made
orthogonal). The charge of the whole matrix is constant by construction: the tightest check there is.

Sources: Hyperball (arXiv 2606.16899) and MuonH (arXiv 2603.28743). No package has them yet: they are known by name, and
a class of that name is put to the test when it is met.
"""

from __future__ import annotations

from torch import Tensor

from neuromech.compat import muon_direction
from neuromech.optimizers import conventions as po
from neuromech.optimizers.adam import FIRST, SECOND, beta1, correction
from neuromech.optimizers.muon import BUFFER
from neuromech.optimizers.rule import Elements, Rule, State
from neuromech.optimizers.settings import ParamGroup, number


def on_sphere(theta: Tensor, u: Tensor, lr: float) -> Tensor:
    """By how much a step along u moves weights that keep their length."""
    length = theta.norm()
    moved = theta.sub(u * (lr * length / u.norm()))
    return theta.sub(moved * (length / moved.norm()))


def _adam(e: Elements, after: State) -> Tensor:
    root = (after[SECOND] / correction(e, 1)).sqrt().add_(e.number("eps"))
    return on_sphere(e.parameter.detach(), (after[FIRST] / root).reshape(e.parameter.shape), e.number("lr"))


def _muon(e: Elements, after: State) -> Tensor:
    told, buffer, p = e.group, after[BUFFER], e.parameter.detach()
    mixed = e.gradient.lerp(buffer, e.number("momentum")) if told["nesterov"] else buffer
    shaped = muon_direction(mixed, told["ns_coefficients"], told["ns_steps"], told["eps"])
    return on_sphere(p, shaped.to(p.dtype), e.number("lr"))


def _momentum(group: ParamGroup) -> float:
    return number(group["momentum"])


ADAMH = Rule(
    "AdamH",
    "arXiv 2606.16899",
    ("lr", "betas", "eps"),
    _adam,
    lambda e: po.moments(e, e.gradient),
    rate=lambda e: 1.0,
    local=False,
    clock="state",
    power=-1,
    memory=beta1,
    fixed=True,
)

MUONH = Rule(
    "MuonH",
    "arXiv 2603.28743",
    ("lr", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps"),
    _muon,
    lambda e: {BUFFER: e.old(BUFFER).lerp(e.gradient, 1.0 - e.number("momentum"))},
    rate=lambda e: 1.0,
    local=False,
    power=-1,
    memory=_momentum,
    fixed=True,
)
