"""What was traced of an energy: one sweep serves batches of every size, as long as the energy does not ask for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from neuromech.compat import AnySize
from neuromech.physics.energy.fused import fuse
from neuromech.physics.energy.graph import energy_graph, trace
from neuromech.physics.energy.guards import Fact, Mask, difference, same
from neuromech.physics.energy.simplification import simplify
from neuromech.physics.energy.sweep import discrete_sweep
from neuromech.physics.energy.transposes import TRANSPOSES

FILLED = 16  # times as many samples as were given, at most
KEPT = 4  # traces of one energy in different moods, as training and evaluation

# Asked of the tensor itself a size is that of one sample inside of vmap; torch's own operators have no rule there.
_ASKED: dict[Any, Any] = {
    torch.ops.aten.sym_size.int: Tensor.size,
    torch.ops.aten.sym_numel.default: Tensor.numel,
    torch.ops.aten.sym_stride.int: Tensor.stride,
}


class Sweep:
    """The traced discrete gradient, a graph of (tensors of the energy..., condition, u, v); `sizes`: of its batches."""

    def __init__(self, module: fx.GraphModule, sizes: AnySize | int | None) -> None:
        self.module, self.sizes = module, sizes

    def size_for(self, samples: int, per_sample: bool) -> int:
        """The size of the batch, `samples` or more, that so many can be a part of; 0 if there is none.

        Samples that do not see one another may have company. An energy that asks for the size of its batch (`len(u)`)
        is traced for that one; smaller ones are filled up, if not with too many.
        """
        if self.sizes is None:
            return samples
        if isinstance(self.sizes, AnySize):
            return next(
                (n for n in (samples, 2) if n >= samples and (per_sample or n == samples) and self.sizes.admits(n)), 0
            )
        is_part = per_sample and samples < self.sizes <= FILLED * samples
        return self.sizes if self.sizes == samples or is_part else 0

    @cached_property
    def halves(self) -> tuple[fx.GraphModule, fx.GraphModule]:
        """The part that does not need u, of (tensors..., v), and the rest, of (u, *what the first part gives)."""
        return halves(self.module)


class Traced:
    """What was traced while the energy read these facts. `per_sample`: energies are one a sample, each of its own."""

    def __init__(self, read: Fact) -> None:
        self.facts = read
        self.volatile: Mask = False
        self.sweeps: dict[tuple[Any, ...], list[Sweep]] = {}
        self.admitted: set[tuple[Any, ...]] = set()
        self.per_sample = False
        self.knows_its_size = False  # energies are others, or none, in batches of another size

    def settle(self, before: Fact, after: Fact) -> None:
        """What an evaluation of the energy changes by itself, as a counter, says nothing."""
        self.facts, self.volatile = after, difference(before, after)

    def fits(self, now: Fact) -> bool:
        return same(now, self.facts, self.volatile)


def traced_sweep(
    energy: Callable[..., Tensor], live: list[Tensor], condition: Tensor | None, u: Tensor, any_size: bool
) -> Sweep:
    """Of `energy(*live, condition, u)`, for batches as long as u, or of `any_size`."""
    beside = [] if condition is None else [condition]
    # Fresh tensors: the caller's may belong to a function transform.
    *given, first, second = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (*live, *beside, u, u))
    sizes: AnySize | int | None = len(u) if u.ndim > 1 else None
    if any_size:
        sizes = AnySize(len(u))
        first, second = sizes.batch(u), sizes.batch(u)
        is_batch = [False] * len(live) + [c.ndim > 0 and len(c) == len(u) for c in beside]
        given = [sizes.batch(t) if b else sizes.fixed(t) for t, b in zip(given, is_batch, strict=True)]
    sweep = discrete_sweep(energy_graph(energy, given, first))
    module = trace(sweep, *given, first, second, table=TRANSPOSES, whole=False)
    for node in module.graph.nodes:  # autograd protects what it saves by `detach`, which would cut the training
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    fuse(module.graph)
    simplify(module.graph)
    for node in module.graph.nodes:
        node.target = _ASKED.get(node.target, node.target)
    module.recompile()
    if isinstance(sizes, AnySize) and not sizes.admits(2 * len(u) + 1):
        sizes = len(u)
    return Sweep(module, sizes)


def halves(module: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The calls of a sweep that do not need u, and those that do."""
    *others, u, v = (n for n in module.graph.nodes if n.op == "placeholder")
    late: set[fx.Node] = {u}
    for node in module.graph.nodes:
        if node.target in _ASKED.values():  # of either state: they are of one size
            node.replace_input_with(u, v)
        if node.op == "output" or any(n in late for n in node.all_input_nodes):
            late.add(node)
    passed = [n for n in module.graph.nodes if n not in late and any(user in late for user in n.users)]

    def part(inputs: list[fx.Node], body: list[fx.Node], outputs: list[fx.Node] | None) -> fx.GraphModule:
        graph = fx.Graph()
        copies = {n: graph.placeholder(n.name) for n in inputs}
        for node in body:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        if outputs is not None:
            graph.output(tuple(copies[n] for n in outputs))
        return fx.GraphModule(module, graph)

    early = [n for n in module.graph.nodes if n not in late and n.op != "placeholder"]
    rest = [n for n in module.graph.nodes if n in late and n is not u]  # with its output
    return part([*others, v], early, passed), part([u, *passed], rest, None)


def kind_of(u: Tensor, condition: Tensor | None) -> tuple[Any, ...]:
    """States of one kind need one trace."""
    return u.shape, u.dtype, u.device, None if condition is None else (condition.shape, condition.dtype)


def filled(x: Any, samples: int, rows: int) -> Any:
    """A batch of `samples` with its last one repeated, to `rows`; what is not one row a sample stays."""
    if rows <= samples or not isinstance(x, Tensor) or not x.ndim or len(x) != samples:
        return x
    return torch.cat([x, x[-1:].expand(rows - samples, *x.shape[1:])])
