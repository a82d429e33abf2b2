"""One forward pass, recorded as a graph: static single assignment, parameters with ties, a module path a node.

The recorder is a dispatch mode inside `torch.inference_mode()`, where PyTorch keeps composite operators whole
(`linear`, `batch_norm`, `cross_entropy_loss` ...), the same set on every device. Grad mode stays switched on inside, so
that a `torch.no_grad()` of the model can be told from our own: what it computes carries no gradient and is a `stop`.

The model is left as found: buffers are cloned, and the states of the random number generators are put back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from neuromech.errors import CaptureError

ValueKind = Literal["op", "parameter", "buffer", "input", "constant"]

# They read metadata only: nothing of the tensor's content flows on.
_METADATA = {"aten.sym_size", "aten.sym_stride", "aten.sym_numel", "aten.sym_storage_offset", "aten.is_same_size"}
# The content of a tensor leaves the graph as a Python number, which may steer the control flow.
_ESCAPES = {"aten.item", "aten._local_scalar_dense", "aten.equal", "aten.is_nonzero", "aten.allclose"}


@dataclass(eq=False)
class Value:
    """One version of one tensor. Leaves have no node; `names` holds every name of a tied parameter."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: ValueKind = "op"
    node: Node | None = None
    names: tuple[str, ...] = ()
    trainable: bool = False


@dataclass(eq=False)
class Node:
    """One operator call. `args` and `kwargs` hold `Value`s where tensors stood; `stop`: no gradient flows through."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    module: str
    stop: bool = False
    escape: bool = False


@dataclass
class Graph:
    """A recorded forward: nodes in order, leaves, and the values that make the result, in the order of its leaves."""

    nodes: list[Node] = field(default_factory=list)
    leaves: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    @property
    def parameters(self) -> list[Value]:
        return [v for v in self.leaves if v.kind == "parameter"]

    def ancestors(self, roots: Sequence[Value]) -> set[Value]:
        """Everything that `roots` depend on through gradients, themselves included."""
        seen: set[Value] = set()
        stack = list(roots)
        while stack:
            v = stack.pop()
            if v not in seen:
                seen.add(v)
                stack += v.node.inputs if v.node and not v.node.stop else []
        return seen

    def descendants(self, leaves: Sequence[Value]) -> set[Value]:
        """Everything whose content depends on `leaves`, themselves included."""
        seen = set(leaves)
        for node in self.nodes:
            if any(v in seen for v in node.inputs):
                seen.update(node.outputs)
        return seen


Geometry = tuple[tuple[int, ...], tuple[int, ...], int]


def _geometry(t: Tensor) -> Geometry:
    return tuple(t.shape), tuple(t.stride()), int(t.storage_offset())


def _overlap(a: Geometry, b: Geometry) -> bool:
    def span(g: Geometry) -> tuple[int, int]:
        return g[2], g[2] + 1 + sum((n - 1) * s for n, s in zip(g[0], g[1], strict=True))

    return all(a[0]) and all(b[0]) and span(a)[0] < span(b)[1] and span(b)[0] < span(a)[1]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.modules = [""]
        self._seen: dict[int, tuple[Value, int, Geometry]] = {}  # id(tensor) -> value, writes replayed, geometry
        self._writes: dict[int, list[tuple[Value, Geometry]]] = {}  # storage -> in-place writes, in order
        self._shared: dict[tuple[int, Geometry], Value] = {}  # leaves by storage and geometry: ties
        self._keep: list[Tensor] = []  # ids and storages are reused once freed, so nothing is freed while recording

    def leaf(self, t: Tensor, kind: ValueKind, name: str = "", trainable: bool = False) -> Value:
        # Not data_ptr(): it is 0 for every tensor on the meta device, which would look tied.
        key = (t.untyped_storage()._cdata, _geometry(t))
        if tied := self._shared.get(key):
            tied.names += (name,)
        else:
            tied = self._shared[key] = Value(
                tuple(t.shape), t.dtype, kind, names=(name,) if name else (), trainable=trainable
            )
            self.graph.leaves.append(tied)
        return self._bind(t, tied)

    def _bind(self, t: Tensor, value: Value) -> Value:
        self._keep.append(t)
        self._seen[id(t)] = (value, len(self._writes.get(t.untyped_storage()._cdata, ())), _geometry(t))
        return value

    def read(self, t: Tensor) -> Value:
        """The current version of `t`, after every in-place write that its storage has seen."""
        if id(t) not in self._seen:
            self.leaf(t, "constant")
        value, replayed, geometry = self._seen[id(t)]
        writes = self._writes.get(t.untyped_storage()._cdata, [])
        for written, where in writes[replayed:]:
            if where == geometry:
                value = written
            elif _overlap(where, geometry):
                merged = Value(tuple(t.shape), t.dtype)
                merged.node = Node(
                    "neuromech.overlay", (value, written), {}, [value, written], [merged], self.modules[-1]
                )
                self.graph.nodes.append(merged.node)
                value = merged
        self._seen[id(t)] = (value, len(writes), geometry)
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = f"{func.namespace}.{func._schema.name.split('::')[1]}"
        if name in _METADATA:
            return func(*args, **kwargs)
        before = {id(t): self.read(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **kwargs)
        values, named = tree_map_only(Tensor, lambda t: before[id(t)], (args, kwargs))
        stop = not torch.is_grad_enabled() or name == "aten.detach"
        node = Node(name, values, named, list(before.values()), [], self.modules[-1], stop, name in _ESCAPES)
        self.graph.nodes.append(node)
        written = _written(func, args, kwargs)
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and not any(t is w for w in written):
                node.outputs.append(self._bind(t, Value(tuple(t.shape), t.dtype, node=node)))
        for t in written:
            value = Value(tuple(t.shape), t.dtype, node=node)
            node.outputs.append(value)
            self._writes.setdefault(t.untyped_storage()._cdata, []).append((value, _geometry(t)))
            self._bind(t, value)
        return out


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operator call writes to, by its schema."""
    if not func._schema.is_mutable:
        return []
    out: list[Tensor] = []
    for i, a in enumerate(func._schema.arguments):
        if a.alias_info is not None and a.alias_info.is_write:
            given = kwargs[a.name] if a.name in kwargs else args[i] if i < len(args) else None
            out += [t for t in tree_leaves(given) if isinstance(t, Tensor)]
    return out


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Random numbers drawn inside do not count: torch (all devices), numpy and Python go on as if nothing happened."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def call(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Mapping[str, Tensor] | None = None
) -> Any:
    """`model(*args, **kwargs)` with `state` in place of its own tensors, and on clones of its buffers."""
    clones = {name: b.clone() for name, b in model.named_buffers()}
    return functional_call(model, clones | dict(state or {}), args, kwargs)


@contextmanager
def _module_paths(model: nn.Module, stack: list[str]) -> Iterator[None]:
    paths = {m: name for name, m in model.named_modules()}
    enter = nn.modules.module.register_module_forward_pre_hook(lambda m, _: stack.append(paths.get(m, stack[-1])))
    leave = nn.modules.module.register_module_forward_hook(
        lambda m, *_: (stack.pop(), None)[1],
        always_call=True,
    )
    try:
        yield
    finally:
        enter.remove()
        leave.remove()


def tensors_of(output: Any) -> list[Tensor]:
    """The floating point tensors of a model's output, whatever its structure; `.loss` alone where there is one."""
    loss = getattr(output, "loss", None)
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return [loss]
    if not isinstance(output, (Tensor, tuple, list, dict)) and hasattr(output, "__dict__"):
        output = vars(output)
    return [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def record(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> Graph:
    """Record `loss(model(*args, **kwargs))`, or the model's output if there is no loss.

    Raises `CaptureError` if the forward itself fails, or if a parameter reaches the result on a path that the
    recording did not see (a custom kernel, another thread, NumPy).
    """
    kwargs = kwargs or {}
    recorder = _Recorder()
    for name, p in model.named_parameters(remove_duplicate=False):
        recorder.leaf(p, "parameter", name, trainable=p.requires_grad)

    def run() -> Any:
        out = call(model, args, kwargs)
        return out if loss is None else loss(out)

    for i, t in enumerate(t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)):
        recorder.leaf(t, "input", f"input {i}")
    try:
        with preserved_rng(), _module_paths(model, recorder.modules):
            with torch.inference_mode(), torch.enable_grad(), recorder:
                outputs = tensors_of(run())
                recorder.graph.outputs = [recorder.read(t) for t in outputs]
            with torch.enable_grad():
                reached = differentiable_leaves(tensors_of(run()))
    except Exception as error:
        where = f" in module {recorder.modules[-1]!r}" if recorder.modules[-1] else ""
        raise CaptureError(
            f"the forward of {type(model).__name__} failed while it was recorded{where}: "
            f"{type(error).__name__}: {error}. Check that the example fits the model's forward."
        ) from error
    _check_coverage(model, recorder.graph, reached)
    return recorder.graph


def differentiable_leaves(outputs: Sequence[Tensor]) -> set[Tensor]:
    """The leaf tensors that autograd would send a gradient to from `outputs`."""
    found: set[Tensor] = set()
    seen: set[Any] = set()
    stack = [t.grad_fn for t in outputs] + [t.grad_fn for t in outputs]
    found.update(t for t in outputs if t.is_leaf and t.requires_grad)
    while stack:
        fn = stack.pop()
        if fn is None or fn in seen:
            continue
        seen.add(fn)
        if hasattr(fn, "variable"):
            found.add(fn.variable)
        stack += [f for f, _ in fn.next_functions]
    return found


def _check_coverage(model: nn.Module, graph: Graph, reached: set[Tensor]) -> None:
    """Autograd is the second witness: a parameter that it reaches and the recording does not went past the recorder."""
    recorded = {name for v in graph.ancestors(graph.outputs) for name in v.names}
    missed = [name for name, p in model.named_parameters() if p in reached and name not in recorded]
    if missed:
        raise CaptureError(
            f"{', '.join(missed[:5])}{' ...' if len(missed) > 5 else ''} reach the result on a path that the recording "
            "did not see (a custom kernel, another thread, or a detour through NumPy). Claims about them would be "
            "guesses; rewrite that part with torch operators, or detect on the rest of the model alone."
        )
