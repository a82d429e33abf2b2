"""What EoMOptimizer looks at once in a while: does the closure repeat itself, are the counter terms worth it?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from neuromech.eom.closure import Live
from neuromech.eom.corrected_gradient import Role
from neuromech.eom.derivatives import Point, first_gradient, nodes_of
from neuromech.eom.step_gradient import StepGradient
from neuromech.errors import EoMError, warn
from neuromech.params import Params, combine, dot, norm

MOST_ERROR = 0.1  # of a Hessian-vector product
KINKS = {"Relu", "Threshold", "LeakyRelu", "PreluKernel", "Hardtanh", "Hardswish", "Hardsigmoid", "Abs", "Clamp"}
KINKS |= {"Maximum", "Minimum", "Max", "Min", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D"}
DOUBTFUL = 0.02  # below, low precision may be all that is between two gradients


def check_repeats(live: Live, point: Point) -> Tensor:
    """The loss once more. Raises `EoMError` if the closure, at the same point, does not give the same loss again."""
    again = live.look(live.here)
    if math.isnan(float(point.loss)) and again.gradient is not None:  # a closure that returns nothing
        change, size = combine([(1.0, first_gradient(again, False)[0]), (-1.0, point.gradient)]), norm(point.gradient)
        first, second = float(size), float(size + norm(change))
    else:
        first, second = float(point.loss), float(again.loss.detach())
    eps = torch.finfo(point.loss.dtype).eps if point.loss.is_floating_point() else torch.finfo(torch.float32).eps
    if abs(first - second) > math.sqrt(eps) * max(abs(first), abs(second)):
        raise EoMError(
            f"the closure gave {first:.6g} and then {second:.6g} at the same parameters: it draws a new batch, or "
            "something random that torch, numpy and random do not seed. Draw the batch before step(), and let the "
            "closure only evaluate it"
        )
    return again.loss


def check_kinks(loss: Tensor, order: int) -> None:
    """Warn if the graph of a loss has kinks, for orders that cannot be reached across them.

    A step that crosses a kink is off by lr^2 times the jump of Hg there, whatever terms it has; a path crosses some
    number of them, whatever its lr. So order 1 is kept, and no more.
    """
    found = {name for node in nodes_of(loss) if (name := node.name().split("Backward")[0]) in KINKS}
    if order > 1 and found:
        warn(
            f"the network has kinks ({', '.join(sorted(found))}): across them steps follow the flow to order 1, and "
            f"order {order} is reached only between them. Take order 1, which costs less, or smooth activations "
            "(SiLU, GELU, Softplus) and average pooling",
            "kinks in the network",
            short=f"the network has kinks: order 1 is reached, not {order}",
        )


def check_difference(point: Point) -> None:
    """Raises `EoMError` if the Hessian-vector product by differences is off by more than `MOST_ERROR`."""
    error = point.difference_error(point.gradient)
    if error > MOST_ERROR:
        raise EoMError(
            f"the Hessian-vector product by differences of gradients has a relative error of about {error:.0%}, and "
            "its counter term would be worth little. Take backend='gradients', which has no such error; or, for "
            "products, a closure that returns the loss without calling backward, or parameters in float64"
        )


def check_waiting(waiting: Params, gradient: Params, plain: Callable[[], Params]) -> None:
    """Raises `EoMError` if gradients that wait in .grad are not those of the closure, and so would be dropped.

    `plain` evaluates the closure's gradient once more, as a loop would: another form of operators rounds otherwise.
    """
    size = float(norm(waiting))
    if not size > 0.0:  # cleared by zeros, or not a number
        return
    eps = max(torch.finfo(g.dtype).eps for g in waiting.values())
    mine = {name: gradient[name] for name in waiting}
    off = float(norm(combine([(1.0, waiting), (-1.0, mine)]))) / size
    if off <= eps**0.5:
        return
    ours = plain()
    mine = {name: ours[name] for name in waiting}
    off = float(norm(combine([(1.0, waiting), (-1.0, mine)]))) / size
    if off <= eps**0.5 or math.isnan(off):
        return
    if off < DOUBTFUL:
        warn(
            f"the gradients that wait in .grad differ by {off:.2g} from those of the closure, which are taken",
            "gradients differ",
            short="the gradients in .grad are not those of the closure, which are taken",
        )
        return
    ratio, across = float(norm(mine)) / size, float(dot(mine, waiting))
    if across > 0.9999 * ratio * size**2:
        raise EoMError(
            f"the gradient of the closure is {ratio:.3g} times the one that waits in .grad, of which EoMOptimizer "
            "would take no notice. Return the loss from the closure as it is, not scaled for GradScaler; instead of "
            "clipping lower lr"
        )
    raise EoMError(
        "the gradient that waits in .grad is not that of the closure, and would be dropped: EoMOptimizer takes its "
        "own. Call accumulate(closure) for each micro-batch, without backward, and then step(). For one batch call no "
        "backward before step(), or with the same dropout masks; and clear old gradients with zero_grad()"
    )


def check_slope(live: Live, point: Point) -> bool:
    """Warn, and say so, if the gradient that a closure leaves is not the derivative of the loss that it returns."""
    size = float(norm(point.gradient))
    if not size > 0.0 or not math.isfinite(float(point.loss)):
        return False
    here = live.here
    eps = max(torch.finfo(p.dtype).eps for p in here.values())
    reach = eps ** (1 / 3) * (1.0 + float(norm(here)))

    def slope(reach: float) -> float:
        shifts = [[(by / size, point.gradient)] for by in (reach, -reach)]
        ahead, behind = (float(live.look(shift=shift).loss.detach()) for shift in shifts)
        return (ahead - behind) / (2.0 * reach)

    near, wide = slope(reach), slope(2.0 * reach)
    doubt = 2.0 * abs(near - wide) + 8.0 * eps * abs(float(point.loss)) / reach  # truncation and rounding
    if math.isnan(near) or abs(near - size) <= 0.2 * size + doubt:
        return False
    warn(
        f"the gradient that the closure leaves is {size / near if near else math.inf:.3g} times the derivative of "
        "the loss that it returns: it clips or scales gradients, or returns another loss. Steps follow the flow of "
        "the gradients that it leaves",
        "gradient of another loss",
        short="the closure's gradient is not the derivative of the loss that it returns",
    )
    return True


def check_small(made: StepGradient, gradient: Params, roles: dict[str, Role]) -> bool:
    """Warn, and say so, if the correction is larger than what it corrects: the series does not converge there."""
    powers = made.powers
    momenta = {role.rule.momentum: role.rule for role in roles.values()}
    rule = momenta[max(momenta)]
    bare = {name: c[0] * gradient[name] for c, name in zip(made.coefficients, roles, strict=True)}
    plain = float(norm(bare))
    if not plain or not float(norm({n: made.gradient[n] - bare[n] for n in bare})) > plain:  # or it is not a number
        return False
    curvature = float(dot(powers[0], powers[1]) / dot(powers[0], powers[0]).clamp_min(torch.finfo(torch.float64).tiny))
    bound = rule.radius * rule.speed / rule.kappa
    warn(
        f"the counter terms are larger than the gradient: along it lr * speed * curvature is {curvature:.2g}, and with "
        f"momentum {rule.momentum} a step can follow the flow only below {bound:.2g}. Lower lr, momentum or order",
        "counter terms",
        short="the counter terms are larger than the gradient",
    )
    return True
