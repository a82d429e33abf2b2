"""The secant of tanh, the costly part of a discrete gradient, as one operator with a derivative of its own.

Written in elementary operators it is read and differentiated by anything (`secants.tanh`); so it is inside function
transforms, compilers and recordings, and where second derivatives are asked for. In ordinary training and prediction
it takes a third of their passes over memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from neuromech.compat import dispatch_modes, is_transformed
from neuromech.physics.energy import secants

_BLOCK = 2**20  # bytes of each tensor: smaller ones gain nothing by it
_DEEPEST, _BESIDE = 8, 6  # levels of a fraction alone, and of one beside the values from tanh

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
    if torch.compiler.is_compiling() or dispatch_modes() or is_transformed(a) or is_transformed(b):
        return secants.tanh(a, b, fa, fb)
    if not torch.is_grad_enabled():
        return _in_blocks(_value, 1, a, b, fa, fb)[0]
    apply: Callable[..., Any] = _TanhSecant.apply
    out: Tensor = apply(a, b, fa, fb)
    return out


def _in_blocks(function: Callable[..., tuple[Tensor, ...]], results: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The `results` of a pointwise function, block by block: what it makes on the way stays in the cache.

    Fresh memory for a dozen tensors as large as a batch costs more than the arithmetic.
    """
    first = tensors[0]
    size = _BLOCK // first.element_size() * torch.get_num_threads()
    if first.numel() <= size or first.device.type != "cpu" or not all(x.is_contiguous() for x in tensors):
        return function(*tensors)
    made = tuple(torch.empty_like(first) for _ in range(results))
    for parts in zip(*(x.view(-1).split(size) for x in (*made, *tensors)), strict=True):
        for out, value in zip(parts[:results], function(*parts[results:]), strict=True):
            out.copy_(value)
    return made


def _reach(eps: float, depth: int) -> float:
    """How large y may be for the fraction of this depth: it is off by y^(n+1)/((2n+1)!! (2n+3)!!)."""
    odd = math.prod(range(3, 2 * depth + 2, 2))
    return math.pow(eps / 2 * odd * odd * (2 * depth + 3), 1 / (depth + 1))


def _ratio_and_slope(d: Tensor) -> tuple[Tensor, Tensor]:
    """T(d) = tanh(d)/d and its derivative.

    T = 1/(1 + y v) with y = d^2 and Lambert's fraction 1/v = 3 + y/(5 + y/(7 + ...)). As tanh' = 1 - tanh^2, T' is
    d T (v - T), which loses no digits near 0. Far from 0 the fraction is long, and both are taken from tanh d.
    """
    y, eps = d * d, torch.finfo(d.dtype).eps
    # Other devices than the CPU are not held up for a look.
    largest = (float(y.amax()) if y.numel() else 0.0) if d.device.type == "cpu" else math.inf
    alone = [n for n in range(2, _DEEPEST + 1) if largest <= _reach(eps, n)]
    depth = alone[0] if alone else _BESIDE
    limit = _reach(eps, depth)
    inside = y if alone else y.clamp(max=limit)
    w = (inside / (2 * depth + 1)).add_(2 * depth - 1)
    for k in range(2 * depth - 3, 1, -2):
        w = torch.div(inside, w, out=w).add_(k)
    v = w.reciprocal_()
    ratio = (inside * v).add_(1).reciprocal_()
    slope = v.sub_(ratio).mul_(ratio).mul_(d)
    if alone:
        return ratio, slope
    far = (y - limit).sign_().relu_()  # 1 or 0: `torch.where` costs ten of these operators
    outside = d + (1 - far)
    true = torch.sigmoid(outside * 2).mul_(2).sub_(1)
    true_slope = (true * true).neg_().add_(1)
    true.div_(outside)
    true_slope.sub_(true).div_(outside)
    return ratio.lerp_(true, far), slope.lerp_(true_slope, far)


def _value(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> tuple[Tensor]:
    """tanh a - tanh b = (1 - tanh a tanh b) tanh(a - b). Of small numbers tanh has all digits; its slope would not."""
    d = (a - b).abs_().clamp_min_(torch.finfo(a.dtype).tiny)
    return (torch.tanh(d).div_(d.neg_()).mul_((fa * fb).sub_(1)),)


def _value_and_slopes(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The secant, T, and (1 - fa fb) T'."""
    ratio, slope = _ratio_and_slope(a - b)
    product = (fa * fb).neg_().add_(1)
    return ratio * product, ratio, slope.mul_(product)


def _pull(g: Tensor, fa: Tensor, fb: Tensor, ratio: Tensor, steep: Tensor) -> tuple[Tensor, ...]:
    """`g` times the derivatives by a and by b, while fa and fb stay, and by fa and fb."""
    by_a, by_product = g * steep, (g * ratio).neg_()
    return by_a, -by_a, by_product * fb, by_product.mul_(fa)


class _TanhSecant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
        if not any(ctx.needs_input_grad):
            return _in_blocks(_value, 1, a, b, fa, fb)[0]
        secant, *slopes = _in_blocks(_value_and_slopes, 3, a, b, fa, fb)
        ctx.save_for_backward(a, b, fa, fb, *slopes)
        return secant

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        a, b, fa, fb, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _by_elementary_operators(g, a, b, fa, fb)
        return _in_blocks(_pull, 4, g, fa, fb, *slopes)


def _by_elementary_operators(g: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """The same derivatives in a form that can be differentiated again."""
    # Under names of their own: fa is made of a, and that is another's part of the chain.
    given = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs]
    out = secants.tanh(*given)
    return torch.autograd.grad(out, given, g, create_graph=True)
