"""Claimed symmetries against the run's own gradients: <g, D theta> = 0, to rounding, or the claim is withdrawn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuromech import params as P
from neuromech.monitor.torque import TorqueJudge, TorqueMeter
from neuromech.symmetry import Symmetry


def excess_of(claims: list[Symmetry], params: Mapping[str, nn.Parameter], eps: float) -> list[tuple[float, float]]:
    """By how much the gradients in `params` break each claim, in units of what rounding (`eps`) allows, and relative to
    |theta| |g|: more than 1 and the claim, or a gradient, is wrong."""
    values = {n: p.detach() for n, p in params.items() if p.is_floating_point() and p.numel()}
    grads = {n: p.grad for n, p in params.items() if p.grad is not None and n in values}
    plain = [s for s in claims if s.kind != "matrix"]
    meter = TorqueMeter(plain, values)
    with torch.no_grad():
        measured = meter(values, grads)
        excess = TorqueJudge(meter)(measured, eps)
        elements = sum(g.numel() for g in grads.values())
        typical = (measured.gradients.sum() / elements).sqrt()
        out: dict[str, tuple[float, float]] = {}
        for s, rows in zip(plain, meter.slices, strict=True):
            size = measured.size[rows].norm().clamp(min=torch.finfo(torch.float64).tiny)
            out[s.name] = float(excess[rows].max()), float(measured.torque[rows].norm() / size)
        for s in claims:
            if s.kind == "matrix":
                out[s.name] = _of_matrix(s, values, grads, typical, eps)
    return [out[s.name] for s in claims]


def _of_matrix(
    s: Symmetry, values: Mapping[str, Tensor], grads: Mapping[str, Tensor], typical: Tensor, eps: float
) -> tuple[float, float]:
    """The same for a family of matrices, by one random member: a false claim's torque is that of any direction.

    `typical`: the root mean square of the elements of all gradients.
    """
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(s.size, generator=generator, dtype=torch.float64)
    tangent = s.tangent({name: values[name].double() for name in s.parameters}, alpha)
    torque = float(P.dot(grads, tangent).abs())
    if not torque:
        return 0.0, 0.0
    count = sum(v.numel() for v in tangent.values())
    own = P.norm({name: grads[name] for name in tangent if name in grads})
    relative = torque / float((own + count**0.5 * typical) * P.norm(tangent))
    return relative * (count / eps) ** 0.5, relative
