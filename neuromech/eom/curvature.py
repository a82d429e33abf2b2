"""Curvature of a loss, from Hessian-vector products alone: its largest eigenvalue, along a direction, on average.

`loss` is a pure function of a dict of parameters, or a closure over the live ones of a model that is then passed in
their place; a closure may be that of FSDP2 or of fused kernels, whose products are differences of gradients. Nothing
of a run is changed. Long work shows its progress on request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuromech.eom.closure import Live
from neuromech.eom.derivatives import HVPForm, Point
from neuromech.eom.lanczos import largest
from neuromech.eom.landscape import PureLandscape
from neuromech.errors import EoMError
from neuromech.params import Params, combine, dot, named_parameters, norm

Where = Params | nn.Module


class Curvature(NamedTuple):
    """`value` is off by about `uncertainty`; `products` Hessian-vector products were taken. `vector` has length 1."""

    value: float
    uncertainty: float
    products: int
    vector: Params


def sharpness(
    loss: Callable[..., Any],
    at: Where,
    hvp: HVPForm = "auto",
    tolerance: float = 1e-2,
    most: int = 60,
    start: Params | None = None,
    progress: bool = False,
) -> Curvature:
    """The largest eigenvalue of the Hessian, by Lanczos, and its vector.

    Stops at a residual of `tolerance` times the largest eigenvalue seen, or after `most` products. `start`: a guess of
    the vector. The uncertainty is the residual, and the error of products where they are differences. Raises `EoMError`
    for what is not a loss, or if a product is not finite.
    """
    with _point(loss, at, hvp) as (point, here), _bar(most, progress) as tick:

        def product(v: Params) -> Params:
            tick()
            return point.hvp(v)

        found = largest(product, here, tolerance, most, start)
        vector = combine([(1.0 / float(norm(found.vector)), found.vector)])
        return Curvature(found.value, found.residual + _rough(point, vector, found.value), found.steps, vector)


def directional_sharpness(loss: Callable[..., Any], at: Where, direction: Params, hvp: HVPForm = "auto") -> Curvature:
    """u^T H u / |u|^2 along a direction, as the update of an optimizer.

    Raises `EoMError` for a direction of other names, or of length 0.
    """
    with _point(loss, at, hvp) as (point, here):
        if direction.keys() != here.keys():
            raise EoMError(f"the direction has the names {sorted(direction)}, the parameters {sorted(here)}")
        length = float(norm(direction))
        if not 0.0 < length < math.inf:
            raise EoMError(f"the direction has length {length}: it has to be positive and finite")
        u = combine([(1.0 / length, direction)])
        value = float(dot(u, point.hvp(u)))
        return Curvature(value, _rough(point, u, value), 1, u)


def trace(
    loss: Callable[..., Any], at: Where, hvp: HVPForm = "auto", probes: int = 30, progress: bool = False
) -> tuple[float, float]:
    """The trace of the Hessian and its standard error, by Hutchinson's estimate: the mean of z^T H z over random signs.

    Raises `EoMError` for fewer than 2 probes.
    """
    if probes < 2:
        raise EoMError(f"probes is {probes}: an error bar needs at least 2")
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers stay as they are

    def signs(x: Tensor) -> Tensor:
        return (2.0 * torch.randint(0, 2, x.shape, generator=generator, dtype=torch.float64) - 1.0).to(x)

    with _point(loss, at, hvp) as (point, here), _bar(probes, progress) as tick:
        values = []
        for _ in range(probes):
            z = {name: signs(x) for name, x in here.items()}
            values.append(float(dot(z, point.hvp(z))))
            tick()
    mean = math.fsum(values) / probes
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (probes - 1) / probes)


def _rough(point: Point, v: Params, value: float) -> float:
    """The error of a product by differences; exact ones have none."""
    return abs(value) * point.difference_error(v) if point.form == "difference" else 0.0


@contextmanager
def _point(loss: Callable[..., Any], at: Where, hvp: HVPForm) -> Iterator[tuple[Point, Params]]:
    if not isinstance(at, nn.Module):
        landscape = PureLandscape(loss, at)
        yield Point.on(landscape, hvp), landscape.here
        return
    params: Params = {name: p for name, p in named_parameters(at).items() if p.requires_grad}
    gradients = {name: p.grad for name, p in params.items()}
    try:
        with Live(loss, params, spectator=True) as live:
            yield Point.on(live, hvp), live.here
    finally:
        for name, p in params.items():
            p.grad = gradients[name]


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], Any]]:
    if not shown:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="Hessian-vector products", leave=False) as bar:
        yield lambda: bar.update()
