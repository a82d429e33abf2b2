"""`balance`: a model moved along its rescale symmetries to the best point of its orbit, its function unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from neuromech.errors import SymmetryError
from neuromech.params import unwrapped
from neuromech.symmetry import Symmetry, SymmetrySet
from neuromech.transforms.equal_range import equalise, peaks
from neuromech.transforms.inplace import assign, own_parameters
from neuromech.transforms.least_norm import Solution, minimise, squares
from neuromech.transforms.moving import Orbit

Criterion = Literal["norm", "range"]


@dataclass(frozen=True)
class Balanced:
    """What `balance` did. `log_factors`: per family [size], float64: members were multiplied by exp(weight * this).

    `before`, `after`: the sum of squares of all parameters that the families move. `residual`: what is left of the
    condition: of a charge, in units of the squares that make it up ("norm"), or of the logarithm of the ratio of two
    ranges ("range"). `left`: what was not moved, and why.
    """

    criterion: Criterion
    symmetries: SymmetrySet
    log_factors: tuple[Tensor, ...]
    before: float
    after: float
    residual: float
    steps: int
    left: tuple[str, ...]

    def __str__(self) -> str:
        if not self.symmetries:
            first = "nothing was moved: there is no rescale symmetry"
        else:
            members = sum(s.size for s in self.symmetries)
            what = {"norm": "least norm", "range": "equal ranges"}[self.criterion]
            first = (
                f"{what} along {len(self.symmetries):,} rescale families ({members:,} members): "
                f"sum of squares {self.before:.6g} -> {self.after:.6g}, residual {self.residual:.0e} "
                f"after {self.steps} steps"
            )
        return "\n".join([first, *(f"  left alone: {why}" for why in self.left)])


def balance(model: nn.Module, given: Any = None, *, criterion: Criterion = "norm") -> Balanced:
    """Move `model` in place along its rescale symmetries, without changing its function.

    `given`: an example that the model can be called with (as for `find_symmetries`; its symmetries are found first), or
    `Findings`, or symmetries. `criterion`: "norm" minimises the sum of all squares over the whole orbit, which makes
    every rescale charge zero (norm.py); "range" makes the largest weights on both sides of every member equal, as
    cross-layer equalisation does for quantisation (range.py).

    Only rescale families that hold exactly are used. A scale family has no point of least norm (its weights can shrink
    for ever) and is left alone, as is what the eps of a norm breaks, and members that are zero on one side; all this is
    said in what is returned. The model is unwrapped from DDP, where every rank must call it: all take the factors that
    the first found. Nothing but parameters is touched, as in `transform`; momentum buffers belong to the old point, so
    balance before the optimizer is made.

    Raises `SymmetryError`, and changes nothing, if symmetries do not fit the model or no optimum is reached.
    """
    if criterion not in get_args(Criterion):
        raise SymmetryError(f"criterion {criterion!r} is not one of {', '.join(get_args(Criterion))}")
    every = _symmetries(model, given)
    used = [s for s in every if s.kind == "rescale" and not s.broken_by]
    params = own_parameters(model, *used)
    orbit = Orbit(used, params, squares if criterion == "norm" else peaks)
    if not used:
        return Balanced(criterion, SymmetrySet(), (), 0.0, 0.0, 0.0, 0, _left(every, used, orbit, None))
    solution = minimise(orbit) if criterion == "norm" else equalise(orbit, params)
    agreed = _agreed(model, solution.log_factors)
    factors = orbit.factors(params, agreed)
    new = {name: params[name].detach().double() * f for name, f in factors.items()}
    before, after = (_squares(params[name] for name in factors), _squares(new.values()))
    assign(params, new)
    parts = tuple(agreed[here] for here in orbit.slices)
    left = _left(every, used, orbit, solution)
    return Balanced(criterion, SymmetrySet(used), parts, before, after, solution.residual, solution.steps, left)


def _symmetries(model: nn.Module, given: Any) -> list[Symmetry]:
    if isinstance(given, Symmetry):
        return [given]
    if isinstance(given, Sequence) and len(given) and all(isinstance(s, Symmetry) for s in given):
        return list(given)
    from neuromech.detect import Findings, find_symmetries

    if isinstance(given, (Findings, SymmetrySet)):
        return list(given)
    if given is None:
        raise SymmetryError(
            "balance needs to know the model's symmetries: pass an example that it can be called with, or what "
            "find_symmetries found"
        )
    return list(find_symmetries(unwrapped(model), given))


def _squares(tensors: Iterable[Tensor]) -> float:
    return sum(float(t.detach().double().square().sum()) for t in tensors)


def _agreed(model: nn.Module, a: Tensor) -> Tensor:
    """In DDP the factors of the first rank, so that replicas which differ by rounding do not drift apart."""
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return a
    shared = a.to(next(model.parameters()).device)
    torch.distributed.broadcast(shared, torch.distributed.get_global_rank(model.process_group, 0), model.process_group)
    return shared.to(a.device)


def _left(
    every: Sequence[Symmetry], used: Sequence[Symmetry], orbit: Orbit, solution: Solution | None
) -> tuple[str, ...]:
    said = []
    for s in every:
        if s.kind == "scale":
            said.append(f"{s.name}: any positive factor leaves the function alone, so no size is the best")
        elif s.broken_by:
            said.append(f"{s.name}: {'; '.join(s.broken_by)} would change the function")
    for s, here in zip(used, orbit.slices, strict=True):
        n = s.size - int(solution.moved[here].sum()) if solution else 0
        if n:
            said.append(
                f"{n:,} of {s.size:,} members of {s.name}: no point is the best, as where one side is all zeros"
            )
    return tuple(said)
