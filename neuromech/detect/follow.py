"""The user's own forward, written down as it runs: nothing is called twice, and no number of the run is touched.

Every call that the forward makes is repeated on *twins*, tensors of the same shapes on the meta device, where it costs
no memory and draws no random number; the recorder writes down what the twins go through. Python code between the calls
runs once, the user's way, so whatever the model keeps (generators, counters, queues, averages in lists) is as without
us. What is no call to PyTorch cannot be followed (a script, a kernel of its own); autograd, the second witness, tells.

Contents: what a constant holds is read off the real one. A call that the meta device cannot answer, because the shape
of its result depends on numbers, is repeated on the real tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from neuromech.compat import (
    innermost_function_mode,
    own_parameter,
    running_function,
    storage_id,
    tree_leaves,
    tree_map,
    unobserved,
    unprofiled,
)
from neuromech.detect.capture import backward_graph, check_coverage, check_kind, check_outputs, statistics, tensors_of
from neuromech.detect.graph import Graph, Node, Value, ValueKind
from neuromech.detect.own_writes import MOVE_OUT, WRITES, take_as_left
from neuromech.detect.recorder import Recorder
from neuromech.errors import CaptureError

# The content of a tensor becomes a Python number, or bare memory.
_ESCAPES = {
    "item", "__bool__", "__int__", "__float__", "__complex__", "__index__", "is_nonzero", "equal", "allclose",
    "numpy", "__array__", "tolist", "__dlpack__", "data_ptr", "__contains__",
}  # fmt: skip
# Calls that return no tensor and write to one all the same.
_WRITES = {"__setitem__", "__delitem__"}
# The tensor that comes back is the one that went in, as far as mathematics goes.
_SAME = {"cpu", "cuda", "pin_memory", "requires_grad_", "share_memory_", "retain_grad"}
_RANDOM = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "empty"}
# A derivative reads the whole graph behind a tensor, whose parameters it may then depend on.
_DERIVATIVES = {"grad", "backward"}
# Custom functions of torch whose gradient is that of what they run: reentrant checkpoints, and a watch of fully_shard.
_TRANSPARENT = {"CheckpointFunction", "RegisterPostBackwardFunction"}
_COMPILED = "CompiledFunction"  # what torch.compile makes of a function with a gradient
_SMALL = 1 << 16  # elements of a constant that is copied, so that what becomes of it later does not matter


class Follower(TorchFunctionMode):
    """Inside, the calls of a forward of `model` are written down."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises `CaptureError` for a model whose parameters cannot be followed."""
        super().__init__()
        check_kind(model)
        self.failure: Exception | None = None
        self.autocast: torch.dtype | None = None  # in which some of it was computed, if torch chose it
        self._device = next((p.device.type for p in model.parameters()), "cpu")
        self._model, self._recorder = model, Recorder()
        self._paths = {id(m): path for path, m in model.named_modules()}
        self._places = [
            (path, attribute, m)
            for path, m in model.named_modules()
            for attribute, _ in m.named_parameters(recurse=False, remove_duplicate=False)
        ]
        self._twins: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()  # real -> twin
        self._random: Any = WeakTensorKeyDictionary()
        # Names of what stood where a parameter belongs.
        self._named: MutableMapping[Tensor, list[str]] = WeakTensorKeyDictionary()
        self._bases: dict[tuple[int, torch.dtype], Tensor] = {}  # by storage: what shares memory has twins that do
        self._held: list[Tensor] = []  # constants, so that their memory is not given to another
        for t in tensors_in((args, kwargs)):
            self._announce(t, "input")
        kept = set(statistics(model))
        for name, b in model.named_buffers():
            if name in kept:
                self._announce(b, "input")
        for name, p in model.named_parameters(remove_duplicate=False):
            self._named.setdefault(p, []).append(name)
            self._recorder.leaf(self._twin_of(p), "parameter", name, trainable=p.requires_grad)

    # -- the mode ------------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.failure is not None or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        twins = self._prepare(func, args, kwargs)
        out = func(*args, **kwargs)
        if twins is not None or self.failure is None:
            self._guarded(self._repeat, func, twins, args, kwargs, out)
        return out

    def leave(self) -> None:
        """Leave the mode, unless the forward has left a mode of its own behind: then ours does nothing any more."""
        if innermost_function_mode() is self:
            self.__exit__(None, None, None)
        else:
            self.failure = self.failure or CaptureError("the forward enters a mode of torch and does not leave it")

    def _guarded(self, work: Any, *args: Any) -> Any:
        """Nothing that goes wrong here may reach the forward."""
        try:
            with unprofiled():
                return work(*args)
        except Exception as error:
            self.failure = error
        return None

    def _prepare(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The twins of the arguments, made before the call may write to them; None: nothing that matters goes in."""
        return self._guarded(self._twins_of_arguments, args, kwargs)

    def _twins_of_arguments(self, args: Any, kwargs: Any) -> Any:
        given = tensors_in((args, kwargs))
        if not any(t in self._twins or t in self._random or self._name(t) for t in given):
            return None
        for t in given:
            if t not in self._twins:
                self._announce(t, "input" if t in self._random else "constant")
        return tree_map(self._as_twin, (args, kwargs))

    def _as_twin(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self._twins[x]
        return torch.device("meta") if isinstance(x, torch.device) else x

    def _repeat(self, func: Any, twins: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = _name_of(func)
        results = tensors_in(out)
        if twins is None:
            if name.removesuffix("_").removesuffix("_like") in _RANDOM:
                for t in results:
                    self._random[t] = True
            return
        if self.autocast is None and torch.is_autocast_enabled(self._device):
            self.autocast = torch.get_autocast_dtype(self._device)
        self._recorder.modules = [self._path()]
        given, named = twins
        if name in _ESCAPES:
            self._recorder.escape(name, tensors_in(twins))
        elif name in _DERIVATIVES:
            self._derivative(name, twins, results)
        elif name in _SAME:
            self._take(results, [given[0]])
        elif results or name in _WRITES or func is Tensor.data.__set__:  # type: ignore[attr-defined]
            if name == "to" and any(isinstance(x, str) for x in given):
                given = tuple("meta" if isinstance(x, str) else x for x in given)
            if isinstance(named.get("device"), (str, int)):
                named = named | {"device": "meta"}
            self._mirror(func, given, named, args, kwargs, results)

    def _mirror(self, func: Any, given: Any, named: Any, args: Any, kwargs: Any, results: list[Tensor]) -> None:
        grad = torch.is_grad_enabled()
        # What a checkpoint runs without gradient has one when it is run again.
        function = "" if grad else running_function()
        grad = grad or function in _TRANSPARENT
        if function == _COMPILED:
            raise CaptureError("a part of the forward is compiled, and its calls cannot be followed")
        mark = len(self._recorder.graph.nodes)
        try:
            with self._aside(grad):
                made = tensors_in(func(*given, **named))
        except CaptureError:
            raise
        except Exception:
            del self._recorder.graph.nodes[mark:]
            made = self._for_real(func, args, kwargs, results, grad)
        self._take(results, made)

    def _for_real(self, func: Any, args: Any, kwargs: Any, results: list[Tensor], grad: bool) -> list[Tensor]:
        """Repeat a call on the real tensors: the meta device cannot know the shape of its result."""
        name = _name_of(func)
        in_place = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        if name in _WRITES or in_place or name in _RANDOM:
            raise CaptureError(f"the forward calls {name} where the shape of the result depends on numbers")
        kept = self._recorder.kept()
        aliases: dict[int, Tensor] = {}

        def alias(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) not in aliases:
                aliases[id(x)] = x.detach()
                self._recorder.bind(aliases[id(x)], self._recorder.read(self._twins[x]))
            return aliases[id(x)]

        with unobserved():
            real, named = tree_map(alias, (args, kwargs))
        with self._aside(grad):
            made = tensors_in(func(*real, **named))
        if [t.shape for t in made] != [t.shape for t in results]:
            raise CaptureError(f"two identical calls of {name} give different shapes")
        twins = []
        for t in made:
            twins.append(torch.empty(t.shape, dtype=t.dtype, device="meta"))
            self._recorder.bind(twins[-1], self._recorder.read(t))
        self._recorder.let_go(kept, twins)
        return twins

    def _derivative(self, name: str, twins: Any, results: list[Tensor]) -> None:
        """A derivative taken inside of the forward depends on all that its tensors were computed from."""
        graph = self._recorder.graph
        inputs = [self._recorder.read(t) for t in tensors_in(twins)]
        behind = [v for v in graph.ancestors(inputs) if v.kind != "op"]
        made = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in results]
        node = Node(f"autograd.{name}", tuple(inputs), {}, list(dict.fromkeys([*inputs, *behind])), [], self._path())
        node.opaque = "it is a derivative taken inside of the forward"
        graph.nodes.append(node)
        for t in made:
            value = Value(tuple(t.shape), t.dtype, node=node)
            node.outputs.append(value)
            self._recorder.bind(t, value)
        self._take(results, made)

    def _take(self, results: list[Tensor], made: list[Tensor]) -> None:
        """`made` are the twins of `results`."""
        if [t.shape for t in made] != [t.shape for t in results]:
            raise CaptureError("a call gave results of other shapes on the meta device than in the forward")
        for t, twin in zip(results, made, strict=True):
            self._twins[t] = twin

    @contextmanager
    def _aside(self, grad: bool) -> Iterator[None]:
        """Modes, hooks, profilers and counters of others do not see what is done here."""
        with (
            unobserved(), torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.set_grad_enabled(grad),
            self._recorder,
        ):  # fmt: skip
            yield

    # -- what a tensor is ----------------------------------------------------------------------------------------------

    def _name(self, t: Tensor) -> list[str]:
        """The parameter that `t` stands for: itself, or what a wrapper has put in its place for the forward."""
        if t in self._named:
            return self._named[t]
        if not t.requires_grad:
            return []
        for path, attribute, m in self._places:
            p = own_parameter(m, attribute)
            if p is t or (p is None and vars(m).get(attribute) is t):
                self._named.setdefault(t, []).append(f"{path}.{attribute}" if path else attribute)
        return self._named.get(t, [])

    def _announce(self, t: Tensor, kind: ValueKind) -> None:
        if names := self._name(t):
            for name in names:
                self._recorder.leaf(self._twin_of(t), "parameter", name, trainable=t.requires_grad)
            return
        if t.is_nested:
            raise CaptureError("a nested tensor, whose rows differ in length, cannot be followed: pad it to one length")
        if kind == "constant" and t.grad_fn is not None:
            raise CaptureError(
                f"a tensor of shape {tuple(t.shape)} comes from {t.grad_fn.name()}, on a path that the recording did "
                f"not see{self._where()} (a script, a compiled function, or a kernel of its own)"
            )
        content = None
        if kind == "constant":
            self._held.append(t)
            content = t.detach().clone() if t.numel() <= _SMALL else t.detach()
        self._recorder.leaf(self._twin_of(t), kind, content=content)

    def _twin_of(self, t: Tensor) -> Tensor:
        if t not in self._twins:
            with unobserved(), torch.no_grad():
                self._twins[t] = self._meta(t)
        return self._twins[t]

    def _meta(self, t: Tensor) -> Tensor:
        if type(t) not in (Tensor, nn.Parameter) or t.layout is not torch.strided:
            return torch.empty(t.shape, dtype=t.dtype, device="meta")
        key = storage_id(t), t.dtype
        if key not in self._bases:
            n = t.untyped_storage().nbytes() // t.dtype.itemsize
            self._bases[key] = torch.empty(n, dtype=t.dtype, device="meta")
        return self._bases[key].as_strided(t.shape, t.stride(), t.storage_offset())

    def _path(self) -> str:
        """The path of the module whose code is running."""
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code.co_argcount and code.co_varnames[0] == "self":
                path: str | None = self._paths.get(id(frame.f_locals.get("self")))
                if path is not None:
                    return path
            frame = frame.f_back  # type: ignore[assignment]
        return ""

    def _where(self) -> str:
        path = self._path()
        return f" in module {path!r}" if path else ""

    # -- the end -------------------------------------------------------------------------------------------------------

    def graph(self, output: Any) -> Graph:
        """What was written down, with `output` for its result.

        Raises `CaptureError` if a part of the forward could not be followed.
        """
        results = tensors_of(output)
        self._raise_failure()
        for t in results:
            if t not in self._twins:
                self._announce(t, "constant")
        reached, custom = backward_graph(results)
        expected = {name for t in reached for name in self._named.get(t, ())[:1]}
        return self._graph_of([self._recorder.read(self._twins[t]) for t in results], expected, custom)

    def _graph_of(self, results: list[Value], expected: set[str], custom: list[str]) -> Graph:
        self._raise_failure()
        graph, name = self._recorder.graph, type(self._model).__name__
        order = {name: i for i, (name, _) in enumerate(self._model.named_parameters(remove_duplicate=False))}
        graph.outputs = results
        for key, p in self._model.named_parameters():
            written = self._recorder.written(self._twins[p]) if p in self._twins else []
            if written and not take_as_left(graph, key, written):
                raise CaptureError(f"the forward of {name} {WRITES} {key}: {MOVE_OUT}")
        graph.leaves.sort(key=lambda v: order[v.names[0]] if v.kind == "parameter" else -1)
        check_outputs(graph, f"the output of {name}")
        check_coverage(graph, expected, custom)
        return graph

    def _raise_failure(self) -> None:
        if isinstance(self.failure, CaptureError):
            raise self.failure
        if self.failure is not None:
            raise CaptureError(f"the forward could not be followed: {self.failure}") from self.failure


def tensors_in(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _name_of(func: Any) -> str:
    return str(getattr(func, "__name__", ""))
