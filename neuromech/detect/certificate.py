"""A certificate of completeness: what was found, against the null space of gradients sampled at random.

A direction w of exponents is a scale symmetry if sum_e w_e theta_e dL/dtheta_e = 0, a constant vector c a translation
if sum_e c_e dL/dtheta_e = 0, at all parameters and inputs. So the rows theta * grad L (or grad L) of many random draws
are stacked, and the null space of the stack is the set of all symmetries of that form. Where no loss is known, L is a
random combination of the outputs. All is in float64, with the eps of norms turned down to nearly nothing. It costs more
gradients than there are elements, and a singular value decomposition of them: something for a small model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neuromech import params as P
from neuromech.detect.patterns import compressed
from neuromech.detect.sampling import NoVerdict, SampledGradient, samples_of
from neuromech.detect.verify import Experiment
from neuromech.errors import DetectionError
from neuromech.symmetry import Symmetry

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 4096  # trainable elements: a minute or two
DOMAINS = {"scaling": ("scale", "rescale"), "translation": ("translation",)}
_DEAD, _ALIVE = 1e-10, 1e-7  # root mean square of a column, in rows of length one
_ZERO, _NONZERO = 1e-9, 1e-6  # singular values over the largest
_INSIDE = 1e-7  # what of a direction may stick out of a space
_ROUNDS = 5  # of more samples by half
_SHOWN = 4  # missing directions of a block


@dataclass(frozen=True)
class CertifiedBlock:
    """Parameters that are joined by symmetries, found or missed, with the number of directions by domain.

    `missing`: directions of the null space that no family accounts for, as what moves and by which exponent or shift.
    """

    parameters: tuple[str, ...]
    found: Mapping[str, int]
    null: Mapping[str, int]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """The verdict on `samples` sampled gradients. True if nothing is missing, and all that was found is in their null
    space.

    `contradicted`: families that are not. `undecided`: why there is no verdict, if there is none. `notes`: what limits
    it.
    """

    samples: int
    blocks: tuple[CertifiedBlock, ...] = ()
    contradicted: tuple[str, ...] = ()
    undecided: str = ""
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True if the verdict is that nothing is missing."""
        return not (self.undecided or self.contradicted or any(b.missing for b in self.blocks))

    def __bool__(self) -> bool:
        return self.complete

    def table(self) -> pd.DataFrame:
        """One row for each block and domain in which it can move."""
        import pandas as pd

        rows = [
            (", ".join(b.parameters), d, b.found[d], n, "; ".join(m for m in b.missing if m.startswith(d)))
            for b in self.blocks
            for d, n in b.null.items()
            if n
        ]
        return pd.DataFrame(rows, columns=["parameters", "domain", "found", "null_space", "missing"])

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        verdict = "complete" if self.complete else "undecided" if self.undecided else "not complete"
        yield f"{verdict}, by {self.samples:,} sampled gradients" + f": {self.undecided}" * bool(self.undecided)
        yield from (f"  {note}" for note in self.notes)
        for b in self.blocks:
            names = ", ".join(compressed(b.parameters))
            counts = ", ".join(f"{b.found[d]:,} of {n:,} {d}" for d, n in b.null.items() if n)
            yield f"  {names}: {counts or 'nothing can move'}"
            yield from (f"    missing: {words}" for words in b.missing[:_SHOWN])
            if len(b.missing) > _SHOWN:
                yield f"    and {len(b.missing) - _SHOWN:,} more: see table()"
        yield from (f"  found, but contradicted by the gradients: {name}" for name in self.contradicted)


@dataclass(frozen=True)
class _Space:
    """A null space: orthonormal columns `basis`, in units of `size`, over the elements that are `alive`."""

    basis: Tensor
    size: Tensor
    alive: Tensor

    def holds(self, directions: Tensor) -> Tensor:
        """Which of some directions, in units of `size`, lie in it."""
        outside = (directions - self.basis @ (self.basis.T @ directions)).norm(dim=0)
        small: Tensor = outside <= _INSIDE * directions.norm(dim=0)
        return small

    def seen_by(self, rows: Tensor) -> bool:
        """True if some row of length one sees something of it."""
        return self.basis.shape[1] > 0 and bool(((rows[:, self.alive] / self.size) @ self.basis).abs().amax() > _INSIDE)


@dataclass
class _Parts:
    """Which parameters belong together."""

    parent: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> str:
        while (above := self.parent.setdefault(name, name)) != name:
            name = above
        return name

    def join(self, names: Sequence[str]) -> None:
        for name in names[1:]:
            self.parent[self.root(name)] = self.root(names[0])


def certify(found: Sequence[Symmetry], experiments: Sequence[Experiment], samples: int | None = None) -> Certificate:
    """Compare what was found with the null space of sampled gradients; see `Findings.complete`."""
    if not experiments:
        raise DetectionError(
            "these findings hold no model to sample (they come from a record or from a run): call "
            "find_symmetries(model, example).complete()"
        )
    model = experiments[0].model
    trainable = {name: p for name, p in P.named_parameters(model).items() if p.requires_grad}
    if any(p.is_meta for p in trainable.values()):
        raise DetectionError("parameters on the meta device have no gradients: make the model on the CPU")
    if odd := [name for name, p in trainable.items() if not p.is_floating_point()]:
        raise DetectionError(f"{odd[0]} is not made of real numbers, and only these are sampled")
    size = sum(p.numel() for p in trainable.values())
    if size > LIMIT:
        raise DetectionError(
            f"{type(model).__name__} has {size:,} trainable elements, the certificate takes at most {LIMIT:,}: ask for "
            "a small model of the same kind (fewer layers, channels, tokens)"
        )
    if samples is not None and samples <= size:
        raise DetectionError(
            f"{samples:,} gradients cannot tell the symmetries of {size:,} elements: samples must be above {size:,} "
            "(1.5 times as many by default)"
        )
    wanted = samples or math.ceil(1.5 * size) + 20
    names = list(trainable)
    notes: list[str] = []
    try:
        spaces, wanted, unread = _null_spaces(experiments, names, wanted, notes)
    except NoVerdict as reason:
        return Certificate(wanted, undecided=str(reason), notes=tuple(notes))
    if unread.any():
        words = _words(unread.double(), trainable, with_values=False)
        notes.append(f"never read on these inputs, and left out: {', '.join(compressed(words))}")
    return _compared(found, spaces, trainable, wanted, tuple(notes))


def _null_spaces(
    experiments: Sequence[Experiment], names: Sequence[str], wanted: int, notes: list[str]
) -> tuple[dict[str, _Space], int, Tensor]:
    """The null space by domain, from how many samples, and the elements that nobody reads. Raises `NoVerdict`.

    A clear gap in the spectrum is not enough, as samples that differ in too little have one as well: fresh ones must
    not see anything of it.
    """
    stream = samples_of(experiments, names, notes)
    some = list(islice(stream, wanted))
    unread = some[0].unread(torch.stack([s.gradient for s in some]) != 0)
    for _ in range(_ROUNDS):
        spaces = {d: _null_space(_rows(some, d), ~unread, d) for d in DOMAINS}
        fresh = list(islice(stream, len(some) // 3))
        if not any(space.seen_by(_rows(fresh, d)) for d, space in spaces.items()):
            return spaces, len(some) + len(fresh), unread
        some += [*fresh, *islice(stream, len(some) // 4)]
    raise NoVerdict(f"the null space is still shrinking after {len(some):,} samples")


def _rows(some: Sequence[SampledGradient], domain: str) -> Tensor:
    rows = torch.stack([s.theta * s.gradient if domain == "scaling" else s.gradient for s in some])
    out: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=_INSIDE)
    return out


def _null_space(rows: Tensor, read: Tensor, domain: str) -> _Space:
    """An element without a gradient may be shifted at will: it counts as a translation, and not as a scaling."""
    size = rows.square().mean(0).sqrt()
    if bool(((size > _DEAD) & (size < _ALIVE)).any()):
        raise NoVerdict("some elements have gradients so small that they may be rounding errors")
    dead = size <= _DEAD
    alive = ~dead if domain == "scaling" else read
    rows, size = torch.where(dead, 0, rows)[:, alive], torch.where(dead, 1, size)[alive]
    if not bool(rows.any()):
        return _Space(torch.eye(rows.shape[1], dtype=rows.dtype), size, alive)
    _, values, directions = torch.linalg.svd(torch.linalg.qr(rows / size, mode="r").R)
    values = values / values[0]
    if len(between := values[(values >= _ZERO) & (values < _NONZERO)]):
        raise NoVerdict(
            f"{domain}: no gap in the spectrum, with {len(between)} singular values between {_ZERO:.0e} and "
            f"{_NONZERO:.0e} of the largest"
        )
    return _Space(directions[values < _ZERO].T, size, alive)


def _compared(
    found: Sequence[Symmetry],
    spaces: Mapping[str, _Space],
    trainable: Mapping[str, Tensor],
    samples: int,
    notes: tuple[str, ...],
) -> Certificate:
    parts = _Parts()
    owner = [name for name, p in trainable.items() for _ in range(p.numel())]
    missing: list[tuple[str, str, str]] = []  # a parameter of the block, the domain, words
    null: list[tuple[str, str]] = []  # a parameter of the block, the domain
    contradicted: list[str] = []
    for domain, space in spaces.items():
        families = [s for s in found if s.kind in DOMAINS[domain]]
        true = []
        for s in families:
            parts.join([name for name in s.parameters if name in trainable])
            claimed = _members(s, trainable)[space.alive] * space.size[:, None]
            if bool(space.holds(claimed).all()):
                true.append(claimed)
            else:
                contradicted.append(s.name)
        known = _orthonormal(torch.cat(true, 1) if true else space.basis[:, :0])
        for row in _echelon(space.basis / space.size[:, None]):
            full = torch.zeros(len(space.alive), dtype=row.dtype)
            full[space.alive] = row
            moved = list(dict.fromkeys(owner[i] for i in full.nonzero().flatten().tolist()))
            parts.join(moved)
            null.append((moved[0], domain))
            new = row * space.size
            new = (new - known @ (known.T @ new)) / new.norm()
            if new.norm() > _NONZERO:
                known = torch.cat([known, (new / new.norm())[:, None]], 1)
                words = ", ".join(_words(full, trainable))
                missing.append((moved[0], domain, f"{domain}: {words}"))
    return Certificate(samples, _blocks(parts, trainable, null, missing), tuple(contradicted), notes=notes)


def _blocks(
    parts: _Parts, names: Iterable[str], null: Sequence[tuple[str, str]], missing: Sequence[tuple[str, str, str]]
) -> tuple[CertifiedBlock, ...]:
    """The blocks in the order of their first parameters; those that cannot move are one."""
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(parts.root(name), []).append(name)
    still = [name for root, some in members.items() if not any(parts.root(n) == root for n, _ in null) for name in some]
    out = []
    for root, some in members.items():
        if some[0] in still:
            continue
        size = {d: sum(parts.root(n) == root and e == d for n, e in null) for d in DOMAINS}
        lost = [(d, words) for n, d, words in missing if parts.root(n) == root]
        have = {d: size[d] - sum(e == d for e, _ in lost) for d in DOMAINS}
        out.append(CertifiedBlock(tuple(some), have, size, tuple(words for _, words in lost)))
    nothing = dict.fromkeys(DOMAINS, 0)
    return (*out, CertifiedBlock(tuple(still), nothing, nothing)) if still else tuple(out)


def _members(s: Symmetry, trainable: Mapping[str, Tensor]) -> Tensor:
    """The members of a family as vectors over all elements: exponents, or shifts; [elements, members]."""
    ones = {name: torch.ones(p.shape, dtype=torch.float64) for name, p in trainable.items()}
    for name in s.parameters:  # frozen ones stand still
        ones.setdefault(name, torch.ones((), dtype=torch.float64))
    columns = []
    for i in range(s.size):
        v = s.generator(ones, i)
        columns.append(torch.cat([v.get(name, torch.zeros_like(ones[name])).flatten() for name in trainable]))
    return torch.stack(columns, 1)


def _orthonormal(vectors: Tensor) -> Tensor:
    """A basis of the span of some columns."""
    if not vectors.numel():
        return vectors
    u: Tensor
    u, s, _ = torch.linalg.svd(vectors, full_matrices=False)
    return u[:, s > _ZERO * s.amax()]


def _echelon(basis: Tensor) -> list[Tensor]:
    """The reduced row echelon form of the span of some columns, whose rows are sparse.

    The finest split of a space into a direct sum can be read off it: rows that share an element belong together.
    """
    rows = (basis / basis.norm(dim=0)).T.clone() if basis.numel() else basis.T
    done = 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        pivot = done + int(rows[done:, column].abs().argmax())
        if rows[pivot, column].abs() < _NONZERO * rows.abs().amax():
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column].clone()
        others = torch.arange(len(rows)) != done
        rows[others] -= rows[others, column, None] * rows[done]
        done += 1
    return [torch.where(row.abs() < _NONZERO * row.abs().amax(), 0, row) for row in rows[:done]]


def _words(direction: Tensor, trainable: Mapping[str, Tensor], with_values: bool = True) -> list[str]:
    """`fc1.weight[2] by 1`, `fc2.weight[:, 2] by -1`: where a direction lives, and how far it moves there."""
    words, at = [], 0
    unit = float(direction[direction != 0].abs().amin())
    for name, p in trainable.items():
        part = (direction[at : at + p.numel()] / unit).round(decimals=3).reshape(p.shape)
        at += p.numel()
        for value in part[part != 0].unique().tolist():
            words.append(f"{name}{_slices(part == value)}" + f" by {value:g}" * with_values)
    return words


def _slices(where: Tensor) -> str:
    """The smallest slices that hold the true entries, as one would write them."""
    axes = []
    for d, n in enumerate(where.shape):
        here = where.movedim(d, 0).reshape(n, -1).any(1).nonzero().flatten().tolist()
        together = here[-1] - here[0] + 1 == len(here) > 1
        everything = len(here) == n > 1
        run = f"{here[0]}:{here[-1] + 1}" if together else str(here[0] if len(here) == 1 else here)
        axes.append(":" if everything else run)
    while axes and axes[-1] == ":":
        axes.pop()
    return f"[{', '.join(axes)}]" if axes else ""
