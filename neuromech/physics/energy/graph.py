"""An energy as a graph of operators, each of which has a rule; what has none is refused here, by name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from neuromech.compat import (
    KEEP_REAL_TENSORS,
    OpOverload,
    asked_for_values,
    is_composite,
    outside_of_modes,
    traced_quietly,
    tree_leaves,
)
from neuromech.errors import PhysicsError
from neuromech.physics.energy.composites import COMPOSITES
from neuromech.physics.energy.moods import random_nodes, random_nodes_of
from neuromech.physics.energy.pair_rules import PAIRS
from neuromech.physics.energy.rules import BILINEAR, LINEAR, QUADRATIC, SECANTS, SOFTMAX
from neuromech.physics.energy.writes import out_of_place, writes

# They read sizes, or make something new of the same size: nothing of the state's content flows through.
_CONTENT_FREE = {"sym_size", "sym_numel", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"}
_CONTENT_FREE |= {"new_full", "new_empty"}
_LIKE = {"expand_as", "type_as"}  # of the second they read no more than its size or its dtype


MIDPOINT = 'take form="midpoint", which asks for no rules and keeps the identity to rounding'


def op_name(node: fx.Node) -> str:
    """`tanh` of `aten.tanh.default`, `mylib::op` of an operator from elsewhere."""
    target = node.target
    if isinstance(target, OpOverload) and target.namespace not in ("aten", "prims"):
        return f"{target.namespace}::{target.overloadpacket.__name__}"
    return target.overloadpacket.__name__ if isinstance(target, OpOverload) else str(node.target)


def trace(function: Callable[..., Any], *examples: Any, table: Any = None, whole: bool = True) -> fx.GraphModule:
    """The graph of `function` at the shapes of `examples`, on tensors without content: no branch is taken unseen.

    `whole`: composite operators stay whole, as far as `table` does not expand them. Tensors that the function reaches
    by itself stay the very objects, so that later changes of theirs count.
    """
    with outside(), torch.enable_grad(), traced_quietly():
        tracer = make_fx(
            lambda *inputs: function(*inputs),
            decomposition_table=table,
            tracing_mode="fake",
            pre_dispatch=whole,
            **KEEP_REAL_TENSORS,
        )
        graph: fx.GraphModule = tracer(*examples)
    return graph


@contextmanager
def outside() -> Iterator[None]:
    """Outside of every mode and function transform that the caller may be in: they must not see the tracing."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(outside_of_modes())
        yield


def energy_graph(energy: Callable[..., Tensor], state: Sequence[Tensor], u: Tensor) -> fx.GraphModule:
    """The graph of `energy(*state, u)`, in which every operator that depends on `u` has a rule.

    Raises `PhysicsError` for an operator without one, for a result that is not one number a sample, and for control
    flow that depends on the state.
    """
    table: dict[Any, Callable[..., Any]] = {
        getattr(packet, overload): _of_reals(composite)
        for name, composite in COMPOSITES.items()
        if (packet := _packet(name)) is not None
        for overload in packet.overloads()
    }
    function: Callable[..., Any] = energy
    while True:
        try:
            module = trace(function, *state, u, table=table)
        except (GuardOnDataDependentSymNode, asked_for_values()) as error:
            raise PhysicsError(
                "the energy takes a branch that depends on the values of the state, or of a tensor that it computes "
                "(an `if`, a loop or `.item()`), so one graph cannot stand for it: write it with operators such as "
                f"torch.relu, torch.where or torch.maximum, or {MIDPOINT}"
            ) from error
        rewritten = out_of_place(module.graph)
        module.graph.eliminate_dead_code()
        module.recompile()
        moving = set(varying(module.graph))
        unknown = [n for n in varying(module.graph) if n.op == "call_function" and not _has_rule(n, moving)]
        composed = {n.target for n in unknown if n.target not in table and is_composite(n.target)}
        if not composed and not any(n.target in table for n in rewritten):
            break
        table |= {target: target.decompose for target in composed}  # type: ignore[union-attr]
        function = module
    if drawn := random_nodes(module.graph):
        raise PhysicsError(_refusal(drawn))
    if unknown:
        raise PhysicsError(_refusal(unknown))
    _check_result(module.graph, u)
    return module


def _of_reals(composite: Callable[..., Any]) -> Callable[..., Any]:
    """Operators of integers alone, such as those that make indices, never vary and stay as they are."""

    def written(*args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        is_real = any(x.is_floating_point() or x.is_complex() for x in tensors)
        return composite(*args, **kwargs) if is_real else NotImplemented

    return written


def _packet(name: str) -> Any:
    space, _, short = name.rpartition("::")
    return getattr(getattr(torch.ops, space or "aten"), short, None)


def varying(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose value depends on the state, the last input of the graph, in order."""
    state = [n for n in graph.nodes if n.op == "placeholder"][-1]
    found: dict[fx.Node, None] = {state: None}
    for node in graph.nodes:
        flows = node.op == "call_function" and op_name(node) not in _CONTENT_FREE
        if flows and any(n in found for n in node.all_input_nodes[: 1 if op_name(node) in _LIKE else None]):
            found[node] = None
    return list(found)


def _has_rule(node: fx.Node, moving: set[fx.Node]) -> bool:
    if node.target is operator.getitem:
        return True
    name = op_name(node)
    values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    is_complex = any(t.is_complex() for t in tree_leaves(values) if isinstance(t, Tensor))
    if name in SECANTS:
        return not is_complex and len(node.all_input_nodes) == 1
    if name == "_trilinear" and sum(n in moving for n in node.all_input_nodes) > 2:
        return False
    return (
        name in LINEAR or name in BILINEAR or name in PAIRS or (name in QUADRATIC and not is_complex) or name in SOFTMAX
    )


def _refusal(unknown: list[fx.Node]) -> str:
    names = list(dict.fromkeys(str(n.target) for n in unknown))
    advice = f"{MIDPOINT}, or give it a rule by neuromech.physics.register_rule"
    if any(writes(n) for n in unknown):
        advice = f"it writes in place into memory that has other names; write it out of place, or {MIDPOINT}"
    elif random_nodes_of(unknown):
        advice = "it is random, and an energy has no random part: call .eval() on the module"
    elif any("batch_norm" in name for name in names):
        advice = "batch statistics couple the samples: call .eval() on the module, or use layer or group norm"
    elif any(name.startswith("aten.detach") for name in names):
        advice = (
            "it hides part of the energy's change from its gradient. Where you detach nothing, it comes from "
            f"torch.autograd.grad inside of the energy. Leave it out, or {MIDPOINT}"
        )
    return f"the energy uses {', '.join(names)}, which has no discrete chain rule: {advice}"


def _check_result(graph: fx.Graph, u: Tensor) -> None:
    (result,) = (n for n in graph.nodes if n.op == "output")
    (out,) = result.all_input_nodes or (None,)
    check_energy(out.meta.get("val") if out is not None else None, u)
    if out not in varying(graph):
        raise PhysicsError(CONSTANT)


LOST = (
    "the tracing loses the state inside of the energy, in a transform of torch.func (vmap, grad), a custom function or "
    f"code outside of torch: {MIDPOINT}"
)
CONSTANT = "the energy does not depend on the state, so it has no gradient"


def squeezed(value: Any, u: Tensor) -> Any:
    """[B, 1], what a last layer of one unit gives, as [B]."""
    is_column = isinstance(value, Tensor) and u.ndim > 1 and value.shape == (u.shape[0], 1)
    return value.squeeze(1) if is_column else value


def check_energy(value: Any, u: Tensor) -> None:
    """Raise `PhysicsError` unless `value`, the energy of `u`, is one real number, or one a sample."""
    batch = tuple(u.shape[:1]) if u.ndim > 1 else ()
    if not isinstance(value, Tensor) or tuple(value.shape) not in ((), batch) or not value.is_floating_point():
        is_tensor = isinstance(value, Tensor)
        found = f"of shape {tuple(value.shape)} and {value.dtype}" if is_tensor else "no tensor"
        wanted = "a real number, shape ()" + (f", or one a sample, shape {batch}" if batch else "")
        raise PhysicsError(
            f"the energy of a state of shape {tuple(u.shape)} is {found}; expected {wanted}: sum over what is left"
        )
