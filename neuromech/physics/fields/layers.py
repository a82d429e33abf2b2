"""Layers of potentials: smooth, and with known first and second derivatives, so that these need no autodiff.

A potential that ends in such layers is read as a `Stack`: a prefix of any kind, then primitive steps, each an affine
map or a pointwise function, through which derivatives are carried by hand (`taylor`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.compat import is_hooked
from neuromech.errors import PhysicsError
from neuromech.physics.fields.elementary import elementary

Jet = tuple[Tensor, Tensor, Tensor]  # value, first and second derivative


class Sin(nn.Module):
    """sin(x), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Periodic(nn.Module):
    """Makes what follows periodic: columns with a period become cos and sin of 2 pi x / period, others pass.

    `periods`: one a column, None for a column that passes. [B, n] -> [B, n + number of periods]. `harmonics` k: cos and
    sin of the first k multiples of the base frequency.
    """

    weight: Tensor
    bias: Tensor
    wraps: Tensor

    def __init__(self, periods: Sequence[float | None], harmonics: int = 1) -> None:
        super().__init__()
        rows: list[tuple[int, float, float, bool]] = []
        for column, period in enumerate(periods):
            if period is None:
                rows.append((column, 1.0, 0.0, False))
                continue
            for k in range(1, harmonics + 1):
                rows += [(column, 2 * math.pi * k / period, shift, True) for shift in (math.pi / 2, 0.0)]
        weight = torch.zeros(len(rows), len(periods))
        for i, (column, rate, _, _) in enumerate(rows):
            weight[i, column] = rate
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.tensor([shift for _, _, shift, _ in rows]))
        self.register_buffer("wraps", torch.tensor([wraps for _, _, _, wraps in rows]))

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(x, self.weight, self.bias)
        return torch.where(self.wraps, torch.sin(z), z)

    def jet(self, z: Tensor) -> Jet:
        s, c, one = torch.sin(z), torch.cos(z), torch.ones_like(z)
        return torch.where(self.wraps, s, z), torch.where(self.wraps, c, one), torch.where(self.wraps, -s, 0 * one)


def mlp(
    inputs: int,
    outputs: int,
    width: int = 64,
    depth: int = 3,
    activation: Callable[[], nn.Module] = nn.Tanh,
    periods: Sequence[float | None] | None = None,
    harmonics: int = 1,
) -> nn.Sequential:
    """`depth` hidden layers of `width`, smooth, with a linear end; periodic in the columns that have a period."""
    layers: list[nn.Module] = []
    if periods is not None and len(periods) != inputs:
        raise PhysicsError(
            f"{len(periods)} periods for {inputs} inputs: expected one a column, None where there is none"
        )
    if periods is not None:
        layers.append(Periodic(periods, harmonics))
        inputs += sum(2 * harmonics - 1 for p in periods if p is not None)
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _tanh(z: Tensor) -> Jet:
    a = torch.tanh(z)
    d = 1 - a * a
    return a, d, -2 * a * d


def _sin(z: Tensor) -> Jet:
    a = torch.sin(z)
    return a, torch.cos(z), -a


def _sigmoid(z: Tensor) -> Jet:
    a = torch.sigmoid(z)
    d = a * (1 - a)
    return a, d, d * (1 - 2 * a)


def _silu(z: Tensor) -> Jet:
    s, d, dd = _sigmoid(z)
    return z * s, s + z * d, 2 * d + z * dd


def _gelu(z: Tensor) -> Jet:
    cdf = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    pdf = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return z * cdf, cdf + z * pdf, (2 - z * z) * pdf


@dataclass(frozen=True)
class Affine:
    """z = h W^T + b."""

    weight: Tensor
    bias: Tensor | None


StackStep = Affine | Callable[[Tensor], Jet]


def steps_of(layer: nn.Module) -> list[StackStep] | None:
    """The layer as primitive steps; None if its derivatives are not known here."""
    if type(layer) is nn.Linear:
        return [Affine(layer.weight, layer.bias)]
    if type(layer) is Periodic:
        return [Affine(layer.weight, layer.bias), layer.jet]
    if type(layer) is nn.Identity:
        return []
    if type(layer) is nn.GELU and layer.approximate == "none":
        return [_gelu]
    if type(layer) is nn.Softplus and layer.threshold >= 20:  # below, torch's threshold is a visible kink
        beta = layer.beta

        def softplus(z: Tensor) -> Jet:
            d = torch.sigmoid(beta * z)
            return F.softplus(z, beta), d, beta * d * (1 - d)

        return [softplus]
    known: dict[type, Callable[[Tensor], Jet]] = {nn.Tanh: _tanh, Sin: _sin, nn.Sigmoid: _sigmoid, nn.SiLU: _silu}
    return [known[type(layer)]] if type(layer) in known else None


@dataclass(frozen=True)
class Stack:
    """A potential as `prefix` (None: nothing) followed by primitive steps."""

    prefix: Callable[[Tensor], Tensor] | None
    steps: list[StackStep]

    @property
    def readout(self) -> Affine | None:
        """The last step, if it is affine."""
        last = self.steps[-1] if self.steps else None
        return last if isinstance(last, Affine) else None


def stack_of(potential: nn.Module) -> Stack:
    """Read the potential's end as primitive steps, as far back as they are known; the rest is the prefix.

    Weights are read anew at every call, so that parametrised layers and `torch.func.functional_call` are honoured.
    """
    layers = _flat(potential)
    steps: list[StackStep] = []
    while layers and (found := steps_of(layers[-1])) is not None:
        steps = found + steps
        layers.pop()
    if not layers:
        return Stack(None, steps)
    return Stack(elementary(_composed(layers)), steps)


def _flat(module: nn.Module) -> list[nn.Module]:
    """The layers of nested `Sequential`s in order; hooks make a module opaque, for they must run."""
    if type(module) is nn.Sequential and not is_hooked(module):
        return [layer for child in module for layer in _flat(child)]
    return [module]


def _composed(layers: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return run
