"""What EoMOptimizer looks at once in a while: does the closure repeat itself, are the counter terms worth it?"""

from __future__ import annotations

import math
import warnings

import torch

from neuromech.eom.closure import Live
from neuromech.eom.corrected_gradient import Role
from neuromech.eom.derivatives import Point, first_gradient
from neuromech.errors import EoMError, NeuromechWarning
from neuromech.params import Params, combine, dot, norm


def check_repeats(live: Live, point: Point) -> None:
    """Raises `EoMError` if the closure, at the same point, does not give the same loss again."""
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


def check_difference(point: Point) -> None:
    error = point.difference_error(point.gradient)
    if error > 0.05:
        warnings.warn(
            f"the Hessian-vector product by differences of gradients has a relative error of about {error:.0%}: its "
            "counter term is worth little. Use float32 or float64, or hvp='reverse' with a closure that does not call "
            "backward",
            NeuromechWarning,
            stacklevel=3,
        )


def check_scale(waiting: Params, gradient: Params) -> None:
    """Warn if .grad held the gradient of the closure before the step, but by far smaller or larger."""
    mine = {name: gradient[name] for name in waiting}
    a, b = float(norm(mine)), float(norm(waiting))
    if not (a > 0 and b > 0) or 0.1 < a / b < 10.0 or abs(float(dot(mine, waiting))) < 0.9999 * a * b:
        return  # that of another point, perhaps
    warnings.warn(
        f"the gradient of the closure is {a / b:.3g} times the one in .grad, of which EoMOptimizer takes no notice. "
        "Return the loss from the closure as it is, not scaled for GradScaler; and clip gradients by lowering lr",
        NeuromechWarning,
        stacklevel=4,
    )


def check_small(
    handed: Params,
    coefficients: list[tuple[float, ...]],
    powers: list[Params],
    gradient: Params,
    roles: dict[str, Role],
) -> bool:
    """Warn, and say so, if the correction is larger than what it corrects: the series does not converge there."""
    momenta = {role.rule.momentum: role.rule for role in roles.values()}
    rule = momenta[max(momenta)]
    bare = {name: c[0] * gradient[name] for c, name in zip(coefficients, roles, strict=True)}
    plain = float(norm(bare))
    if not plain or not float(norm({n: handed[n] - bare[n] for n in bare})) > plain:  # or it is not a number
        return False
    curvature = float(dot(powers[0], powers[1]) / dot(powers[0], powers[0]).clamp_min(torch.finfo(torch.float64).tiny))
    bound = rule.radius * rule.speed / rule.kappa
    warnings.warn(
        f"the counter terms are larger than the gradient: along it lr * speed * curvature is {curvature:.2g}, and with "
        f"momentum {rule.momentum} a step can follow the flow only below {bound:.2g}. Lower lr, momentum or order",
        NeuromechWarning,
        stacklevel=3,
    )
    return True
