"""What drives the charges in one step, measured ahead of it: the forms of gradients, buffers and weights, by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.forms.vectors import Values, Vector
from neuromech.dynamics.predictions import Drives
from neuromech.dynamics.protection import Protection
from neuromech.dynamics.splits import Layout


class Measured(NamedTuple):
    """Drives of quadratic and linear rows; torques [1, rows] of directions that are known ahead; the rows that the
    gradients do not leave alone, though the symmetry says so: [rows] bool. `squares`: <x, D x> of what the step
    follows, and the same with absolute values: [quadratic rows]."""

    drives: tuple[Drives, Drives]
    pulls: Tensor | None = None
    broken: Tensor | None = None
    squares: tuple[Tensor, Tensor] | None = None


NOTHING = Measured((Drives(0.0, 0.0, 0.0), Drives(0.0, 0.0, 0.0)))


def measure(
    layout: Layout,
    protection: Protection | None,
    params: Values,
    followed: Vector,
    buffers: Values,
    scale: Tensor,
    early: bool,
    changed: bool,
) -> Measured:
    """From what the step follows, gradients or, if there are any, `early`, directions. What nothing needs is 0.

    SGD asks for torque only where a symmetry is approximate or split, or where the gradients were `changed` behind the
    backward. `scale`: of the charges of the weights, [charges]. Without a `protection` what was measured is followed.
    """
    if not followed:
        return NOTHING
    asks_quadratic, asks_linear = layout.measures
    asks_quadratic = asks_quadratic or early or changed
    pairs: list[tuple[Vector, Vector]] = [(followed, followed)] + [(buffers, followed)] * bool(buffers)
    few = () if early or changed else (len(pairs),)
    xs = [followed] * (asks_linear or early)
    forms, sums, squares = layout.forms.both(pairs + [(followed, params)] * asks_quadratic, xs, few)
    n = layout.forms.rows[0]
    found = forms.new_zeros(sum(layout.forms.rows))
    if asks_quadratic:
        found[:n] = torch.where(layout.torque[0, :n] | changed, forms[-1], 0.0)
    if xs:
        found[n:] = sums[0]
    broken = None
    if protection is not None and not early:
        broken = protection.broken(layout, found, squares, layout.of_charges(scale))
    more = torch.full_like(layout.torque[0], changed) if broken is None else broken
    takes = torch.stack((layout.torque[0] | more, layout.torque[1]))
    torque = torch.where(takes, found, 0.0)
    flow = torque[0] if broken is None else torch.where(broken, 0.0, torque[0])
    drives = (
        Drives(forms[0], forms[1] if buffers else 0.0, torque[:, :n], flow[:n]),
        Drives(0.0, 0.0, torque[:, n:], flow[n:]),
    )
    pulls = torch.cat((forms[-1:], sums), dim=1) if early else None
    return Measured(drives, pulls, broken, (forms[0], squares))
