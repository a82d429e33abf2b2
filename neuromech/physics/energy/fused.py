"""The secant of tanh, the costly part of a discrete gradient, as one operator with a derivative of its own.

Written in elementary operators it is read and differentiated by anything (`secants.tanh`); so it is inside function
transforms, compilers and recordings, and where second derivatives are asked for. In ordinary training and prediction
it takes a third of their passes over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from neuromech.compat import dispatch_modes, is_transformed
from neuromech.physics.energy import secants

_LIBRARY = torch.library.Library("neuromech", "FRAGMENT")
_LIBRARY.define("tanh_secant(Tensor a, Tensor b, Tensor fa, Tensor fb) -> Tensor")
_LIBRARY.impl("tanh_secant", secants.tanh, "CompositeExplicitAutograd")
_LIBRARY.impl("tanh_secant", lambda a, b, fa, fb: torch.empty_like(a), "Meta")


def marked_tanh(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """A node that a tracer keeps whole, for `fuse`."""
    out: Tensor = torch.ops.neuromech.tanh_secant(a, b, fa, fb)
    return out


def marked_sigmoid(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """sigmoid x = (1 + tanh(x/2))/2."""
    return marked_tanh(a / 2, b / 2, 2 * fa - 1, 2 * fb - 1) / 4


def fuse(graph: fx.Graph) -> None:
    """Let the marked nodes of a traced sweep run as `tanh` here."""
    for node in graph.nodes:
        if node.target is torch.ops.neuromech.tanh_secant.default:
            node.target = tanh


def tanh(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """(tanh a - tanh b)/(a - b), given both values."""
    if torch.compiler.is_compiling() or dispatch_modes() or any(map(is_transformed, (a, b, fa, fb))):
        return secants.tanh(a, b, fa, fb)
    apply: Callable[..., Any] = _TanhSecant.apply
    out: Tensor = apply(a, b, fa, fb)
    return out


def _parts(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> tuple[Tensor, ...]:
    """The secant is near * (1 - fa fb) T(d) + (1 - near) (fa - fb)/d, with d = a - b and T(d) = tanh(d)/d.

    `near` is 1 or 0; a choice by `torch.where` costs ten of these operators.
    """
    d = a - b
    y = d * d
    near = (secants.tanh_reach(a.dtype) ** 2 - y).sign_().relu_()
    inverse = (1 - near).mul_(d).div_(y + near)
    below = (y + 45).mul_(y).add_(105)
    ratio = (y * 10).add_(105).div_(below).mul_(near)
    product = (fa * fb).neg_().add_(1)
    secant = (ratio * product).addcmul_(fa - fb, inverse)
    return secant, ratio, inverse, product, below, near, d, y


def _value_and_slopes(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> tuple[Tensor, ...]:
    """The secant, T and 1/d with their choices in them, and its derivative by a while fa and fb stay."""
    secant, ratio, inverse, product, below, near, d, y = _parts(a, b, fa, fb)
    steep = y.mul_(4).add_(90).mul_(ratio).neg_().add_(20).mul_(near).mul_(d).mul_(product).div_(below)
    return secant, ratio, inverse, steep.addcmul_(secant, inverse, value=-1)


def _pull(g: Tensor, slopes: list[Tensor], fa: Tensor, fb: Tensor) -> tuple[Tensor, ...]:
    ratio, inverse, steep = slopes
    by_a, by_product, by_change = g * steep, g * ratio, g * inverse
    by_fa = torch.addcmul(by_change, by_product, fb, value=-1)
    return by_a, -by_a, by_fa, by_change.addcmul_(by_product, fa).neg_()


class _TanhSecant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
        if not any(ctx.needs_input_grad):
            return _parts(a, b, fa, fb)[0]
        secant, *slopes = _value_and_slopes(a, b, fa, fb)
        ctx.save_for_backward(a, b, fa, fb, *slopes)
        return secant

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        a, b, fa, fb, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _by_elementary_operators(g, a, b, fa, fb)
        return _pull(g, slopes, fa, fb)


def _by_elementary_operators(g: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """The same derivatives in a form that can be differentiated again."""
    # Under names of their own: fa is made of a, and that is another's part of the chain.
    given = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs]
    out = secants.tanh(*given)
    return torch.autograd.grad(out, given, g, create_graph=True)
