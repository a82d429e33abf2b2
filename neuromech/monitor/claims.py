"""Claimed symmetries against the run's own gradients: <g, D theta> = 0, to rounding, or the claim is withdrawn."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuromech import params as P
from neuromech.detect import Findings, Graph, Invariance, analyse
from neuromech.errors import warn
from neuromech.monitor.torque import TorqueJudge, TorqueMeter, Total
from neuromech.record import some
from neuromech.symmetry import Symmetry, SymmetrySet

WITHDRAWN = (
    "the first gradient of the run does not keep {} claims, which are withdrawn (see .rejected): a backward "
    "is not the derivative of its forward, the loss sees parameters past the model (an L2 penalty in the loss?), or a "
    "rule of neuromech is wrong for this model: then please report it"
)


def check_claims(
    found: Findings,
    params: Mapping[str, nn.Parameter],
    eps: float,
    lenient: bool,
    total: Total | None = None,
    stale: Collection[str] = (),
) -> Findings:
    """`found` with what the gradients in `params` say of each claim; those that they break are withdrawn.

    `lenient`: they stay, as somebody else accuses the gradients. `stale`: parameters whose gradients are of an earlier
    backward, at other weights: nothing is claimed about these.
    """
    claims = [s for s in found.symmetries if not any(name in stale for name in s.parameters)]
    if len(claims) < len(found.symmetries):
        why = f"nothing is claimed about {some(sorted(stale))}, which the first backward did not reach"
        found = replace(found.only(claims), notes=(*found.notes, why))
    if all(p.grad is None for p in params.values()):
        return replace(found, notes=(*found.notes, "nothing was verified: the gradients were taken elsewhere"))
    excess = excess_of(claims, params, eps, total)
    claims = [replace(s, defect=d) for s, (_, d) in zip(claims, excess, strict=True)]
    broken = [s for s, (by, _) in zip(claims, excess, strict=True) if by > 1 and not s.broken_by]
    unchecked = total is not None and any(s.kind == "matrix" for s in claims)
    but = ", but for matrix families: parameters are sharded, and their products are not taken" if unchecked else ""
    notes = (*found.notes, f"verified on the gradients of the first backward{but}")
    found = replace(found, symmetries=SymmetrySet(claims), notes=notes)
    if not broken or lenient:
        return found
    warn(WITHDRAWN.format(len(broken)), "withdrawn", short=f"{len(broken)} claims failed and are withdrawn")
    return found.withdrawn(broken)


def guess_loss(model: nn.Module, graph: Graph, params: Mapping[str, nn.Parameter], eps: float) -> list[Invariance]:
    """Of a loss that nobody saw: what it does not see of each output, if the gradients of the parameters keep all that
    would follow from it. A softmax is looked for: a common shift along one axis."""
    nothing = [Invariance()] * len(graph.outputs)
    names = {s.name for s in analyse(model, graph, nothing, None)}
    for axis in sorted({d for v in graph.outputs for d in (1, len(v.shape) - 1) if 0 < d < len(v.shape)}):
        guess = [Invariance((axis,)) if axis < len(v.shape) else Invariance() for v in graph.outputs]
        more = [s for s in analyse(model, graph, guess, None) if s.name not in names]
        if more and all(by <= 1 for by, _ in excess_of(more, params, eps)):
            return guess
    return nothing


def excess_of(
    claims: list[Symmetry], params: Mapping[str, nn.Parameter], eps: float, total: Total | None = None
) -> list[tuple[float, float]]:
    """By how much the gradients in `params` break each claim, in units of what rounding (`eps`) allows, and relative to
    |theta| |g|: more than 1 and the claim, or a gradient, is wrong."""
    if not claims:
        return []
    values = {n: p.detach() for n, p in params.items() if p.is_floating_point() and p.numel()}
    grads = {n: p.grad for n, p in params.items() if p.grad is not None and n in values}
    plain = [s for s in claims if s.kind != "matrix"]
    meter = TorqueMeter(plain, values, total)
    with torch.no_grad():
        measured = meter(values, grads)
        excess = TorqueJudge(meter)(measured, eps)
        elements = sum(g.numel() for g in grads.values())
        typical = (measured.gradients.sum() / elements).sqrt()
        out: dict[tuple[str, str], tuple[float, float]] = {}
        for s, rows in zip(plain, meter.slices, strict=True):
            size = measured.size[rows].norm().clamp(min=torch.finfo(torch.float64).tiny)
            defect = float(measured.torque[rows].norm() / size)
            unseen = bool(s.broken_by) and not defect  # its gradient is zero as yet, behind weights that begin at zero
            out[s.kind, s.name] = float(excess[rows].max()), math.nan if unseen else defect
        for s in claims:
            if s.kind == "matrix":
                # Products of sharded matrices need all of them: what is sharded is not checked.
                out[s.kind, s.name] = (0.0, math.nan) if total else _of_matrix(s, values, grads, typical, eps)
    return [out[s.kind, s.name] for s in claims]


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
