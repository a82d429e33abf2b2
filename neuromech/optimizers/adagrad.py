"""Adagrad and Adadelta: a memory of squared gradients that never fades, and one that does.

Sources: `torch.optim.Adagrad` (Duchi et al. 2011), `torch.optim.Adadelta` (Zeiler 2012, algorithm 1).
"""

from __future__ import annotations

from torch import Tensor

from neuromech.optimizers.rule import Elements, Rule, State

SUM, SQUARE, MOVED = "sum", "square_avg", "acc_delta"


def _force(e: Elements) -> Tensor:
    return e.force(e.number("weight_decay"))


def _adagrad_advance(e: Elements) -> dict[str, Tensor]:
    g = _force(e)
    return {SUM: e.old(SUM).addcmul(g, g)}


def _adagrad_update(e: Elements, after: State) -> Tensor:
    return _force(e) / after[SUM].sqrt().add_(e.number("eps"))


def _adagrad_rate(e: Elements) -> float:
    return e.number("lr") / (1.0 + (e.step - 1.0) * e.number("lr_decay"))


ADAGRAD = Rule(
    "Adagrad",
    "torch.optim.Adagrad; Duchi et al. 2011",
    ("lr", "lr_decay", "weight_decay", "eps", "maximize"),
    _adagrad_update,
    _adagrad_advance,
    _adagrad_rate,
    clock="state",
    memory=lambda group: 0.0,
)


def _moved(e: Elements, square: Tensor) -> Tensor:
    eps = e.number("eps")
    return e.old(MOVED).add(eps).sqrt_().div_(square.add(eps).sqrt_()).mul_(_force(e))


def _adadelta_advance(e: Elements) -> dict[str, Tensor]:
    rho, g = e.number("rho"), _force(e)
    square = e.old(SQUARE).mul(rho).addcmul_(g, g, value=1.0 - rho)
    u = _moved(e, square)
    return {SQUARE: square, MOVED: e.old(MOVED).mul(rho).addcmul_(u, u, value=1.0 - rho)}


ADADELTA = Rule(
    "Adadelta",
    "torch.optim.Adadelta; Zeiler 2012, algorithm 1",
    ("lr", "rho", "eps", "weight_decay", "maximize"),
    lambda e, after: _moved(e, after[SQUARE]),
    _adadelta_advance,
    clock="state",
    memory=lambda group: 0.0,
)
