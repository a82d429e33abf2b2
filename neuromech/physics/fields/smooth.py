"""Is a potential fit to be differentiated twice, point by point? Decided by what it is and by what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuromech.compat import called_with
from neuromech.errors import PhysicsError
from neuromech.physics.fields.layers import stack_of

KINKED_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.Threshold, nn.Hardtanh,
    nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Softsign, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
KINKED_FUNCTIONS = frozenset(
    "relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ celu selu threshold hardtanh hardsigmoid "
    "hardswish hardshrink softshrink softsign max_pool1d max_pool2d abs abs_ __abs__ clamp clamp_ clamp_min clamp_max "
    "clip max min amax amin maximum minimum fmax fmin sign round floor ceil trunc fmod remainder".split()
)
SMOOTH = "use a smooth activation: nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, neuromech.physics.Sin"


class _KinkFinder(TorchFunctionMode):
    """Notes the kinked functions applied to what depends on the input, the one tensor that needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.kinks: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in KINKED_FUNCTIONS and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            self.kinks.append(name)
        return func(*args, **(kwargs or {}))


def check_modules(potential: nn.Module) -> None:
    """Raise `PhysicsError` for modules that cannot be part of a potential."""
    for path, module in potential.named_modules():
        where = f" (module {path!r})" if path else ""
        if isinstance(module, KINKED_MODULES):
            raise PhysicsError(
                f"the potential contains {type(module).__name__}{where}, which has a kink: its second derivative is "
                "zero or jumps, so that the field would be wrong or have no gradient. Expected a potential with two "
                f"continuous derivatives: {SMOOTH}"
            )


def check_values(potential: nn.Module, x: Tensor, outputs: int, what: str) -> None:
    """Run the potential on a few points; raise `PhysicsError` if it is not a smooth map of each point by itself.

    `outputs`: the number that it must have; `what`: what they are, in words.
    """
    if not len(x):
        return  # nothing to look at
    x = x.detach()[:3].clone().requires_grad_()
    frozen = {k: v.detach().clone() for k, v in [*potential.named_parameters(), *potential.named_buffers()]}
    try:
        with torch.enable_grad(), _KinkFinder() as watch:
            value = called_with(potential, frozen, (x,))
    except (RuntimeError, IndexError) as error:
        raise PhysicsError(f"the potential fails on points {tuple(x.shape)} of {x.dtype}: {error}") from error
    if not isinstance(value, Tensor) or value.shape != (len(x), outputs):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise PhysicsError(
            f"the potential maps points {tuple(x.shape)} to {found}; expected {(len(x), outputs)}: {what}"
        )
    if watch.kinks:
        raise PhysicsError(
            f"the potential applies {watch.kinks[0]!r} to its input, which has a kink: its second derivative is zero "
            f"or jumps. Expected two continuous derivatives: {SMOOTH}"
        )
    if not value.requires_grad:
        return  # does not depend on x: the field is zero, which is divergence-free
    with torch.no_grad():
        again = called_with(potential, frozen, (x,))
        fewer = called_with(potential, frozen, (x[1:],)) if len(x) == 3 else value[1:]
    tolerance = 1e3 * torch.finfo(value.dtype).eps * (1 + value.detach().abs().max())
    if (again - value).abs().max() > tolerance:
        raise PhysicsError("the potential gives other values when called again (dropout?): call potential.eval() first")
    if len(x) == 3 and (fewer - value[1:]).abs().max() > tolerance:
        raise PhysicsError(
            "the potential's value at a point depends on the other points of the batch (batch norm in training mode?): "
            "expected a map of each point by itself; call potential.eval(), or use layer norm"
        )
    if _flat(potential, frozen, x):
        raise PhysicsError(
            "the potential's second derivative is zero wherever it was looked at: it is linear or has kinks (a mask, "
            f"torch.where?), so that the field would not be learned. Expected two continuous derivatives: {SMOOTH}"
        )


def _flat(potential: nn.Module, frozen: dict[str, Tensor], x: Tensor) -> bool:
    """Is the second derivative exactly zero, but not the first, at x and at points near the origin?

    Stacks of known layers are not asked: if they are linear, it is by intention.
    """
    if stack_of(potential).prefix is None:
        return False
    near = torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape).sin()
    for y in (x.detach(), near):
        y = y.clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = called_with(potential, frozen, (y,))
                (first,) = torch.autograd.grad(value.sum(), y, create_graph=True)
                if not first.requires_grad:
                    continue
                (second,) = torch.autograd.grad(first.square().sum(), y, allow_unused=True)
        except RuntimeError:
            return False  # some operation has no second derivative here; the scheme that needs it will say so
        if not bool((first != 0).any()) or (second is not None and bool((second != 0).any())):
            return False
    return True
