"""The recorder: a dispatch mode that writes down every operator call, with one value per version of a tensor.

It runs inside `torch.inference_mode()`, where PyTorch keeps composite operators whole (`linear`, `batch_norm`,
`cross_entropy_loss` ...), the same set on every device. Grad mode stays switched on inside, so that a
`torch.no_grad()` of the model can be told from our own: what it computes carries no gradient and is a `stop`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuromech.compat import (
    HigherOrderOperator,
    TorchDispatchMode,
    running_function,
    schema_of,
    storage_id,
    unobserved,
)
from neuromech.detect import constant_folding as shadow
from neuromech.detect import experts
from neuromech.detect.graph import Geometry, Graph, Node, Value, ValueKind
from neuromech.detect.operands import exchanged, those_of
from neuromech.detect.operator import UNKNOWN, operator_of
from neuromech.detect.shapes import RememberedShapes
from neuromech.errors import CaptureError

# The content of a tensor leaves the graph as bare memory, which the dispatcher never hears of.
_MEMORY_ESCAPES = {"numpy", "__array__", "tolist", "__dlpack__", "data_ptr"}
CUSTOM = "it is part of the custom autograd function"  # why no claim passes an operator


def storage_of(t: Tensor) -> int:
    """A number that tensors have in common if they share memory."""
    if not _is_dense(t):
        return -id(t)
    return storage_id(t)


def geometry_of(t: Tensor) -> Geometry:
    """Where the entries of a tensor lie in its memory."""
    return (tuple(t.shape), tuple(t.stride()), int(t.storage_offset())) if _is_dense(t) else (tuple(t.shape), (), 0)


def _is_dense(t: Tensor) -> bool:
    return t.layout is torch.strided and not t.is_nested


def _overlap(a: Geometry, b: Geometry) -> bool:
    def span(g: Geometry) -> tuple[int, int]:
        return g[2], g[2] + 1 + sum((n - 1) * s for n, s in zip(g[0], g[1], strict=True))

    if 0 in a[0]:  # what was written is nothing; autograd takes it for a path all the same
        return True
    return all(b[0]) and span(a)[0] < span(b)[1] and span(b)[0] < span(a)[1]


class Recorder(TorchDispatchMode):
    """Everything that happens inside `recording()`, as `graph`; `modules` is the stack of module paths."""

    supports_higher_order_operators = True  # else PyTorch refuses them, in words for its developers

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.modules = [""]
        self.active = False
        self.turn: tuple[int, float] | None = None  # which decision by a random number gets another answer, and which
        self.scalars = 0  # numbers that left the graph so far
        self.turned: dict[int, Any] = {}  # the other answer that was given, by how many numbers had left before
        self.answers: list[Any] = []  # to questions about what constants on the meta device hold
        self.strangers: ValueKind = "constant"  # what a tensor is that nobody has announced
        self._seen: dict[int, tuple[Value, int, Geometry, int]] = {}  # id -> value, writes replayed, geometry, storage
        self._writes: dict[int, list[tuple[Value, Geometry]]] = {}  # storage -> in-place writes, in order
        self._leaves: dict[tuple[int, Geometry], Value] = {}  # by storage and geometry: ties
        self._constants: dict[int, list[Value]] = {}  # storage -> constants whose content is still in it
        self._made: dict[int, list[Value]] = {}  # storage -> results of operators that live in it
        self._shapes = RememberedShapes()
        self._keep: list[Tensor] = []  # ids and storages are reused once freed, so nothing is freed while recording

    @contextmanager
    def recording(self) -> Iterator[None]:
        self.active = True
        try:
            with torch.inference_mode(), torch.enable_grad(), _MemoryEscapes(self), self:
                yield
        finally:
            self.active = False

    def leaf(
        self, t: Tensor, kind: ValueKind, name: str = "", trainable: bool = False, content: Tensor | None = None
    ) -> Value:
        """A tensor that was there before. Two leaves in the same memory are one, under both names.

        `content`: what a constant holds, if it is not `t` itself.
        """
        key = (storage_of(t), geometry_of(t))
        if key not in self._leaves:
            if content is None and kind == "constant":
                content = t
            self._leaves[key] = Value(tuple(t.shape), t.dtype, kind, trainable=trainable, content=content)
            self.graph.leaves.append(self._leaves[key])
        value = self._leaves[key]
        if kind == "parameter" and value.kind != kind:  # what lay there before has become one
            value.kind, value.trainable, value.content = kind, trainable, None
        value.names += (name,) if name and name not in value.names else ()
        return self.bind(t, value)

    def read(self, t: Tensor) -> Value:
        """The current version of `t`, after every in-place write that its storage has seen."""
        if id(t) not in self._seen:
            self._stranger(t)
        value, replayed, geometry, storage = self._seen[id(t)]
        if storage != storage_of(t):  # `t.data = ...`: other content, and the gradient of the old
            value = self._note("neuromech.set_data", [value, *self._made.get(storage_of(t), ())], t)
            replayed, geometry, storage = 0, geometry_of(t), storage_of(t)
        writes = self._writes.get(storage, [])
        for written, where in writes[replayed:]:
            if where == geometry and written.dtype == t.dtype:
                value = written
            elif _overlap(where, geometry):
                value = self._note("neuromech.partial_write", [value, written], t, how=(where, geometry))
        self._seen[id(t)] = (value, len(writes), geometry, storage)
        return value

    def kept(self) -> int:
        """How many tensors are kept so far."""
        return len(self._keep)

    def let_go(self, since: int, but: Sequence[Tensor]) -> None:
        """Let go of the tensors that were kept since `since`, but for some: whoever asks sees to it that none of them
        comes by again."""
        self._keep[since:] = but

    def written(self, t: Tensor) -> list[Value]:
        """What operators have written into the memory of `t`, in order."""
        return [value for value, _ in self._writes.get(storage_of(t), ())]

    def escape(self, how: str, tensors: Sequence[Tensor]) -> None:
        """The content of `tensors` goes where the recorder cannot follow."""
        inputs = [self.read(t) for t in tensors]
        self.graph.nodes.append(Node(how, tuple(inputs), {}, inputs, [], self.modules[-1], escape=True))

    def as_one(self, op: str, args: tuple[Any, ...], run: Callable[[], Any]) -> Any:
        """What `run` makes of `args`, as one call of the operator `op`: nothing that happens inside is written down."""
        if not self.active:
            return run()
        asked = {id(t): self.read(t) for t in _tensors(args)}
        self.active = False
        try:
            with unobserved(), torch.no_grad():
                out = run()
                if not isinstance(out, Tensor):
                    raise CaptureError(f"{op} was registered as one operation and does not return one tensor")
                out = out.view_as(out)  # it may be what went in
        finally:
            self.active = True
        function = "" if torch.is_grad_enabled() else running_function()
        stop = not function and not torch.is_grad_enabled()
        values, inputs = exchanged(Tensor, lambda t: asked[id(t)], args), list(dict.fromkeys(asked.values()))
        node = Node(op, values, {}, inputs, [], self.modules[-1], stop)
        node.opaque = f"{CUSTOM} {function}" if function else ""
        self.graph.nodes.append(node)
        node.outputs.append(self.bind(out, Value(tuple(out.shape), out.dtype, node=node)))
        return out

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise CaptureError(
                f"the forward calls {func}, an operator that takes functions, and what these use cannot be followed: "
                "write it with plain control flow"
            )
        name = _name(func)
        operator = operator_of(name)
        told = operator or UNKNOWN
        if told.is_metadata:
            return func(*args, **kwargs)
        asked = [(t, self.read(t)) for t in _tensors((args, kwargs))]
        before = {id(t): v for t, v in asked}
        if operator is None and any(v.content is None for _, v in asked):
            with self:  # what no rule knows is recorded as what it is made of, if it is made of others
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts

        def content(t: Tensor) -> Tensor | None:
            return before[id(t)].content

        if told.escapes and any(v.content is not None and t.is_meta for t, v in asked):
            with suppress(shadow.UnknownContent):
                self.answers.append(shadow.compute(func, args, kwargs, content))
                return self.answers[-1]
        wide = func is experts.KERNEL and args[0].dtype is torch.float64
        out = experts.products_of_blocks(*args, **kwargs) if wide else self._shapes.call(func, args, kwargs)
        if told.as_number:
            out = self._decided(out, [v for _, v in asked])
        written = _written(func, args, kwargs)
        made = [t for t in _tensors(out) if not any(t is w for w in written)]
        if not written and len(made) == 1 and id(made[0]) in before:
            return out  # the same tensor, handed through (`contiguous` and `to` often do)
        filled = _filled(func)
        read = args, {k: v for k, v in kwargs.items() if k not in filled}
        values, named = exchanged(Tensor, lambda t: before[id(t)], read)
        function = "" if torch.is_grad_enabled() else running_function()
        stop = not function and (not torch.is_grad_enabled() or told.stops)
        inputs = [] if told.no_content else list(dict.fromkeys(before[id(t)] for t in _tensors(read)))
        node = Node(name, values, named, inputs, [], self.modules[-1], stop, told.escapes)
        node.opaque = f"{CUSTOM} {function}" if function else ""
        self.graph.nodes.append(node)
        node.random = _draws(func, args, kwargs)
        random = node.random or told.unfilled
        fixed = not random and all(v.content is not None for v in node.inputs)
        known = shadow.tensors(func, args, kwargs, content, made) if fixed else [None] * len(made)
        for t, c in zip(made, known, strict=True):
            node.outputs.append(self.bind(t, Value(tuple(t.shape), t.dtype, node=node, content=c)))
        for t in written:
            same = before[id(t)].content if told.stops else None  # `detach_` writes nothing
            if same is None:
                self._forget(t)
            value = Value(tuple(t.shape), t.dtype, node=node, content=same)
            node.outputs.append(value)
            self._writes.setdefault(storage_of(t), []).append((value, geometry_of(t)))
            self.bind(t, value)
        return out

    def _decided(self, answer: Any, values: Sequence[Value]) -> Any:
        """A number that leaves the graph; another one if a random number decides, and it is its turn."""
        if any(v.node and v.node.random for v in self.graph.ancestors(values, through_stops=True)):
            others = (not answer,) if isinstance(answer, bool) else (0.0, 1 - 1e-7)
            if self.turn and self.turn[0] == len(self.graph.decisions):
                answer = self.turned[self.scalars] = self.turn[1]
            self.graph.decisions.append(others)
        self.scalars += 1
        return answer

    def bind(self, t: Tensor, value: Value) -> Value:
        """`t` is the tensor that `value` stands for, from now on."""
        storage = storage_of(t)
        self._keep.append(t)
        self._seen[id(t)] = (value, len(self._writes.get(storage, ())), geometry_of(t), storage)
        if value.node:
            self._made.setdefault(storage, []).append(value)
        if value.content is not None:
            self._constants.setdefault(storage, []).append(value)
        return value

    def _forget(self, t: Tensor) -> None:
        """What was in the memory of `t` is being written over."""
        for value in self._constants.pop(storage_of(t), ()):
            value.content = None

    def _stranger(self, t: Tensor) -> None:
        """A tensor never seen before: a constant, unless it lives in the memory of something that was computed."""
        if sources := self._made.get(storage_of(t)):
            self.bind(t, self._note("neuromech.hidden_alias", sources, t, stop=True))
        else:
            self.leaf(t, self.strangers)

    def _note(self, op: str, inputs: list[Value], t: Tensor, stop: bool = False, how: tuple[Any, ...] = ()) -> Value:
        value = Value(tuple(t.shape), t.dtype)
        value.node = Node(op, (*inputs, *how), {}, inputs, [value], self.modules[-1], stop)
        self.graph.nodes.append(value.node)
        return value


class _MemoryEscapes(TorchFunctionMode):
    """Hears of the accesses to bare memory, which do not pass the dispatcher."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _MEMORY_ESCAPES:
            self.recorder.escape(func.__name__, _tensors((args, kwargs)))
        return func(*args, **kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    return list(those_of(Tensor, tree))


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Does this call draw random numbers? A dropout of nothing, or outside of training, does not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    arguments = schema_of(func).arguments
    given = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given |= dict(zip([a.name for a in arguments], args, strict=False)) | kwargs
    off = given.get("train", given.get("training")) is False
    return not off and given.get("dropout_p", given.get("p")) != 0


@cache
def _name(func: Any) -> str:
    """`aten.add` of `aten.add.Tensor`."""
    return f"{func.namespace}.{schema_of(func).name.split('::')[1]}"


@cache
def _filled(func: Any) -> frozenset[str]:
    """The arguments of an operator that take its results: what they held before is not read."""
    return frozenset(a.name for a in schema_of(func).arguments if a.is_out)


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """The arguments that an operator writes to, by its schema: where they stand, and how they are called."""
    arguments = enumerate(schema_of(func).arguments)
    return tuple((i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operator call writes to."""
    written = _written_arguments(func)
    return _tensors([kwargs[name] if name in kwargs else args[i] if i < len(args) else None for i, name in written])
