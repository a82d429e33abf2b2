"""One pass over a recorded graph that follows the indices of tensors, as labels (see axes.py; here they have to nest).

If the index n of a tensor is mixed by an invertible matrix M, x -> M x, every operator must carry this on: sums add
tensors that are mixed alike; a contraction over n pairs M with its inverse transpose; an operator that sees the entries
along n in any other way forbids it. So each operator makes statements about indices:

    alike(a, b)       mixed by the same matrix
    dual(a, b)        contracted with each other: the inverse transpose
    fix(a)            not mixed at all
    separate(a, b)    b is summed, or moved to other positions, while a stays: neither numbers matrices of the other
    block(a, s, k)    a in a tensor that was cut down to entry k of its index s (the thirds of a fused projection)

Labels that stay in the result of an operator say that nothing happened to an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from neuromech.detect.abstract import Unsupported, reason_of
from neuromech.detect.axes import Axis, Label, axis, count, leaves
from neuromech.detect.effort import until
from neuromech.detect.graph import Graph, Node, Value, known_number
from neuromech.detect.matrix.inner import InnerProduct, inner_products
from neuromech.detect.matrix.rotary import Rotary, rotary_embeddings
from neuromech.detect.operands import exchanged
from neuromech.detect.operator import Operator, OperatorRule, is_elementwise, operator_of, signature_of
from neuromech.detect.refine import regroup, unify


@dataclass(frozen=True, eq=False)
class Indexed:
    """A tensor as far as it matters here: its axes, and those of their labels along which it is only repeated."""

    axes: tuple[Axis, ...]
    copied: frozenset[Label] = frozenset()

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def labels(self) -> list[Label]:
        return leaves(x for a in self.axes for x in a)

    def along(self, dims: Iterable[int]) -> list[Label]:
        """The labels of some axes; negative numbers count from the last."""
        return leaves(x for d in dims for x in self.axes[d])


class Selection(NamedTuple):
    """`label` stands for `of` in tensors cut down to entry `at` of the axis `selector`."""

    label: Label
    of: Label
    selector: Axis
    at: int


class Blocked(NamedTuple):
    """An operator about which not enough is known, why, and the indices that it fixes for that reason alone."""

    node: Node
    why: str
    labels: list[Label]


@dataclass
class Walk:
    """The statements of one pass, by the rules of `operator.OPERATORS`."""

    graph: Graph
    relations: list[tuple[Label, Label, int]] = field(default_factory=list)  # 1: alike, -1: dual
    fixed: list[Label] = field(default_factory=list)
    apart: list[tuple[list[Label], list[Label]]] = field(default_factory=list)
    blocks: list[Selection] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    known: dict[Value, Indexed] = field(default_factory=dict)
    moving: list[Value] = field(default_factory=list)
    varying: set[Value] = field(default_factory=set)
    live: set[Value] = field(default_factory=set)
    patterns: dict[Node, Rotary | InnerProduct] = field(default_factory=dict)  # by the call that ends one
    node: Node | None = None

    def run(self) -> Walk:
        """Visit every operator that a parameter passes on its way to the outputs."""
        reached = self.graph.ancestors(self.graph.outputs)
        self.moving = [
            v
            for v in self.graph.parameters
            if v in reached and v.trainable and v.dtype.is_floating_point and 0 not in v.shape
        ]
        self.varying = self.graph.descendants(self.moving)
        escaped = [v for node in self.graph.nodes if node.escape for v in node.inputs]
        live = self.live = self.graph.ancestors([*self.graph.outputs, *escaped], through_stops=True)
        self.patterns = {**inner_products(self.graph), **rotary_embeddings(self.graph, self.varying)}
        inside = {node for p in self.patterns.values() for node in p.inside}
        for node in self.graph.nodes:
            moves = node not in inside and any(v in self.varying for v in node.inputs)
            if moves and (node.escape or any(v in live for v in node.outputs)):
                self._visit(node)
        for value in self.graph.outputs:
            self.fix(self.indexed(value).labels)
        return self

    def indexed(self, value: Value) -> Indexed:
        if value not in self.known:
            self.known[value] = Indexed(tuple(axis(n) for n in value.shape))
            if value not in self.moving:
                self.fix(self.known[value].labels)
        return self.known[value]

    def _visit(self, node: Node) -> None:
        self.node = node
        operator, pattern = operator_of(node.op), self.patterns.get(node)
        try:
            if isinstance(pattern, Rotary):
                self.known[node.outputs[0]] = self._turned(pattern)
            elif pattern is not None:
                x, y = map(self.indexed, pattern.read)
                self.known[node.outputs[0]] = self.inner(x, y, pattern.over, pattern.keepdim)
            else:
                with until(1.0):
                    self._apply(self._rule(node, operator), node, bool(operator and operator.same_content))
        except Exception as error:
            for v in node.outputs:
                self.known[v] = Indexed(tuple(axis(n) for n in v.shape))
            read = node.inputs if pattern is None else pattern.read
            labels = [x for v in (*read, *node.outputs) for x in self.indexed(v).labels]
            self.blocked.append(Blocked(node, reason_of(error), labels))

    def _turned(self, r: Rotary) -> Indexed:
        """What a rotary embedding makes of a tensor: two entries each are mixed by rotations, the others by nothing."""
        *rest, entries = self.indexed(r.x).axes
        pair, among = regroup(entries, (2, r.x.shape[-1] // 2), nested=True)[0]
        self.fix(among)
        self.dual(pair, pair)
        for factor in r.factors:
            missing = len(r.x.shape) - len(factor.shape)
            for d, tokens in enumerate(rest):
                if d >= missing and factor.shape[d - missing] > 1:
                    self.fix(tokens)
        return Indexed((*rest, (*pair, *among)))

    def _rule(self, node: Node, operator: Operator | None) -> OperatorRule:
        """The rule for a call. Raises `Unsupported` if there is none."""
        used = [v for v in node.outputs if v in self.live]
        empty = [*used, *(() if operator and operator.with_empty else node.inputs)]
        if any(v.dtype.is_complex for v in (*node.inputs, *node.outputs)) and not (operator and operator.for_complex):
            raise Unsupported("there are no rules for complex numbers")
        if any(0 in v.shape for v in empty):
            raise Unsupported("it handles an empty tensor")
        if node.escape or node.stop:
            raise Unsupported("no gradient flows through it")
        if operator and operator.mixing:
            return operator.mixing
        if is_elementwise(node.op):
            return lambda m, *_, **__: m.pointwise(*map(m.indexed, node.inputs))
        raise Unsupported("no rule says which indices it leaves to be mixed")

    def _apply(self, rule: OperatorRule, node: Node, same_content: bool) -> None:
        args, kwargs = exchanged(Value, self.indexed, (node.args, node.kwargs))
        try:
            signature_of(rule).bind(self, *args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"it is called with options that its rule does not know ({error})") from error
        made = rule(self, *args, **kwargs)
        results = made if isinstance(made, list) else [made]
        if [tuple(map(count, t.axes)) for t in results] != [v.shape for v in node.outputs]:
            raise Unsupported("its results have other shapes than the rule says")
        if not same_content:
            results = [Indexed(t.axes) for t in results]
        self.known.update(zip(node.outputs, results, strict=True))

    def is_zero(self, t: Indexed | float) -> bool:
        """True for the number zero, and for constants that hold nothing else."""
        if not isinstance(t, Indexed):
            return t == 0
        assert self.node is not None
        value = next((v for v in self.node.inputs if self.known.get(v) is t), None)
        return value is not None and value not in self.varying and known_number(value) == 0

    # -- statements -------------------------------------------------------------------------------------------------

    def fix(self, labels: Iterable[Label]) -> None:
        self.fixed += labels

    def limit(self, labels: Iterable[Label], why: str) -> None:
        """Indices that some matrices might mix, beyond what is followed: fixed, and listed."""
        assert self.node is not None
        self.blocked.append(Blocked(self.node, why, list(labels)))

    def alike(self, a: Axis, b: Axis) -> None:
        self.relations += [(x, y, 1) for y, x in unify(a, b, nested=True).same.items()]

    def dual(self, a: Axis, b: Axis) -> None:
        self.relations += [(x, y, -1) for y, x in unify(a, b, nested=True).same.items()]

    def separate(self, stays: Sequence[Label], gone: Sequence[Label]) -> None:
        if stays and gone:
            self.apart.append((list(stays), list(gone)))

    def block(self, x: Indexed, selector: Axis, index: int, kept: Sequence[Axis]) -> Indexed:
        """What is left of `x`, the axes `kept`, when the index `selector` is put to one value."""
        new = {y: Label(y.atom) for y in leaves(y for a in kept for y in a)}
        self.blocks += [Selection(label, of, selector, index) for of, label in new.items()]
        return Indexed(tuple(tuple(new[y] for y in leaves(a)) for a in kept))

    # -- what several rules do --------------------------------------------------------------------------------------

    def unrelated(self, shape: Sequence[int]) -> Indexed:
        """A tensor about whose indices nothing is known."""
        new = Indexed(tuple(axis(n) for n in shape))
        self.fix(new.labels)
        return new

    def byproducts(self) -> list[Indexed]:
        """All results of the operator at hand but the first, about which nothing is known."""
        assert self.node is not None
        return [self.unrelated(v.shape) for v in self.node.outputs[1:]]

    def free(self, n: int) -> Axis:
        """The axis of zeros: mixed by anything."""
        return axis(n)

    @staticmethod
    def align(*tensors: Indexed) -> list[Indexed]:
        """The tensors with axes that line up from the right, as elementwise operators want them."""
        ndim = max(t.ndim for t in tensors)
        return [replace(t, axes=((),) * (ndim - t.ndim) + t.axes) for t in tensors]

    def broadcast(self, *tensors: Indexed) -> Indexed:
        """The axes of an elementwise result; shared ones are alike."""
        aligned = self.align(*tensors)
        axes: list[Axis] = []
        for d in range(aligned[0].ndim):
            having = [t.axes[d] for t in aligned if t.axes[d]]
            for other in having[1:]:
                self.alike(having[0], other)
            axes.append(having[0] if having else ())
        return Indexed(tuple(axes))

    def pointwise(self, *tensors: Indexed) -> Indexed:
        """Any function of the entries, one by one."""
        for t in tensors:
            self.fix(t.labels)
        return self.broadcast(*tensors)

    def contract(
        self, x: Indexed, w: Indexed, over: Sequence[tuple[int, int]], both: Sequence[tuple[int, int]] = ()
    ) -> None:
        """x and w are contracted over the axes `over`, for every index of the axes `both`."""
        for i, j in over:
            self.dual(x.axes[i], w.axes[j])
        for i, j in both:
            if x.axes[i] and w.axes[j]:
                self.alike(x.axes[i], w.axes[j])
                self.fix([*x.along([i]), *w.along([j])])
        of_x = [d % x.ndim for d, _ in (*over, *both)]
        of_w = [d % w.ndim for _, d in (*over, *both)]
        gone = [*x.along(i for i, _ in over), *w.along(j for _, j in over)]
        free = [*x.along(set(range(x.ndim)) - set(of_x)), *w.along(set(range(w.ndim)) - set(of_w))]
        self.separate(free, gone)

    def inner(self, x: Indexed, y: Indexed, over: Iterable[int], keepdim: bool = False) -> Indexed:
        """The inner products of two tensors of one shape along some axes."""
        dims = {d % x.ndim for d in over}
        self.contract(x, y, [(d, d) for d in sorted(dims)], [(d, d) for d in range(x.ndim) if d not in dims])
        return Indexed(tuple(() if d in dims else a for d, a in enumerate(x.axes) if keepdim or d not in dims))
