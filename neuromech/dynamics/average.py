"""The charges of averaged weights: exponential moving averages and stochastic weight averaging.

An average takes in the weights by mean+ = (1 - w) mean + w theta, and its charges follow: a linear one averages the
charge itself, a quadratic one lags behind by the spread between weights and average (the parallel axis theorem),

    Q(mean+) = (1 - w) Q(mean) + w Q(theta)
    C(mean+) = (1 - w) C(mean) + w C(theta) - w (1 - w) <theta - mean, D (theta - mean)>

w = 1 for the first weights that are taken in; then 1 - decay for an exponential average, 1 / (n + 1) after n for the
plain mean, as `torch.optim.swa_utils.AveragedModel` does it.

Around every update of the average: `before(params, averaged, charges)`, the update, `after(averaged, weight)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.compat import is_sharded
from neuromech.dynamics.charge import Forms
from neuromech.dynamics.forms.sums import Block
from neuromech.dynamics.forms.vectors import Computed, Values
from neuromech.errors import InstrumentError
from neuromech.rounding import coarsest
from neuromech.symmetry import Symmetry


class AverageReading(NamedTuple):
    """The charges of the average after an update, each [rows], float64; `spread` is what it lags behind by, 0 for
    linear charges. `scale` is what a residual is divided by."""

    observed: Tensor
    exact: Tensor
    spread: Tensor
    scale: Tensor


class AverageLaw:
    """The charges of `symmetries` over averaged parameters, by the names of the model. Rows are those of `Laws`."""

    def __init__(
        self, symmetries: Sequence[Symmetry], averaged: Values, members: Sequence[range] | None = None
    ) -> None:
        """`members`: those of each family that are measured; None: all. Raises `InstrumentError` for sharded ones."""
        if any(is_sharded(mean) for mean in averaged.values()):
            raise InstrumentError("averages of a model whose parameters are sharded over processes are not followed")
        for s in symmetries:
            s.check(averaged)
        own = [range(s.size) for s in symmetries] if members is None else members
        self._forms = Forms([Block.of(s, m) for s, m in zip(symmetries, own, strict=True)], averaged)
        self.slices = self._forms.slices
        self._exact, _, _ = self._forms.charges(averaged)
        self._before: tuple[Tensor, Tensor] | None = None

    def before(self, params: Values, averaged: Values, charges: Tensor) -> None:
        """Measure how far the weights lie from the average; `charges`: those of the weights, observed or predicted."""
        apart = {name: _difference(params[name], mean) for name, mean in averaged.items() if name in params}
        spread = self._forms.bilinear([(apart, apart)])[0]
        self._before = charges, torch.cat((spread, spread.new_zeros(self._forms.rows[1])))

    def after(self, averaged: Values, weight: float) -> AverageReading:
        """The charges after an update with that weight of the new weights. Raises `InstrumentError` without before."""
        if self._before is None:
            raise InstrumentError("after() found no update: call before() ahead of each update of the average")
        (charges, spread), self._before = self._before, None
        self._exact = (1 - weight) * self._exact + weight * charges - weight * (1 - weight) * spread
        observed, scale, _ = self._forms.charges(averaged)
        return AverageReading(observed, self._exact, spread, scale)


def _difference(p: Tensor, mean: Tensor) -> Computed:
    return Computed(lambda w: w(p) - w(mean))


class WeightTaken:
    """With which weight an average takes in the weights: every distance |theta - mean| shrinks to 1 - w of itself.

    Made ahead of an update. A distance is known up to a few roundings of the elements (`ROUNDINGS`).
    """

    def __init__(self, params: Values, averaged: Values) -> None:
        self._before = _distances(params, averaged)

    def __call__(self, params: Values, averaged: Values, told: float) -> float | None:
        """Behind the update: that weight, the mean over the parameters, if no rounding makes it `told`; else None."""
        found: list[float] = []
        off = False
        for name, (after, size, eps) in _distances(params, averaged).items():
            before = self._before[name][0]
            if before == 0.0 or not math.isfinite(before + after):
                continue
            left, unsure = after / before, ROUNDINGS * eps * size / before
            off = off or abs(left - abs(1.0 - told)) > unsure + ROUNDINGS * eps
            found.append(1.0 - left)
        return sum(found) / len(found) if off else None


ROUNDINGS = 4.0  # of mean and weights, each multiplied and added


def _distances(params: Values, averaged: Values) -> dict[str, tuple[float, float, float]]:
    """By parameter: |theta - mean|, |theta| + |mean|, the spacing of numbers around 1 of the coarser of the two."""
    names = [name for name, mean in averaged.items() if name in params and mean.is_floating_point()]
    pairs = [(params[name].detach().double(), averaged[name].detach().double()) for name in names]
    if not pairs:
        return {}
    norms = torch.stack([torch.stack(((p - m).norm(), p.norm() + m.norm())) for p, m in pairs]).tolist()
    eps = [coarsest((params[n].dtype, averaged[n].dtype)) for n in names]
    return {n: (apart, size, e) for n, (apart, size), e in zip(names, norms, eps, strict=True)}


def averaging_weight(averaged_so_far: int, decay: float | None = None) -> float:
    """The weight with which `AveragedModel` takes in the next weights; `decay`: of an exponential average."""
    if averaged_so_far == 0:
        return 1.0
    return 1.0 / (averaged_so_far + 1) if decay is None else 1.0 - decay
