"""A slow, obviously right oracle: symmetries as the null space of sampled gradients, in float64.

A direction w of exponents is a scaling symmetry if sum_e w_e theta_e dL/dtheta_e = 0, a constant vector c a translation
if sum_e c_e dL/dtheta_e = 0, at all parameters, for all batches and targets. So the rows theta * grad L (or grad L) are
stacked for many random draws, and the null space of the stack is the set of all symmetries. Nothing here knows how
detection works; the eps of norms is put to nearly zero, where their scale symmetry is exact.

Elements whose gradient is identically zero (a bias before batch norm) are trivial null directions of the scaling rows,
which detection reports as translations instead; the comparison is made modulo them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from zoo import LOSSES, Case, build

from neuromech.detect import Findings, find_symmetries
from neuromech.symmetry import Symmetry

TINY, HUGE = 1e-7, 1e5  # losses and parameters are of order one: gradients beyond these are rounding, or singular
EPS = 1e-14  # small against variances, large against the rounding errors in the variance of a constant
TARGETS = 4  # random targets a draw: as many rows for one forward


class NoGap(Exception):
    """The spectrum does not fall into zeros and others."""


@dataclass(frozen=True)
class Score:
    """Two subspaces compared: `true` is the oracle's dimension, `claimed` detection's, `shared` that of both."""

    true: int
    claimed: int
    shared: int

    @property
    def precision(self) -> float:
        return self.shared / self.claimed if self.claimed else 1.0

    @property
    def recall(self) -> float:
        return self.shared / self.true if self.true else 1.0


def find(case: Case, verify: bool = True) -> Findings:
    """What detection says about a case."""
    g = torch.Generator().manual_seed(1)
    model, x = build(case), case.inputs(g)
    loss = LOSSES[case.loss][0]
    return find_symmetries(model, x, loss=loss, target=case.target(model(*x), g), verify=verify)


def gradients(case: Case, seed: int = 0) -> tuple[Tensor, ...]:
    """Parameters and gradients at random draws, both [rows, elements]; half as many rows again as elements."""
    g = torch.Generator().manual_seed(seed)
    model = build(case)
    without_eps(model)
    params = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in params)
    thetas, grads = [], []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)  # dropout
        for _ in range(math.ceil(1.5 * size / TARGETS) + 5):
            for p in params:
                # Of either sign, and not near zero, where a gain would leave a norm nothing to divide by.
                sign = torch.randint(2, p.shape, generator=g) * 2 - 1
                p.data = sign * (0.5 + torch.rand(p.shape, generator=g, dtype=p.dtype))
            output = model(*case.inputs(g))
            for _ in range(TARGETS):
                loss = LOSSES[case.loss][0](output, case.target(output, g))
                grad = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True, materialize_grads=True)
                grad = torch.cat([v.flatten() for v in grad])
                if grad.norm() < HUGE:  # else a dead channel went into a norm, with no variance to divide by
                    thetas.append(torch.cat([p.detach().flatten() for p in params]))
                    grads.append(grad)
    return tuple(torch.stack(v) if v else torch.zeros(0, size, dtype=torch.float64) for v in (thetas, grads))


def without_eps(model: nn.Module) -> None:
    for m in model.modules():
        if hasattr(m, "eps"):
            m.eps = EPS


def null_space(rows: Tensor) -> Tensor:
    """An orthonormal basis [elements, dimension]; there must be no doubt about which singular values are zero."""
    length = rows.norm(dim=1, keepdim=True)
    if not len(rows := (rows / length)[length[:, 0] > TINY]):
        return torch.eye(rows.shape[1], dtype=rows.dtype)
    _, s, vh = torch.linalg.svd(rows)
    s = s / s[0]
    if ((s > 1e-9) & (s < 1e-5)).any():
        raise NoGap(f"which singular values are zero? {s}")
    return vh[int((s > 1e-7).sum()) :].T


def directions(symmetries: Iterable[Symmetry], model: nn.Module) -> Tensor:
    """The members of all families as vectors over the trainable elements: exponents, or shifts; [elements, members]."""
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    columns = []
    for s in symmetries:
        for i in range(s.size):
            v = s.generator(ones, i)
            columns.append(torch.cat([v.get(name, torch.zeros_like(ones[name])).flatten() for name in trainable]))
    size = sum(ones[name].numel() for name in trainable)
    return torch.stack(columns, dim=1) if columns else torch.zeros(size, 0, dtype=torch.float64)


def rank(vectors: Tensor) -> int:
    return int(torch.linalg.matrix_rank(vectors, rtol=1e-9)) if vectors.numel() else 0


def compare(claims: Sequence[Symmetry], case: Case, theta: Tensor, grads: Tensor, scaling: bool) -> Score:
    """Detection against the oracle in one domain."""
    rows = theta * grads if scaling else grads
    alive = rows.abs().amax(0) > TINY if scaling else torch.ones(rows.shape[1], dtype=torch.bool)
    null = null_space(rows[:, alive])
    model = build(case)
    claimed = directions([s for s in claims if (s.kind != "translation") == scaling], model)[alive]
    outside = (claimed - null @ (null.T @ claimed)).norm(dim=0)
    true = claimed[:, outside <= 1e-7 * claimed.norm(dim=0)]
    return Score(null.shape[1], rank(claimed), rank(true))
