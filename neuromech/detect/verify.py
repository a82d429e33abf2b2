"""The numerical defect of a claim: does the real model, in float64, see the transformation?

Two measurements on the model itself, not on the recorded graph, so that a mistake in the recording cannot confirm
itself. With L the loss (or what the loss sees of the output) and v the generator of a random member:

    first order   |<grad L, v>| / (|grad L| |v|)
    finite        |L(T(alpha) theta) - L(theta)| / |L(theta)|

The first is taken family by family, from one gradient; the second for all families in one transformation, which is
halved where it fails until the false claims stand alone: a handful of forwards, however many families there are.
The defect is the larger. A false claim moves L at first order in alpha, a true one at rounding; the square root of the
machine precision lies half-way between in the exponent and is the line.

A symmetry that is broken by the eps of a norm is true in the limit eps -> 0: its defect, measured at first order, must
fall with eps, and the finite transformation is judged at small eps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuromech import params as P
from neuromech.compat import tree_map_only
from neuromech.detect.calling import call, state_of
from neuromech.detect.capture import tensors_of
from neuromech.detect.effort import effort
from neuromech.detect.float64 import Precise, widened
from neuromech.detect.permutations import Permutation, checked
from neuromech.params import Params
from neuromech.rng import preserved_rng
from neuromech.symmetry import Symmetry

# Factors on eps, with which both defects must fall. The second is for inputs that vary so little that the first leaves
# them below eps still; it is not the first choice, because the rounding errors of a norm grow as 1/sqrt(eps).
_SHRINK = (1e-6, 1e-12)
_TOLERANCE = torch.finfo(torch.float64).eps ** 0.5

Excursion = tuple[Symmetry, Tensor]  # a family, and how far each member goes


@dataclass(frozen=True)
class Experiment:
    """A model with an example and what its loss sees of the outputs, to be evaluated at any parameters."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seen: Callable[[Any], list[Tensor]]

    def at(self, params: Params, eps_factor: float = 1.0, seed: int = 0) -> Tensor:
        """All that the loss sees at `params`, flattened, in float64: the same random numbers at every call."""
        args, kwargs = tree_map_only(Tensor, widened, (self.args, self.kwargs))
        state = state_of(self.model, widened, params)
        with preserved_rng(), Precise(eps_factor):
            torch.manual_seed(seed)
            seen = [t.reshape(-1) for t in self.seen(call(self.model, args, kwargs, state, widened))]
            return torch.cat([t.to(seen[0].device) for t in seen])


@dataclass(frozen=True)
class Verification:
    """Claim by claim the measured defect, and whether it is true; or, for all, why nothing could be measured.

    `open`: the time was up before these, that are not known to be true, could be told from what is false.
    """

    defects: list[float]
    true: list[bool]
    unjudged: str = ""
    open: frozenset[int] = frozenset()


def outputs_as_they_are(output: Any) -> list[Tensor]:
    """No loss: every floating-point tensor of the output counts."""
    return tensors_of(output)


@contextmanager
def watched(progress: Callable[[int, int], None]) -> Iterator[None]:
    """Inside, `progress(done, total)` hears of every check of a family that is done: two a family."""
    before = _watcher.set(progress)
    try:
        yield
    finally:
        _watcher.reset(before)


def is_watched() -> bool:
    return _watcher.get() is not None


_watcher: ContextVar[Callable[[int, int], None] | None] = ContextVar("watcher", default=None)


class _Ticks:
    """Counts checks for whoever is watching."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self._tell = 0, total, _watcher.get()
        self(0)

    def __call__(self, n: int = 1) -> None:
        self.done += n
        if self._tell:
            self._tell(self.done, self.total)


def verify(experiment: Experiment, claims: Sequence[Symmetry], seed: int = 0) -> Verification:
    """Measure the defect of every claim, and tell the true from the false."""
    random = torch.Generator().manual_seed(seed)
    theta = {name: _nearby(p, random) for name, p in P.named_parameters(experiment.model).items()}
    moves = dict(enumerate(_moves(claims, theta, random)))
    unjudged = ""
    try:
        plain = _BasePoint(experiment, theta, 1.0, random)
        if not plain.finite:
            unjudged = "near the present parameters the loss or its gradient is not finite"
    except Exception as error:  # whatever it is that the model does not like about float64
        unjudged = f"the model does not run in float64 ({type(error).__name__}: {error})"
    if unjudged:
        return Verification([math.nan] * len(claims), [True] * len(claims), unjudged)
    tick = _Ticks(2 * len(claims))
    effort().now(f"verification of {len(claims)} families")
    defects: dict[int, float] = {}
    torques: dict[int, float] = {}
    for i, move in moves.items():
        defects[i], torques[i] = plain.first_order(*move), plain.torque(*move)
        tick()

    undecided: set[int] = set()

    def confirm(point: _BasePoint, group: list[int]) -> list[int]:
        """Those of `group` that are true at this eps; their defect includes the finite one."""
        # A quarter of the exponent is left to rounding and to the higher orders of eps.
        fall = point.eps_factor**0.75 if point is not plain else 0.0
        group = [
            i
            for i in group
            if point.first_order(*moves[i]) <= _TOLERANCE or point.torque(*moves[i]) <= fall * torques[i]
        ]
        line = _TOLERANCE
        if group and fall:
            line = max(line, fall * plain.finite_defect([moves[i] for i in group]))
        true = []
        for some, defect in _finite(point, moves, group, line):
            defects.update((i, max(defects[i], defect)) for i in some)
            true += some if defect <= line else []
            undecided.update(some if defect > line and len(some) > 1 else ())
        tick(len(true))
        return true

    true = confirm(plain, [i for i, s in enumerate(claims) if not s.broken_by])
    for factor in (*_SHRINK, 1.0):  # at last as they are: where eps is too small to be felt, so is its absence
        if left := [i for i, s in enumerate(claims) if s.broken_by and i not in true]:
            true += confirm(plain if factor == 1.0 else _BasePoint(experiment, theta, factor, random), left)
    tick(tick.total - tick.done)  # what is false has been checked as well
    left_open = frozenset(undecided.difference(true))
    return Verification([defects[i] for i in moves], [i in true for i in moves], open=left_open)


def tried(experiments: Sequence[Experiment], found: Sequence[Permutation]) -> list[Permutation]:
    """The permutations that leave the outputs alone on every example, dropout aside; all, where that cannot be told."""
    true = list(found)
    for e in experiments:
        theta = {name: widened(p) for name, p in P.named_parameters(e.model).items()}
        with suppress(Exception), torch.no_grad(), _Without("dropout"):
            true, _ = checked(true, theta, e.at)
    return true


class _Without(TorchFunctionMode):
    """Inside, dropout does nothing: units may change places, though their random masks do not."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if getattr(func, "__name__", "") == self.name else func(*args, **(kwargs or {}))


def _moves(claims: Sequence[Symmetry], params: Params, generator: torch.Generator) -> list[Excursion]:
    """A random distance for every member, of moderate size even where many families meet in one parameter."""
    meeting = Counter(name for s in claims for name in s.parameters)
    most = max(meeting.values(), default=1) ** 0.5

    def far(s: Symmetry) -> Tensor:
        longest = max(abs(float(t.weight)) for t in s.terms) * s.order(params) ** 0.5  # the norm of a random matrix
        alpha: Tensor = torch.randn(s.size, generator=generator, dtype=torch.float64) / (4 * most * longest)
        return alpha

    return [(s, far(s)) for s in claims]


def _finite(
    point: _BasePoint, moves: Mapping[int, Excursion], group: list[int], line: float
) -> list[tuple[list[int], float]]:
    """The finite defect of all claims of `group` in one transformation, halved until the false ones stand alone, or the
    time is up."""
    if not group:
        return []
    defect = point.finite_defect([moves[i] for i in group])
    if defect <= line or len(group) == 1 or effort().used() > 1:
        return [(group, defect)]
    half = len(group) // 2
    return [r for part in (group[:half], group[half:]) for r in _finite(point, moves, part, line)]


def _nearby(p: Tensor, generator: torch.Generator) -> Tensor:
    """A point near p: at p itself a bias that was initialised with zeros would pass any test of its scale."""
    wide = widened(p)
    if not wide.is_floating_point() or not wide.numel():
        return wide
    size = float(wide.square().mean().sqrt()) or 1.0
    return wide + torch.randn(p.shape, generator=generator, dtype=wide.dtype).to(p.device) * size / 10


class _BasePoint:
    """Loss and gradient at theta, against which transformed parameters are compared."""

    def __init__(self, experiment: Experiment, theta: Params, eps_factor: float, generator: torch.Generator) -> None:
        self.experiment, self.theta, self.eps_factor = experiment, theta, eps_factor
        leaves = {name: p.clone().requires_grad_() for name, p in theta.items() if p.is_floating_point()}
        with torch.enable_grad():
            seen = experiment.at({**theta, **leaves}, eps_factor)
            direction = torch.randn(seen.shape, generator=generator, dtype=seen.dtype).to(seen.device)
            loss = seen @ direction if seen.numel() > 1 else seen.sum()
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        self.gradient = {name: g for name, g in zip(leaves, grads, strict=True) if g is not None}
        self.seen = seen.detach()
        self.finite = bool(torch.isfinite(P.norm(self.gradient)) and torch.isfinite(self.seen).all())

    def torque(self, s: Symmetry, alpha: Tensor) -> float:
        return float(P.dot(self.gradient, s.tangent(self.theta, alpha)).abs())

    def first_order(self, s: Symmetry, alpha: Tensor) -> float:
        v = s.tangent(self.theta, alpha)
        # A gradient that is nothing but rounding errors has no direction: judge by what could be seen of it at all.
        floor = _TOLERANCE**0.5 * float(self.seen.norm())
        return _ratio(P.dot(self.gradient, v).abs(), (P.norm(self.gradient) * P.norm(v)).clamp(min=floor))

    def finite_defect(self, moves: Sequence[Excursion]) -> float:
        theta = self.theta
        for s, alpha in moves:
            theta = s.transform(theta, alpha)
        with torch.no_grad():
            moved = self.experiment.at(theta, self.eps_factor)
        return _ratio((moved - self.seen).norm(), self.seen.norm())


def _ratio(a: Tensor, b: Tensor) -> float:
    """a / b; zero if a is zero, and infinite if it is not a number."""
    return float((a / b).nan_to_num(nan=torch.inf, posinf=torch.inf)) if a != 0 else 0.0
