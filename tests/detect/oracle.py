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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuromech.detect import Findings, find_symmetries
from neuromech.detect.float64 import Precise
from neuromech.symmetry import Symmetry

TINY, HUGE = 1e-7, 1e5  # losses and parameters are of order one: gradients beyond are rounding, or singular
EPS = 1e-14  # small against variances, large against the rounding errors in the variance of a constant
TARGETS = 4  # random targets a draw: as many rows for one forward
ROUNDS = 6  # of more draws by half, before giving up
DEAD, ALIVE = 1e-10, 1e-7  # root mean square entries of a parameter element in rows of length one
ZERO, NONZERO = 1e-9, 1e-6  # singular values of rows of length one, columns of one size


DOMAINS = {"scaling": ("scale", "rescale"), "translation": ("translation",)}


class NoGap(Exception):
    """The spectrum does not fall into zeros and others."""


class Subject(Protocol):
    """What the oracle asks about: a model in float64 with random batches, and a loss with random targets."""

    @property
    def name(self) -> str: ...
    def model(self) -> nn.Module: ...
    def example(self, g: torch.Generator) -> tuple[Tensor, ...] | dict[str, Tensor]: ...
    def target(self, output: Any, g: torch.Generator) -> Tensor: ...
    def loss_of(self, output: Any, target: Tensor) -> Tensor: ...


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


def find(subject: Subject, verify: bool = True) -> Findings:
    """What detection says about a subject."""
    g = torch.Generator().manual_seed(1)
    model, example = subject.model(), subject.example(g)
    with torch.no_grad(), Precise():
        target = subject.target(_call(model, example), g)
    return find_symmetries(model, example, loss=subject.loss_of, target=target, verify=verify)


def null_spaces(subject: Subject, seed: int = 0) -> dict[str, NullSpace]:
    """All symmetries of a subject by domain, from as many draws as it takes: fresh ones must not contradict them.

    A spectrum alone is not enough: draws that differ in too little leave zeros with a clear gap, too.
    """
    draws = _draws(subject, seed)
    size = sum(p.numel() for p in subject.model().parameters() if p.requires_grad)
    thetas, grads = _take(draws, math.ceil(1.5 * size) + 20)
    unread = _unread(subject, (torch.stack(grads) == 0).all(0))
    for _ in range(ROUNDS):
        theta, grad = torch.stack(thetas), torch.stack(grads)
        found = {d: null_space(_rows(theta, grad, d), ~unread, scaling=d == "scaling") for d in DOMAINS}
        more = _take(draws, math.ceil(0.3 * size) + 20)
        fresh = tuple(map(torch.stack, more))
        if not any(null.contradicted(_rows(*fresh, d)) for d, null in found.items()):
            return found
        again = _take(draws, len(thetas) // 2)
        thetas, grads = (a + b + c for a, b, c in zip((thetas, grads), more, again, strict=True))
    raise NoGap(f"after {len(thetas)} draws of {size} elements the null space is still shrinking")


def scores(subject: Subject, found: Findings) -> dict[str, Score]:
    """What was found beside the null space, by domain."""
    return {
        domain: null.score((s for s in found if s.kind in DOMAINS[domain]), subject.model())
        for domain, null in null_spaces(subject).items()
    }


def check_exactly(subject: Subject, translations: int) -> None:
    """Precision and recall one, without verification; `translations`: how many directions of them there are."""
    found = find(subject, verify=False)
    for score in scores(subject, found).values():
        assert score.shared == score.claimed, "a false claim"
        assert score.shared == score.true
    assert found.dimension["translation"] == translations


def _rows(theta: Tensor, grad: Tensor, domain: str) -> Tensor:
    rows = theta * grad if domain == "scaling" else grad
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=TINY)


def _take(draws: Iterator[tuple[Tensor, Tensor]], n: int) -> tuple[list[Tensor], list[Tensor]]:
    thetas, grads = [], []
    for theta, grad in islice(draws, 10 * n):
        if TINY < grad.norm() < HUGE:
            thetas.append(theta)
            grads.append(grad)
        if len(grads) == n:
            return thetas, grads
    raise NoGap(f"of {10 * n} draws only {len(grads)} have a gradient")


def _draws(subject: Subject, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters and gradients at random points, flattened; points that feel an eps are left out.

    Such a point has a dead channel that went into a norm: no variance to divide by, and nothing but rounding in it.
    """
    g = torch.Generator().manual_seed(seed)
    model = subject.model()
    params = [p for p in model.parameters() if p.requires_grad]
    state = torch.random.get_rng_state()  # dropout
    buffers = [(b, b.clone()) for b in model.buffers()]  # vectors of a power iteration

    def gradients(example: Any, targets: list[Tensor], eps: float) -> Iterator[Tensor]:
        without_eps(model, eps)
        torch.set_rng_state(state)
        for buffer, first in buffers:
            buffer.copy_(first)
        output = _call(model, example)
        for k in range(TARGETS):
            if k == len(targets):
                targets.append(subject.target(output, g))
            loss = subject.loss_of(output, targets[k])
            grad = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True, materialize_grads=True)
            yield torch.cat([v.flatten() for v in grad])

    felt_in_a_row = 0
    while felt_in_a_row < 100:
        for p in params:
            p.data = _values(p, g)
        example = subject.example(g)
        targets: list[Tensor] = []
        with torch.random.fork_rng([]), Precise():
            rows = list(gradients(example, targets, EPS))
            felt = next(gradients(example, targets, 4 * EPS)) - rows[0]
            next_state = torch.random.get_rng_state()
        state = next_state
        felt_in_a_row += 1
        if felt.norm() <= 1e-9 * rows[0].norm():
            felt_in_a_row = 0
            theta = torch.cat([p.detach().flatten() for p in params])
            yield from ((theta, row) for row in rows)
    raise NoGap("all draws feel the eps of some norm, however small")


def _unread(subject: Subject, dead: Tensor) -> Tensor:
    """Which of the `dead` elements the loss is not made of at all: as NaN they would leave it finite.

    A bias before batch norm is no such element; the table row of a position beyond the longest sentence is.
    """
    g = torch.Generator().manual_seed(0)
    model, unread, at = subject.model(), torch.zeros_like(dead), 0
    example = subject.example(g)
    for p in (p for p in model.parameters() if p.requires_grad):
        rows = dead[at : at + p.numel()].reshape(p.shape if p.ndim else (1,))
        before = p.detach().clone()
        for i in rows.flatten(1).any(1).nonzero().flatten() if rows.ndim > 1 else rows.nonzero().flatten():
            where = torch.zeros_like(rows)
            where[i] = rows[i]
            with torch.no_grad():
                p.masked_fill_(where.reshape(p.shape), torch.nan)
                output = _call(model, example)
                if subject.loss_of(output, subject.target(output, g)).isfinite():
                    unread[at : at + p.numel()] |= where.flatten()
                p.copy_(before)
        at += p.numel()
    return unread


def _values(p: Tensor, g: torch.Generator) -> Tensor:
    """Of either sign, and not near zero, where a gain would leave a norm nothing to divide by; mostly of a size at
    which sums are of order one, so that no softmax saturates, and now and then larger, to reach the bends of ReLU6."""
    sign = torch.randint(2, p.shape, generator=g) * 2 - 1
    summands = p.numel() / max(p.shape) if p.ndim > 1 else 1
    size = 1.0 if torch.rand((), generator=g) < 0.7 else float(4 * torch.rand((), generator=g))
    return sign * (0.5 + torch.rand(p.shape, generator=g, dtype=p.dtype)) * size / summands**0.5


def _call(model: nn.Module, example: tuple[Tensor, ...] | dict[str, Tensor]) -> Any:
    return model(**example) if isinstance(example, dict) else model(*example)


def without_eps(model: nn.Module, eps: float = EPS) -> None:
    for m in model.modules():
        for name in ("eps", "variance_epsilon", "layer_norm_eps", "norm_eps"):
            if isinstance(getattr(m, name, None), float):
                setattr(m, name, eps)


@dataclass(frozen=True)
class NullSpace:
    """All directions to which the rows are blind: an orthonormal `basis` [elements, dimension], in units of `size`,
    over the elements that are `alive`. `gap`: the largest singular value taken for zero, the smallest that is not."""

    basis: Tensor
    size: Tensor
    alive: Tensor
    gap: tuple[float, float]

    @property
    def dimension(self) -> int:
        return self.basis.shape[1]

    def score(self, claims: Iterable[Symmetry], model: nn.Module) -> Score:
        """The claims of one domain against all that is true in it."""
        claimed = directions(claims, model)[self.alive] * self.size[:, None]
        inside = self.contains(claimed)
        return Score(self.dimension, rank(claimed), rank(claimed[:, inside]))

    def contradicted(self, rows: Tensor) -> bool:
        """True if some row of length one sees something of the null space."""
        return bool(((rows[:, self.alive] / self.size) @ self.basis).abs().amax() > TINY) if self.dimension else False

    def contains(self, directions: Tensor) -> Tensor:
        """Which of some directions, in units of `size`, are in the null space."""
        outside = (directions - self.basis @ (self.basis.T @ directions)).norm(dim=0)
        return outside <= TINY * directions.norm(dim=0)


def null_space(rows: Tensor, read: Tensor, scaling: bool) -> NullSpace:
    """There must be no doubt about which singular values are zero. Dead elements count for translations alone."""
    size = rows.square().mean(0).sqrt()
    if (doubt := (size > DEAD) & (size < ALIVE)).any():
        raise NoGap(f"which elements have a gradient? {size[doubt].tolist()[:9]}")
    dead = size <= DEAD
    alive = ~dead if scaling else read
    rows, size = torch.where(dead, 0, rows)[:, alive], torch.where(dead, 1, size)[alive]
    if not rows.any():
        return NullSpace(torch.eye(rows.shape[1], dtype=rows.dtype), size, alive, (0.0, 1.0))
    _, s, vh = torch.linalg.svd(torch.linalg.qr(rows / size, mode="r").R)
    s = s / s[0]
    zeros = s < ZERO
    if ((s >= ZERO) & (s < NONZERO)).any():
        raise NoGap(f"which singular values are zero? {s[(s >= ZERO) & (s < NONZERO)].tolist()[:9]}")
    gap = float(s[zeros].amax()) if zeros.any() else 0.0, float(s[~zeros].amin())
    return NullSpace(vh[zeros].T, size, alive, gap)


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
