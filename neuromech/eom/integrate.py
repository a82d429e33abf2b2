"""Integration of fields over parameters, by torchdiffeq, which lays a state out as one vector."""

from __future__ import annotations

import torch
from torch import Tensor

from neuromech.eom.terms import VectorField
from neuromech.errors import EoMError, warn
from neuromech.params import Params

MOST_STEPS = 5_000  # of the solver, between two times
EVALUATIONS = (200, 10)  # of a field that may have kinks, for adaptive steps: to begin with, and for each step of lr


def integrate(
    slope: VectorField,
    start: Params,
    times: list[float],
    rtol: float,
    atol: float,
    method: str,
    lr: float = 0.0,
    step: float = 0.0,
) -> list[Params]:
    """States at `times`, the first of which is 0. `lr` > 0: of a field that may have kinks. `step` > 0: of methods that
    do not adapt."""
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise EoMError("flows are integrated by torchdiffeq: pip install 'neuromech[flow]'") from error
    sizes = {name: p.numel() for name, p in start.items()}

    def unflat(x: Tensor) -> Params:
        parts = x.split(list(sizes.values()))
        return {name: part.view_as(start[name]) for name, part in zip(sizes, parts, strict=True)}

    def flat(params: Params) -> Tensor:
        return torch.cat([params[name].reshape(-1) for name in sizes])

    with torch.no_grad():
        begin = flat(start)
        # Backwards in time is forwards against the field.
        sign = 1.0 if times[-1] > 0 else -1.0
        grid = torch.tensor([abs(t) for t in times], dtype=torch.float64, device=begin.device)
        eps = max(torch.finfo(x.dtype).eps for x in start.values())
        taken, (begins, each) = 0, EVALUATIONS

        def field(t: Tensor, x: Tensor) -> Tensor:
            nonlocal taken
            taken += 1
            if lr and taken > begins + each * float(t) / lr:
                raise _Stiff
            return sign * flat(slope(unflat(x)))

        try:
            path = odeint(
                field,
                begin,
                grid,
                rtol=max(rtol, 100 * eps),
                atol=max(atol, 10 * eps),
                method=method,
                # Steps end at the times asked for: between its steps the solver interpolates, with less accuracy.
                options={"step_size": step} if step else {"step_t": grid[1:], "max_num_steps": MOST_STEPS},
            )
        except _Stiff:
            warn(
                "the flow has kinks: components of the gradient change their sign, and the update jumps there. It is "
                "integrated by steps as long as the optimizer's own, so that it is no closer to the true flow than "
                "they are; the order in lr is not claimed. A larger eps makes it smooth",
                "kinks",
                short="the flow has kinks, and is integrated by plain steps",
            )
            lr, shortest = 0.0, lr
            path = odeint(field, begin, grid, method="rk4", options={"step_size": shortest})
        except AssertionError as error:
            raise EoMError(
                f"the solver makes no headway ({error}): the field is stiff or has kinks (ReLU), or lr is beyond where "
                "the series converges. Allow larger rtol and atol, take a shorter time, or a smaller lr or order"
            ) from error
    return [{name: x.clone() for name, x in unflat(row).items()} for row in path]


class _Stiff(Exception):
    """Adaptive steps become much shorter than lr."""
