"""Rotary embeddings (Su et al. 2021): entries i and i + d/2 of queries and keys are turned together, by an angle that
depends on where the token stands.

    y = x cos + rotate_half(x) sin,   rotate_half(x) = [-x2, x1]

With the same cos and sin for both entries, (x1, x2) is a complex number that is multiplied by cos + i sin, whatever
these are. What commutes with all of that is multiplication by a complex number: its modulus is the rescale family of
the pair, its phase a rotation, of queries and keys by the same angle. So to a matrix the pair is an index of two that
is its own dual, and everything else is left where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from itertools import product
from typing import NamedTuple

from neuromech.detect.graph import Graph, Node, Value
from neuromech.detect.operator import is_elementwise, short

_IN_PLACE = ("unsqueeze", "to", "_to_copy")  # entries stay where they are along the last axis


class Rotary(NamedTuple):
    """What is turned, by which factors, and the calls that are made on the way."""

    x: Value
    factors: tuple[Value, Value]
    inside: tuple[Node, ...]

    @property
    def read(self) -> tuple[Value, ...]:
        return (self.x,)


def rotary_embeddings(graph: Graph, varying: Container[Value]) -> dict[Node, Rotary]:
    """The sums that end a rotary embedding of which nobody reads a part; its factors are none of the `varying`."""
    uses = Counter(v for node in graph.nodes for v in {*node.inputs})
    uses.update(graph.outputs)
    found = {node: r for node in graph.nodes if _op(node) == "add" and not node.kwargs for r in _ended_by(node)}
    return {
        end: r
        for end, r in found.items()
        if not any(f in varying for f in r.factors)
        and all(_unread(v, r, end, uses) for n in r.inside for v in n.outputs)
    }


def _unread(v: Value, r: Rotary, end: Node, uses: Counter[Value]) -> bool:
    """True if nobody outside of an embedding reads `v`."""
    return uses[v] == sum(v in n.inputs for n in (*r.inside, end))


def _ended_by(node: Node) -> Iterator[Rotary]:
    """The embedding that a sum of two products ends, if it does."""
    both = [v.node for v in node.args if isinstance(v, Value) and v.node]
    if len(both) != 2 or any(_op(p) != "mul" or len(p.inputs) != 2 for p in both):
        return
    for (plain, turned), i, j in product((both, both[::-1]), (0, 1), (0, 1)):
        x, cos, half, sin = plain.inputs[i], plain.inputs[1 - i], turned.inputs[j], turned.inputs[1 - j]
        inside = _rotates_half(half, x)
        if inside and x.shape == node.outputs[0].shape and _alike(cos) and _alike(sin):
            yield Rotary(x, (cos, sin), (plain, turned, *inside))
            return


def _rotates_half(value: Value, x: Value) -> tuple[Node, ...]:
    """The calls that make `value` of `x`, if it is [-x2, x1]; else none."""
    node = value.node
    if node is None or _op(node) != "cat" or len(node.args[0]) != 2 or not x.shape or x.shape[-1] % 2:
        return ()
    n, last = x.shape[-1] // 2, len(x.shape) - 1
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    minus, first = (v.node for v in node.args[0])
    if dim % len(x.shape) != last or minus is None or _op(minus) != "neg":
        return ()
    second = minus.inputs[0]
    if _half(second, x, n) == 1 and _half(node.args[0][1], x, n) == 0 and second.node and first:
        return tuple(dict.fromkeys((node, minus, second.node, first)))
    return ()


def _half(value: Value, x: Value, n: int) -> int | None:
    """Which half of the last axis of `x` a value is."""
    node = value.node
    if node is None or node.inputs != [x] or value.shape[-1] != n or value.shape[:-1] != x.shape[:-1]:
        return None
    last = len(x.shape) - 1
    if _op(node) == "slice" and len(node.args) >= 3 and node.args[1] % len(x.shape) == last and not node.kwargs:
        start, step = node.args[2] or 0, node.args[4] if len(node.args) > 4 else 1
        return {0: 0, n: 1}.get(start % (2 * n)) if step == 1 else None
    if _op(node) in ("chunk", "split", "split_with_sizes") and len(node.outputs) == 2:
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        return node.outputs.index(value) if dim % len(x.shape) == last else None
    return None


def _alike(factor: Value) -> bool:
    """True if it is the same for both entries of each pair: by its numbers, or as cos or sin of [angles, angles]."""
    if not factor.shape or factor.shape[-1] % 2:
        return False
    c, n, node = factor.content, factor.shape[-1] // 2, factor.node
    if c is not None and not c.is_meta:
        return bool((c[..., :n] == c[..., n:]).all())
    while node is not None and not (node.opaque or node.escape):
        values = list(dict.fromkeys(node.inputs))
        if len(values) != 1 or node.random:
            return False
        (before,) = values
        if short(node.op) == "cat" and node.args[0] == [before, before]:
            return before.shape[-1] == n
        if before.shape[-1:] != factor.shape[-1:] or not (is_elementwise(node.op) or short(node.op) in _IN_PLACE):
            return False
        node = before.node
    return False


def _op(node: Node) -> str:
    return "" if node.stop or node.opaque or node.escape else short(node.op)
