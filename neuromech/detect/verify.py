"""The numerical defect of a claim: does the real model, in float64, see the transformation?

Two measurements on the model itself, not on the recorded graph, so that a mistake in the recording cannot confirm
itself. With L the loss (or what the loss sees of the output) and v the generator of a random member:

    finite        |L(T(alpha) theta) - L(theta)| / |L(theta)|,    alpha random for every member of the family at once
    first order   |<grad L, v>| / (|grad L| |v|)

The defect is the larger. A false claim moves L at first order in alpha, a true one at rounding; the square root of the
machine precision lies half-way between in the exponent and is the line.

A symmetry that is broken by the eps of a norm is true in the limit eps -> 0: its defect must fall with eps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from neuromech import params as P
from neuromech.detect.capture import call, preserved_rng, tensors_of
from neuromech.params import Params
from neuromech.symmetry import Symmetry

# The norms, as modules call them and as they are called below; all have an argument `eps`.
_NORMS = {F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm, F.rms_norm}
_SHRINK = 1e-4  # factor on eps; the defect is proportional to eps, and must fall by most of this factor


@dataclass(frozen=True)
class Experiment:
    """A model with an example and what its loss sees of the outputs, to be evaluated at any parameters."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seen: Callable[[Any], list[Tensor]]

    def at(self, params: Params, eps_factor: float = 1.0) -> Tensor:
        """All that the loss sees at `params`, flattened: the same random numbers at every call."""
        with preserved_rng(), _eps(eps_factor):
            torch.manual_seed(0)
            state = {name: _wide(b.clone()) for name, b in self.model.named_buffers()}
            args, kwargs = tree_map_only(Tensor, _wide, (self.args, self.kwargs))
            return torch.cat([t.reshape(-1) for t in self.seen(call(self.model, args, kwargs, {**state, **params}))])


def outputs_as_they_are(output: Any) -> list[Tensor]:
    """No loss: every floating point tensor of the output counts."""
    return tensors_of(output)


def _wide(t: Tensor) -> Tensor:
    return t.detach().double() if t.is_floating_point() else t


class _EpsMode(TorchFunctionMode):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NORMS:
            call = inspect.signature(func).bind(*args, **kwargs)
            call.apply_defaults()
            if call.arguments["eps"] is not None:
                call.arguments["eps"] *= self.factor
            args, kwargs = call.args, call.kwargs
        return func(*args, **kwargs)


@contextmanager
def _eps(factor: float) -> Iterator[None]:
    if factor == 1.0:
        yield
        return
    with _EpsMode(factor):
        yield


def verify(
    experiment: Experiment, symmetries: Sequence[Symmetry], seed: int = 0
) -> tuple[list[Symmetry], list[Symmetry]]:
    """Measure the defect of every claim; returns (confirmed, rejected), all with their `defect`."""
    generator = torch.Generator().manual_seed(seed)
    theta = {name: _nearby(p.detach(), generator) for name, p in P.named_parameters(experiment.model).items()}
    plain = _Baseline(experiment, theta, 1.0, generator)
    shrunk: _Baseline | None = None
    confirmed: list[Symmetry] = []
    rejected: list[Symmetry] = []
    for s in symmetries:
        alpha = torch.randn(s.size, generator=generator, dtype=torch.float64) / 4
        found = replace(s, defect=plain.defect(s, alpha))
        true = found.defect <= plain.tolerance
        if not true and s.broken_by:
            shrunk = shrunk or _Baseline(experiment, theta, _SHRINK, generator)
            # A quarter of the exponent is left to rounding and to the higher orders of eps.
            true = shrunk.defect(s, alpha) <= max(found.defect * _SHRINK**0.75, shrunk.tolerance)
        (confirmed if true else rejected).append(found)
    return confirmed, rejected


def _nearby(p: Tensor, generator: torch.Generator) -> Tensor:
    """A point near p: at p itself a bias that was initialised with zeros would pass any test of its scale."""
    wide = _wide(p)
    if not wide.is_floating_point():
        return wide
    size = float(wide.square().mean().sqrt()) if wide.numel() else 0.0
    return wide + torch.randn(p.shape, generator=generator, dtype=wide.dtype).to(p.device) * (size or 1.0) / 10


class _Baseline:
    """Loss and gradient at theta, against which transformed parameters are compared."""

    def __init__(self, experiment: Experiment, theta: Params, eps_factor: float, generator: torch.Generator) -> None:
        self.experiment, self.theta, self.eps_factor = experiment, theta, eps_factor
        leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
        with torch.enable_grad():
            seen = experiment.at(leaves, eps_factor)
            direction = torch.randn(seen.shape, generator=generator, dtype=torch.float64).to(seen.device)
            loss = seen @ direction.to(seen.dtype) if seen.numel() > 1 else seen.sum()
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        self.gradient = {name: g for name, g in zip(leaves, grads, strict=True) if g is not None}
        self.seen = seen.detach()
        self.tolerance = torch.finfo(seen.dtype).eps ** 0.5

    def defect(self, s: Symmetry, alpha: Tensor) -> float:
        with torch.no_grad():
            moved = self.experiment.at(s.transform(self.theta, alpha), self.eps_factor)
        finite = (moved - self.seen).norm() / self.seen.norm()
        v = s.tangent(self.theta, alpha)
        first = P.dot(self.gradient, v).abs() / (P.norm(self.gradient) * P.norm(v))
        return float(torch.stack([finite.double(), first]).nan_to_num(nan=torch.inf).max())
