"""Gradients of a model at random parameters, states, inputs and cotangents, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import torch
from torch import Tensor

from neuromech import params as P
from neuromech.compat import tree_leaves, tree_map_only
from neuromech.detect.capture import statistics
from neuromech.detect.float64 import widened
from neuromech.detect.verify import Experiment
from neuromech.params import Params

_COTANGENTS = 4  # random ones a draw: as many gradients for one forward
_TINY, _HUGE = 1e-7, 1e5  # losses and parameters are of order one: gradients beyond are rounding, or singular
_EPS = 1e-9  # times the eps of a norm: small against variances, large against rounding errors in a variance
_FELT = 1e-9  # relative change of a gradient under a larger eps
_PATIENCE = 60  # draws in a row that come to nothing

Redraw = Callable[[Tensor, torch.Generator], Tensor]


class NoVerdict(Exception):
    """The numbers do not decide."""


@dataclass(frozen=True)
class SampledGradient:
    """Parameters and gradient at one point, flattened, and how to come back to it."""

    theta: Tensor
    gradient: Tensor
    names: tuple[str, ...]
    at: Params
    experiment: Experiment

    def unread(self, moving: Tensor) -> Tensor:
        """Which elements the result is not made of at all: they are never `moving`, and NaN there leaves it finite.

        A bias before batch norm is no such element; the table row of a token that does not occur is.
        """
        out = torch.zeros(len(self.theta), dtype=torch.bool)
        at = 0
        for name in self.names:
            p = self.at[name]
            part = slice(at, at + p.numel())
            dead = ~moving[:, part].any(0)
            at += p.numel()
            if bool(dead.any()):
                out[part] = self._unread(name, dead)
        return out

    def _unread(self, name: str, dead: Tensor) -> Tensor:
        """All dead elements of a parameter at once, or else one row after another."""
        p = self.at[name]
        if self._finite_without(name, dead):
            return dead
        out = torch.zeros_like(dead)
        for rows in torch.arange(p.numel()).reshape((*p.shape[:1], -1) if p.ndim else (1, 1)):
            where = torch.zeros_like(dead)
            where[rows] = dead[rows]
            if bool(where.any()) and self._finite_without(name, where):
                out |= where
        return out

    def _finite_without(self, name: str, where: Tensor) -> bool:
        p = self.at[name]
        broken = p.masked_fill(where.reshape(p.shape).to(p.device), torch.nan)
        with torch.no_grad():
            return bool(self.experiment.at({**self.at, name: broken}).isfinite().all())


def samples_of(experiments: Sequence[Experiment], names: Sequence[str], notes: list[str]) -> Iterator[SampledGradient]:
    """Samples without end, from all experiments by turns; `notes` takes how inputs were drawn. Raises `NoVerdict`.

    Points that feel an eps are left out: there a dead channel went into a norm, and there is nothing but rounding in
    it. Inputs are drawn anew; where the model does not take that, whole numbers stay as they are, and then all.
    """
    generator = torch.Generator().manual_seed(0)
    ways: list[tuple[Redraw, str]] = [
        (_redrawn, ""),
        (_redrawn_if_real, "the whole numbers among the inputs stayed as they are: the model takes no others"),
        (_as_given, "all inputs stayed as they are: the model takes no others"),
    ]
    given = [t for e in experiments for t in tree_leaves((e.args, e.kwargs)) if isinstance(t, Tensor) and _is_whole(t)]
    if given:
        least, most = min(int(t.amin()) for t in given), max(int(t.amax()) for t in given)
        notes.append(f"tokens and other whole numbers were drawn from {least} to {most}, as in the example")
    failed, reason = 0, ""
    for seed, experiment in enumerate(cycle(experiments)):
        some: list[SampledGradient] = []
        try:
            some = _drawn(experiment, names, generator, ways[0][0], seed)
        except Exception as error:  # whatever it is that the model does not like about other numbers
            reason = f" ({type(error).__name__}: {error})"
            failed = _PATIENCE
        failed = 0 if some else failed + 1
        if failed > _PATIENCE:
            ways, failed = ways[1:], 0
            if not ways:
                raise NoVerdict(f"no finite gradients were found at random parameters{reason}")
            notes[:] = [ways[0][1]]
        yield from some


def _drawn(
    experiment: Experiment, names: Sequence[str], generator: torch.Generator, redraw: Redraw, seed: int
) -> list[SampledGradient]:
    """The gradients of several cotangents at one point, or none if it is a bad one."""
    parameters = P.named_parameters(experiment.model)
    moving = {name: _parameter(parameters[name], generator).requires_grad_() for name in names}
    state = dict(experiment.model.named_buffers())
    kept = [*(name for name in parameters if name not in moving), *statistics(experiment.model)]
    still = {name: _state(parameters.get(name, state.get(name)), generator) for name in kept}
    args, kwargs = tree_map_only(Tensor, lambda t: redraw(t, generator), (experiment.args, experiment.kwargs))
    there, at = replace(experiment, args=args, kwargs=kwargs), {**moving, **still}
    cotangents: list[Tensor] = []
    rows = list(_gradients(there, at, moving, cotangents, generator, _EPS, seed))
    felt = next(_gradients(there, at, moving, cotangents, generator, 4 * _EPS, seed)) - rows[0]
    if not bool(felt.norm() <= _FELT * rows[0].norm()):
        return []
    theta = torch.cat([p.detach().flatten().cpu() for p in moving.values()])
    point = {name: p.detach() for name, p in at.items()}
    return [
        SampledGradient(theta, row, tuple(names), point, there) for row in rows if _TINY < float(row.norm()) < _HUGE
    ]


def _gradients(
    experiment: Experiment, at: Params, moving: Mapping[str, Tensor], cotangents: list[Tensor],
    generator: torch.Generator, eps_factor: float, seed: int,
) -> Iterator[Tensor]:  # fmt: skip
    with torch.enable_grad():
        seen = experiment.at(at, eps_factor, seed)
    for k in range(_COTANGENTS if seen.numel() > 1 else 1):
        if k == len(cotangents):
            cotangents.append(torch.randn(seen.shape, generator=generator, dtype=seen.dtype).to(seen.device))
        grads = torch.autograd.grad(
            seen, list(moving.values()), cotangents[k], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        yield torch.cat([g.flatten().cpu() for g in grads])


def _parameter(p: Tensor, g: torch.Generator) -> Tensor:
    """Of either sign and not near zero, where a gain would leave a norm nothing to divide by; mostly such that sums are
    of order one and no softmax saturates, now and then larger, to reach the bends of a ReLU6."""
    sign: Tensor = torch.randint(2, p.shape, generator=g) * 2 - 1
    summands = p.numel() / max(1, *p.shape) if p.ndim > 1 else 1
    size = 1.0 if float(torch.rand((), generator=g)) < 0.7 else 4 * float(torch.rand((), generator=g))
    noise = torch.rand(p.shape, generator=g, dtype=torch.float64)
    value: Tensor = sign * (0.5 + noise) * size / max(summands, 1) ** 0.5
    return value.to(p.device)


def _state(t: Tensor | None, g: torch.Generator) -> Tensor:
    """Numbers like those of a frozen parameter or a running average: zeros, signs and sizes stay; but not all zeros."""
    assert t is not None
    wide = widened(t)
    if not wide.is_floating_point():
        return wide
    anew = torch.randn if not bool(wide.any()) else torch.rand
    noise: Tensor = anew(t.shape, generator=g, dtype=torch.float64).to(t.device)
    return noise if not bool(wide.any()) else wide * (0.5 + noise)


def _redrawn(t: Tensor, g: torch.Generator) -> Tensor:
    """Other numbers of the same kind: normal ones of the same size, or whole ones in the range of those that occur."""
    if not _is_whole(t):
        return _redrawn_if_real(t, g)
    least, most = int(t.amin()), int(t.amax())
    if least >= 0:
        return torch.randint(least, most + 1, t.shape, generator=g).to(t)
    which = torch.randint(t.numel(), (t.numel(),), generator=g)  # a negative one may stand for something
    return t.flatten()[which.to(t.device)].reshape(t.shape)


def _is_whole(t: Tensor) -> bool:
    """True for tokens, numbers of classes, and the like."""
    return not (t.is_floating_point() or t.is_complex() or t.dtype is torch.bool) and t.numel() > 0


def _redrawn_if_real(t: Tensor, g: torch.Generator) -> Tensor:
    """Normal numbers of the same size, without signs where there are none; masks (zeros and ones, infinities) stay."""
    if not t.is_floating_point() or not t.numel() or not bool(t.isfinite().all()) or t.unique().tolist() == [0, 1]:
        return t
    wide = widened(t)
    size = float(wide.square().mean().sqrt()) or 1.0
    new: Tensor = (torch.randn(t.shape, generator=g, dtype=torch.float64) * size).to(t.device)
    return new.abs() if bool((wide >= 0).all()) and bool(wide.any()) else new


def _as_given(t: Tensor, g: torch.Generator) -> Tensor:
    return t
