"""Runs a recorded graph on abstract tensors: what every tensor scales with, and what it shifts by, to first order.

An `Abstract` tensor knows its axes (as products of atoms), its exponent (if every parameter element e is multiplied by
exp(alpha f_e), the tensor is multiplied by exp(alpha * scale)), and its shift (if e moves by alpha g_e, the tensor
moves by alpha * shift). Rules, one per operator, compute these from those of the inputs and add the equations under
which the statement is true. What no rule understands must not carry anything: it pins its inputs and is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

from neuromech.detect.abstract import Abstract, Domain, Event, Unsupported, reason_of
from neuromech.detect.axes import Axis, axis, count, leaves
from neuromech.detect.data import Data, OnNumbers
from neuromech.detect.effort import FOLLOWING, effort, until
from neuromech.detect.entries import Entrywise
from neuromech.detect.expr import Expr, Unknown
from neuromech.detect.graph import Graph, Node, Value, is_one_hot, known_number
from neuromech.detect.growth import growth_as_scale, without_growth
from neuromech.detect.kernels import Kernels
from neuromech.detect.operands import exchanged
from neuromech.detect.operator import UNKNOWN, OperatorRule, operator_of, short, signature_of
from neuromech.detect.refine import unify


@dataclass(frozen=True)
class Opaque:
    """An operator that no claim of some `domains` passes, why, where it stands, and the parameters that it shuts in."""

    op: str
    module: str
    why: str
    blocks: tuple[str, ...]
    domains: tuple[str, ...] = ("scaling", "translation")


@dataclass(frozen=True)
class Invariance:
    """What the loss does not see of an output: a common shift along `shift` axes, a factor per sample."""

    shift: tuple[int, ...] = ()
    scale: bool = False


class Interpreter:
    """One pass over a graph, by the rules of `operator.OPERATORS`. Afterwards the two domains hold the equations."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scaling = Domain()
        self.translation = Domain()
        self.opaque: list[Opaque] = []
        self.unknowns: dict[Value, tuple[Unknown, Unknown]] = {}
        self.node: Node | None = None
        self.sorted_rows: dict[object, list[Axis]] = {}  # axes that were read as (matrix, row), by what sorted them
        self.blocked: set[int] = set()  # operators that nothing passes, by identity
        self._known: dict[Value, Abstract] = {}
        self._held: dict[Value, Data] = {}  # what no gradient flows through, with the number that marks it
        self.kernels = Kernels()
        reached = graph.ancestors(graph.outputs)
        self.trainable = [v for v in graph.parameters if v in reached and v.trainable and can_move(v)]
        self._moving = set(self.trainable)
        self._varying = graph.descendants(self.trainable)
        # What escapes may steer anything; what is detached is a constant to the gradient, but not to the loss.
        escaped = [v for node in graph.nodes if node.escape for v in node.inputs]
        self._live = graph.ancestors([*graph.outputs, *escaped], through_stops=True)

    # -- what rules use ---------------------------------------------------------------------------------------------

    def constant(self, shape: Sequence[int], key: object) -> Abstract:
        axes = tuple(axis(n) for n in shape)
        return Abstract(axes, Data((key,), tuple(x for a in axes for x in a)))

    def result(
        self, axes: Sequence[Axis], scale: Expr | None = None, shift: Expr | None = None, of: Iterable[Abstract] = (),
        known: OnNumbers | None = None,
    ) -> Abstract:  # fmt: skip
        """The abstract result of the operator at hand; `of` those tensors alone, if they are given: where their numbers
        repeat, so do those of the result. `known`: what it makes of numbers."""
        content = Data.made_of([x for a in axes for x in a], [t.data for t in of], known=known)
        return Abstract(tuple(axes), content, scale or Expr(), shift or Expr())

    def entries_of(self, x: Abstract, degree: Fraction | int | None = None) -> Data | None:
        """What the operator at hand makes of the entries of x, one by one: the same numbers whenever it is done again;
        None if it may not. `degree`, if it is homogeneous."""
        assert self.node is not None
        return Entrywise(self.node).of(x.data, degree)

    def number(self, k: float) -> Abstract:
        """A number as a tensor."""
        return self._filled(self.constant((), None), k)

    def _filled(self, t: Abstract, k: float | None) -> Abstract:
        """A constant all of whose entries are known to be `k`: zeros scale with any exponent."""
        if k is not None:
            t = replace(t, data=Data.filled(k, t.labels))
        if k == 0:
            return replace(t, scale=self.scaling.free(t.labels), zero=True)
        return replace(t, lowest=k is not None and k <= _LOWEST)

    def value(self, t: Abstract) -> Value | None:
        """The recorded value behind an argument of the operator at hand."""
        assert self.node is not None
        return next((v for v in self.node.inputs if self._known.get(v) is t), None)

    def pin(self, *tensors: Abstract) -> None:
        """Nothing may pass: these tensors neither scale nor shift."""
        for t in tensors:
            self.scaling.vanish(t.scale)
            self.translation.vanish(t.shift)
            self.translation.vanish(t.growth)

    def broadcast(self, *tensors: Abstract) -> list[Abstract]:
        """The tensors with axes that line up from the right, as elementwise operators want them."""
        ndim = max(t.ndim for t in tensors)
        out = [t if t.ndim == ndim else replace(t, axes=((),) * (ndim - t.ndim) + t.axes) for t in tensors]
        known = {x: (d, leaves(a)) for d, a in enumerate(out[0].axes) for x in leaves(a)}
        for i, t in enumerate(out[1:], 1):
            mine = {x: (d, leaves(a)) for d, a in enumerate(t.axes) for x in leaves(a)}
            if any(known.setdefault(x, at) != at for x, at in mine.items()):  # x + x.T: none may be renamed halfway
                out[i] = t.fresh()
        for d in range(ndim):
            first = next((t.axes[d] for t in out if t.axes[d]), ())
            out = [t.rename(unify(first, t.axes[d])) if t.axes[d] else t for t in out]
        return out

    def alike(self, x: Abstract, y: Abstract) -> Expr:
        """Require that two tensors which were lined up scale alike; returns with what. A zero agrees with anything."""
        return y.scale if x.zero else x.scale if y.zero else self.scaling.equal(x.scale, y.scale)

    @staticmethod
    def joint(tensors: Sequence[Abstract]) -> tuple[Axis, ...]:
        """The axes of the broadcast result."""
        return tuple(next((t.axes[d] for t in tensors if t.axes[d]), ()) for d in range(tensors[0].ndim))

    def constants(self) -> list[tuple[Value, Abstract]]:
        """What was met and does not depend on a parameter that moves."""
        return [(v, t) for v, t in self._known.items() if v not in self._varying]

    def interpreted(self) -> list[Node]:
        """The operators that something which moves has passed, or has been stopped at."""
        nodes = (n for n in self.graph.nodes if any(v in self._varying for v in n.inputs))
        return [n for n in nodes if all(v in self._known for v in n.outputs)]

    def byproducts(self) -> list[Abstract]:
        """All results of the operator at hand but the first. Raises `Unsupported` if anybody reads them."""
        assert self.node is not None
        rest = self.node.outputs[1:]
        if any(v in self._live for v in rest):
            raise Unsupported("what it has measured on the way is read too")
        return [self.constant(v.shape, v) for v in rest]

    @property
    def at(self) -> str:
        """The module at hand, to be put behind the name of an operator in an explanation."""
        return f" {self.node.module}" if self.node and self.node.module else ""

    # -- the pass ---------------------------------------------------------------------------------------------------

    def run(self, outputs: Sequence[Invariance]) -> None:
        """Interpret every node that the outputs depend on, then require what the loss requires of the outputs."""
        for i, node in enumerate(self.graph.nodes):
            if node.escape or any(v in self._live for v in node.outputs):
                effort().now(f"operator {i + 1} of {len(self.graph.nodes)}")
                self._interpret(node)
        for value, free in zip(self.graph.outputs, outputs, strict=True):
            t = self._alike_in_rows(self.abstract(value))
            self.translation.vanish(t.growth)
            classes = t.along(free.shift)
            self.translation.vanish(t.shift, along=classes or None)
            if free.shift:
                self.translation.events.append(
                    Event("absorbs", "the loss does not see a common shift of the output", t.shift)
                )
            if free.scale:
                self.scaling.vanish(t.scale, along=t.along(range(1, t.ndim)))
                self.scaling.events.append(
                    Event("normalises", "the loss does not see the length of the output", t.scale)
                )
            else:
                self.scaling.vanish(t.scale)
        self._list_what_was_held()

    def _list_what_was_held(self) -> None:
        """The stops that something had to come to rest at: what they hold is felt otherwise than as a whole."""
        equations = [e for d in (self.scaling, self.translation) for e in d.equations if e.along is None]
        felt = {d for e in equations for f in e.expr.terms for d in f.data}
        for value, held in self._held.items():
            if held in felt:
                assert value.node is not None
                self._list(value.node, "no gradient flows through it", [value])

    def abstract(self, value: Value) -> Abstract:
        if value not in self._known:
            t = replace(self.constant(value.shape, value), empty=0 in value.shape)
            if value.kind != "parameter" and value not in self._varying:
                t = self._filled(t, known_number(value))
            if value in self._moving:
                f, g = (Unknown(tuple(t.labels), value.names[0]) for _ in range(2))
                self.unknowns[value] = f, g
                t = replace(t, scale=Expr.of(f), shift=Expr.of(g))
            self._known[value] = t
        return self._known[value]

    def _interpret(self, node: Node) -> None:
        self.node = node
        operator = operator_of(node.op) or UNKNOWN
        if not any(v in self._varying for v in node.inputs):
            # A constant: `abstract` makes it when it is asked for. But two views of one constant are the same numbers,
            # what is joined of some is in part the same, and what a mean was subtracted from adds up to zero.
            if is_one_hot(node, self.graph):
                t = self.abstract(node.outputs[0])
                self._known[node.outputs[0]] = replace(t, data=t.data._replace(sums=((tuple(t.along([-1])), 1),)))
            moved = (operator.same_content or operator.joins) and all(node.inputs[0].shape)
            if operator.rule and (moved or _is_of_real_numbers(node)):
                with suppress(Exception):
                    self._apply(operator.rule, node)
            return
        if node.outputs and all(0 in v.shape for v in node.outputs):
            return  # nothing is left that could carry anything
        dtypes = {v.dtype for v in (*node.inputs, *node.outputs)}
        if node.escape:
            self._block(node, "the content of a tensor leaves the graph there")
        elif node.opaque:
            self._block(node, node.opaque)
        elif any(d.is_complex for d in dtypes) and not operator.for_complex:
            self._block(node, "there are no rules for complex numbers")
        elif self._touches_nothing(node, operator.with_empty):
            self._block(node, "it handles an empty tensor")
        elif operator.rule is None and not node.outputs[0].dtype.is_floating_point:
            self._block(node, f"its result is {str(node.outputs[0].dtype).removeprefix('torch.')}, without a gradient")
        elif operator.rule is None:
            self._block(node, "no gradient flows through it" if node.stop else "there is no rule for it")
        else:
            try:
                with until(FOLLOWING):
                    self._apply(operator.rule, node)
            except Exception as error:
                self._block(node, reason_of(error))

    def _touches_nothing(self, node: Node, inputs_too: bool) -> bool:
        """True if a tensor without elements comes out and is used, or goes in where that is not foreseen."""
        used = (v for v in node.outputs if v in self._live)
        return any(0 in v.shape for v in (*used, *(() if inputs_too else node.inputs)))

    def _apply(self, rule: OperatorRule, node: Node) -> None:
        args, kwargs = exchanged(Value, partial(self._entering, node), (node.args, node.kwargs))
        try:
            signature_of(rule).bind(self, *args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"it is called with options that its rule does not know ({error})") from error
        results = self._results(rule, node, *exchanged(Abstract, without_growth, (args, kwargs)))
        if any(self._known[v].growth for v in node.inputs if v in self._known):
            grown = self._grown(rule, node, args, kwargs)
            results = [self._multiplied(y, z) for y, z in zip(results, grown, strict=True)]
        self._known.update(zip(node.outputs, results, strict=True))

    def _results(self, rule: OperatorRule, node: Node, args: Any, kwargs: Any) -> list[Abstract]:
        made = rule(self, *args, **kwargs)
        results = made if isinstance(made, list) else [made]
        if [tuple(map(count, t.axes)) for t in results] != [v.shape for v in node.outputs]:
            raise Unsupported("its results have other shapes than the rule says")
        return results

    def _grown(self, rule: OperatorRule, node: Node, args: Any, kwargs: Any) -> list[Abstract]:
        """The results, which scale with what shifts have been turned into: of shifts nothing is said."""
        scaling, translation = self.scaling, self.translation
        self.scaling, self.translation = translation, Domain()
        try:
            inputs = exchanged(Abstract, partial(growth_as_scale, translation), (args, kwargs))
            return [self._alike_in_rows(t) for t in self._results(rule, node, *inputs)]
        finally:
            self.scaling, self.translation = scaling, translation

    def _multiplied(self, y: Abstract, grown: Abstract) -> Abstract:
        """y, which also grows by what `grown` scales with: the same tensor, under other labels."""
        y, grown = self.broadcast(y, grown)
        return replace(y, growth=y.growth + grown.scale)

    def _alike_in_rows(self, t: Abstract) -> Abstract:
        """The tensor, all rows of whose table scale alike."""
        return replace(t, scale=self.scaling.uniform(t.scale, t.rows), rows=()) if t.rows else t

    def _entering(self, node: Node, value: Value) -> Abstract:
        """An input as the operator may see it."""
        t = self.abstract(value)
        scale, shift = self.scaling.simplified(t.scale), self.translation.simplified(t.shift)
        if scale is not t.scale or shift is not t.shift:
            t = self._known[value] = replace(t, scale=scale, shift=shift)
        if (
            value.node
            and value.node.stop
            and not node.stop
            and value in self._varying
            and (t.scale or t.shift or t.growth)
        ):
            # The gradient takes it for a constant, the loss does not: what it carries has to be invisible by itself, so
            # it is multiplied by a number of its own, which no other data can cancel.
            held = self._held.setdefault(value, Data(("held", value), ()))
            t = replace(t, scale=t.scale.times(held), shift=t.shift.times(held), growth=t.growth.times(held))
        operator = operator_of(node.op) or UNKNOWN
        seen = t
        if not (operator.same_content or operator.sees_rows):
            seen = self._alike_in_rows(seen)
        if t.masked and not (operator.same_content or operator.sees_masked):
            self.translation.vanish(t.shift)
            seen = replace(seen, shift=Expr(), masked=False)
        if seen is not t and value not in self._held:
            self._known[value] = seen
        return seen

    def _block(self, node: Node, why: str) -> None:
        varying = [v for v in node.inputs if v in self._varying]
        self.blocked.add(id(node))
        if not (node.escape or any(v.dtype.is_floating_point or v.dtype.is_complex for v in (*varying, *node.outputs))):
            return  # places and counts, computed of such: nothing that could move passes here
        self.pin(*map(self.abstract, varying))
        self._list(node, why, varying)
        for value in node.outputs:
            self._known[value] = self.constant(value.shape, value)

    def _list(self, node: Node, why: str, values: Sequence[Value]) -> None:
        upstream = self.graph.ancestors(values, through_stops=True)
        blocks = tuple(v.names[0] for v in self.trainable if v in upstream)
        self.opaque.append(Opaque(short(node.op), node.module, why, blocks))


def _is_of_real_numbers(node: Node) -> bool:
    """True if its results are real numbers that are not the same all over, and its inputs have some elements."""
    known = (v.dtype.is_floating_point and known_number(v) is None for v in node.outputs)
    return not node.random and all(0 not in v.shape for v in node.inputs) and all(known)


_LOWEST = -1e4  # exp of it is zero in any precision


def can_move(parameter: Value) -> bool:
    """Scales and shifts are about real numbers, and about at least one of them."""
    return parameter.dtype.is_floating_point and 0 not in parameter.shape
