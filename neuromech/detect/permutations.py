"""Permutations: hidden units that may change places, whatever lies between the layers that write and read them.

An index of a parameter may be permuted if every operator that meets it treats its entries alike, and if nothing that
does not move has it: not the outputs, the inputs, a buffer or a mask. Which indices are the same is known from the pass
over the graph that found the scale symmetries (`interpret.py`); here every operator says which of them it tells apart.

These are finite symmetries, so no charge belongs to them. They are what merging of models (Entezari et al. 2022;
Ainsworth et al. 2023) and pruning have to know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from neuromech.detect.axes import Atom, Label, leaves
from neuromech.detect.blocks import StridedBlock, joined, term
from neuromech.detect.graph import Node, known_number
from neuromech.detect.interpret import Interpreter
from neuromech.detect.operator import is_elementwise, operator_of, short
from neuromech.detect.told_apart import everything
from neuromech.errors import SymmetryError
from neuromech.params import Params
from neuromech.symmetry import Symmetry, Term

_TOLERANCE = 1e-9  # relative, in float64: a sum in another order


@dataclass(frozen=True, repr=False)
class Permutation:
    """`size` units that may change places: entry i of every term is theirs, and all terms move together.

    `defect`: the measured change of the outputs under a random permutation (nan: not measured).
    """

    size: int
    terms: tuple[Term, ...]
    defect: float = math.nan

    kind = "permutation"

    @property
    def name(self) -> str:
        return ", ".join(map(str, self.terms))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that it moves, each once."""
        return tuple(dict.fromkeys(t.parameter for t in self.terms))

    def __str__(self) -> str:
        return f"permutation of {self.size:,} units: {self.name}"

    __repr__ = __str__

    def transform(self, params: Mapping[str, Tensor], order: Sequence[int] | Tensor) -> Params:
        """All `params`, where unit i is what unit `order[i]` was; `SymmetryError` unless that is a permutation."""
        order = torch.as_tensor(order)
        if sorted(order.tolist()) != list(range(self.size)):
            raise SymmetryError(f"{self.name}: the order must name each of the {self.size} units once")
        out = dict(params)
        for t in self.terms:
            out[t.parameter] = t.permuted(out[t.parameter], order)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON; `from_dict` is its inverse."""
        terms = Symmetry("translation", self.size, self.terms).to_dict()["terms"]
        return {"kind": self.kind, "size": self.size, "name": self.name, "terms": terms, "defect": self.defect}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Permutation:
        whole = Symmetry.from_dict({**data, "kind": "translation", "reason": "", "broken_by": ()})
        return cls(whole.size, whole.terms, whole.defect)


def permutations(interpreter: Interpreter, shapes: Mapping[str, tuple[int, ...]]) -> list[Permutation]:
    """The permutations of hidden units, read off a pass over a graph that is done."""
    fixed = _fixed(interpreter)
    places: dict[Atom, list[StridedBlock]] = {}
    for value, (unknown, _) in interpreter.unknowns.items():
        for block in unknown.blocks():
            dims = block.indices()
            for k, (label, stride) in enumerate(dims):
                rest = tuple(sorted(((x.n, s) for i, (x, s) in enumerate(dims) if i != k), key=lambda d: -d[1]))
                places.setdefault(label.root, []).append(
                    StridedBlock(value.names[0], Fraction(1), block.start, ((label.n, stride),), rest)
                )
    return [
        Permutation(root.n, tuple(term(b, shapes[b.parameter]) for b in joined(some, shapes)))
        for root, some in places.items()
        if root not in fixed
    ]


def _fixed(s: Interpreter) -> set[Atom]:
    """The index sets whose members somebody tells apart."""
    out: set[Atom] = set()

    def fix(labels: Iterable[Label]) -> None:
        todo = leaves(labels)
        while todo:
            x = todo.pop()
            out.add(x.root)
            todo += leaves(x.segments)

    for value, t in s.constants():
        if value.kind == "parameter" or known_number(value) is None:
            fix(t.labels)
    for value in s.graph.outputs:
        fix(s.abstract(value).labels)
    for node in s.interpreted():
        fix(_told_apart(s, node))
    return out


def _told_apart(s: Interpreter, node: Node) -> list[Label]:
    """The indices whose entries an operator does not treat alike."""
    op = short(node.op)
    operator = operator_of(op)
    if node.escape or node.opaque or operator is None or operator.rule is None or id(node) in s.blocked:
        return everything(s, node)
    if operator.apart:
        try:
            labels: list[Label] = operator.apart(s, node)
        except Exception:  # as for a rule: what fails is claimed nothing of, and costs nothing else
            return everything(s, node)
        return labels
    return [] if operator.same_content or is_elementwise(op) else everything(s, node)


def checked(
    found: Sequence[Permutation], params: Params, outputs: Callable[[Params], Tensor], seed: int = 0
) -> tuple[list[Permutation], list[Permutation]]:
    """The permutations with their defect, true ones and false: how far random ones move the outputs.

    All are tried in one forward, and halved where that fails.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(p.size, generator=generator) for p in found]
    before = outputs(params)
    true: list[Permutation] = []
    false: list[Permutation] = []

    def halve(some: range) -> None:
        moved = params
        for i in some:
            moved = found[i].transform(moved, orders[i])
        defect = float((outputs(moved) - before).norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny))
        if defect <= _TOLERANCE or len(some) == 1:
            (true if defect <= _TOLERANCE else false).extend(replace(found[i], defect=defect) for i in some)
        else:
            half = len(some) // 2
            halve(some[:half])
            halve(some[half:])

    if found:
        halve(range(len(found)))
    return true, false
