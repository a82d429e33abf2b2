"""Every optimizer that the laws know, and some that they do not, as factories: parameters -> optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Lion(Optimizer):
    """As its paper writes it (Chen et al. 2023, algorithm 2)."""

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((m * beta1 + p.grad * (1 - beta1)).sign(), alpha=-group["lr"])
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


class SGDW(Optimizer):
    """Momentum with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 1)."""

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        for group in self.param_groups:
            mu = group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["weight_decay"])
                u = p.grad
                if mu:
                    state = self.state[p]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = p.grad.clone()
                    else:
                        state["momentum_buffer"].mul_(mu).add_(p.grad)
                    b = state["momentum_buffer"]
                    u = p.grad + mu * b if group["nesterov"] else b
                p.add_(u, alpha=-group["lr"])


class Mixed(Optimizer):
    """Muon moves the matrices, AdamW the rest, as in practice; steps are taken by the two that it holds."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        held = list(params)
        self.both = (
            torch.optim.Muon([p for p in held if p.ndim == 2], lr=2e-3, weight_decay=0.1),
            torch.optim.AdamW([p for p in held if p.ndim != 2], lr=1e-3),
        )
        super().__init__(held, {})

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        for optimizer in self.both:
            optimizer.step()


class Halving(torch.optim.AdamW):
    """Does something else than its class says: a law that took its word would be wrong."""

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        super().step(closure)
        with torch.no_grad():
            for p, old in zip((p for group in self.param_groups for p in group["params"]), before, strict=True):
                p.copy_((p + old) / 2)


def of(cls: type[Optimizer], **options: Any) -> Factory:
    return lambda params: cls(params, **options)  # type: ignore[call-arg]


def split(cls: type[Optimizer], **options: Any) -> Factory:
    """Weight decay on matrices only, as in practice: families of both kinds of parameters are split."""

    def make(params: Iterable[nn.Parameter]) -> Optimizer:
        held = list(params)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in held if p.ndim > 1]},
            {"params": [p for p in held if p.ndim < 2], "weight_decay": 0.0},
        ]
        return cls(groups, **options)  # type: ignore[call-arg]

    return make


o = torch.optim
EXACT: dict[str, Factory] = {
    "SGD": of(o.SGD, lr=0.05, weight_decay=5e-3),
    "SGD momentum": of(o.SGD, lr=0.05, momentum=0.9, weight_decay=5e-3),
    "SGD dampening": of(o.SGD, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=5e-3),
    "SGD Nesterov": of(o.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-3),
    "SGDW": of(SGDW, lr=0.05, weight_decay=5e-2),
    "SGDW momentum": of(SGDW, lr=0.02, momentum=0.9, weight_decay=5e-2),
    "SGDW Nesterov": of(SGDW, lr=0.02, momentum=0.9, weight_decay=5e-2, nesterov=True),
}
REBUILT: dict[str, Factory] = {
    "AdamW": of(o.AdamW, lr=1e-3, weight_decay=0.1),
    "AdamW foreach": of(o.AdamW, lr=1e-3, weight_decay=0.1, foreach=True),
    "AdamW fused": of(o.AdamW, lr=1e-3, weight_decay=0.1, fused=True),
    "AdamW amsgrad": of(o.AdamW, lr=1e-3, weight_decay=0.1, amsgrad=True),
    "AdamW, no decay of vectors": split(o.AdamW, lr=1e-3, weight_decay=0.1),
    "Adam": of(o.Adam, lr=1e-3),
    "Adam coupled decay": of(o.Adam, lr=1e-3, weight_decay=0.01),
    "Adam maximize": of(o.Adam, lr=1e-4, maximize=True),
    "RMSprop": of(o.RMSprop, lr=1e-3, weight_decay=0.01),
    "RMSprop centered": of(o.RMSprop, lr=1e-3, centered=True, eps=1e-4),
    "RMSprop momentum": of(o.RMSprop, lr=1e-4, momentum=0.9, weight_decay=0.01),
    "Adagrad": of(o.Adagrad, lr=1e-2, lr_decay=1e-3, weight_decay=0.01),
    "NAdam": of(o.NAdam, lr=1e-3, weight_decay=0.01),
    "NAdamW": of(o.NAdam, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True, foreach=True),
    "Lion": of(Lion, lr=3e-4, weight_decay=0.3),
    "Adafactor": of(o.Adafactor, lr=1e-2, weight_decay=0.01),
    "Adafactor foreach": of(o.Adafactor, lr=1e-2, weight_decay=0.01, foreach=True),
    **({"Muon and AdamW": Mixed} if hasattr(torch.optim, "Muon") else {}),
    "Adadelta": of(o.Adadelta, lr=0.1),
    "Adadelta coupled decay": of(o.Adadelta, lr=0.1, weight_decay=0.01, foreach=True),
    "Rprop": of(o.Rprop, lr=1e-3),
    "RAdam": of(o.RAdam, lr=1e-3, weight_decay=0.01),
    "RAdamW": of(o.RAdam, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True, foreach=True),
    "Adamax": of(o.Adamax, lr=2e-3, weight_decay=0.01),
    "ASGD": of(o.ASGD, lr=0.02, lambd=1e-3, t0=20, weight_decay=0.01),
}
MEASURED: dict[str, Factory] = {
    "a step of its own": of(Halving, lr=1e-3),
}
ALL = EXACT | REBUILT | MEASURED


def steps_of(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """The optimizers that take the steps."""
    return optimizer.both if isinstance(optimizer, Mixed) else (optimizer,)


def gradients(params: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]
