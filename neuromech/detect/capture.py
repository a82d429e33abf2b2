"""One forward pass of a model, recorded as a graph, with autograd as a second witness.

The model is left as found: it runs on copies of its parameters, buffers and inputs, plain attributes that it assigns
are put back, and so are the states of the random number generators of torch, NumPy and Python.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from neuromech.detect.graph import Graph as Graph  # part of what `record` promises
from neuromech.detect.recorder import Recorder, geometry_of, storage_of
from neuromech.errors import CaptureError


def record(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> Graph:
    """Record `loss(model(*args, **kwargs))`, or the model's output if there is no loss.

    Raises `CaptureError` if the forward itself fails, if its parameters or its result are of a kind that cannot be
    followed, or if a parameter reaches the result on a path that the recording did not see (a custom autograd
    function, another thread).
    """
    _check_kind(model)
    recorder = Recorder()
    raised: list[tuple[BaseException, str]] = []
    name = type(model).__name__
    doing = ""

    def run(state: Mapping[str, Tensor]) -> list[Tensor]:
        nonlocal doing
        doing = f"the forward of {name} failed while it was recorded"
        out = call(model, copies(args), copies(kwargs or {}), state)
        doing = f"the loss failed on the output of {name}"
        return tensors_of(out if loss is None else loss(out))

    try:
        with _module_paths(model, recorder.modules) as raised:
            recorded = state_of(model, copies)
            for key, p in model.named_parameters(remove_duplicate=False):
                recorder.leaf(recorded[key], "parameter", key, trainable=p.requires_grad)
            with preserved_rng(), recorder.recording():
                recorder.graph.outputs = [recorder.read(t) for t in run(recorded)]
            witness = state_of(model, copies)
            with preserved_rng(), torch.enable_grad():
                reached, custom = _backward_graph(run(witness))
    except Exception as error:
        where = next((f" in module {path!r}" for e, path in raised if e is error and path), "")
        advice = "Check that example, target and loss fit the model"
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _GRAD_INSIDE):
            advice = "A forward that differentiates by itself, or checkpoints, cannot be recorded"
        raise CaptureError(f"{doing}{where}: {type(error).__name__}: {error}. {advice}.") from error
    if written := [key for key, _ in model.named_parameters() if recorder.writes_to(recorded[key])]:
        raise CaptureError(
            f"the forward of {name} writes to its own parameter {written[0]}: move that out of the forward, to where "
            "the optimizer steps"
        )
    _check_outputs(recorder.graph, f"the {'loss' if loss else 'output'} of {name}")
    _check_coverage(model, recorder.graph, witness, reached, custom)
    return recorder.graph


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of numbers in a model's output, whatever its structure; `.loss` alone where there is one."""
    loss = getattr(output, "loss", None)
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return [loss]
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() or output.is_complex() else []
    if isinstance(output, Mapping):
        return [t for v in output.values() for t in tensors_of(v)]
    if isinstance(output, (tuple, list)):
        return [t for v in output for t in tensors_of(v)]
    if hasattr(output, "__dict__") and not isinstance(output, (type, nn.Module)) and not callable(output):
        return tensors_of(vars(output))
    return []


# -- calling a model without changing it ----------------------------------------------------------------------------


def copies(tree: Any) -> Any:
    """The same structure with its tensors copied; a copy requires gradients where the original did."""
    return tree_map_only(Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), tree)


def state_of(
    model: nn.Module, copied: Callable[[Tensor], Tensor], given: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Parameters and buffers by all their names, `given` ones or copies; what shares memory stays one."""
    made: dict[object, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, t in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        key = storage_of(t), geometry_of(t)
        if key not in made:
            made[key] = given[name] if given and name in given else copied(t)
        state[name] = made[key]
    return state


def call(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    state: Mapping[str, Tensor],
    copied: Callable[[Tensor], Tensor] = torch.clone,
) -> Any:
    """`model(*args, **kwargs)` with `state` in place of its own tensors; what it assigns to itself does not stay."""
    before = _calling.set(True)
    try:
        with _attributes_lent(model, copied), _uncompiled(model):
            return functional_call(model, dict(state), args, kwargs)
    finally:
        _calling.reset(before)


def is_our_call() -> bool:
    """True inside `call`: a forward of neuromech's own, which is no step of anyone's training."""
    return _calling.get()


_calling: ContextVar[bool] = ContextVar("calling", default=False)


@contextmanager
def _attributes_lent(model: nn.Module, copied: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Lend the model shallow copies of its plain attributes, and put the originals back.

    A hidden state that is kept between calls would otherwise be one of ours afterwards, which autograd refuses.
    """
    machinery = vars(nn.Module())
    own = {m: dict(vars(m)) for m in model.modules()}
    for m, attributes in own.items():
        for name, value in attributes.items():
            if name not in machinery and isinstance(value, (Tensor, list, dict, set)):
                m.__dict__[name] = copied(value) if isinstance(value, Tensor) else copy.copy(value)
    try:
        yield
    finally:
        for m, attributes in own.items():
            m.__dict__.clear()
            m.__dict__.update(attributes)


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Modules compiled by `torch.compile` run as they were written, and stay compiled for their owner."""
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds, and nobody compiles without
    kinds = (dynamo.OptimizedModule,) if dynamo else ()
    if any(isinstance(m, kinds) or m._compiled_call_impl is not None for m in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Random numbers drawn inside do not count: torch (all devices), NumPy and Python go on as if nothing happened."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def _module_paths(model: nn.Module, stack: list[str]) -> Iterator[list[tuple[BaseException, str]]]:
    """Keep the path of the module at work on top of `stack`; yields the errors with where they were raised."""
    raised: list[tuple[BaseException, str]] = []
    handles = []
    for path, m in model.named_modules():

        def enter(m: nn.Module, _: Any, path: str = path) -> None:
            stack.append(path)

        def leave(m: nn.Module, _: Any, __: Any, path: str = path) -> None:
            if stack[-1] == path:  # else it failed before it was entered
                stack.pop()
            if error := sys.exception():
                raised.append((error, path))

        handles.append(m.register_forward_pre_hook(enter, prepend=True))
        handles.append(m.register_forward_hook(leave, always_call=True))
    try:
        yield raised
    finally:
        for handle in handles:
            handle.remove()


# -- what is refused ------------------------------------------------------------------------------------------------


# What PyTorch says to a forward that calls autograd inside inference mode.
_GRAD_INSIDE = ("Inference tensors cannot be saved for backward", "does not require grad")


def _check_kind(model: nn.Module) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise CaptureError(f"the model is wrapped in {type(model).__name__}: pass what it wraps, model.module")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("a module compiled by torch.jit cannot be recorded: pass the module that it was made from")
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(p):
            raise CaptureError(
                f"{name} is not initialised yet (a lazy module): call the model once on an example, then try again"
            )
        if p.layout is not torch.strided or p.is_quantized:
            kind = "quantised" if p.is_quantized else f"stored as {str(p.layout).removeprefix('torch.')}"
            raise CaptureError(
                f"{name} is {kind}, and only dense tensors of plain numbers can be followed: convert it first"
            )


def _check_outputs(graph: Graph, what: str) -> None:
    if not graph.outputs:
        raise CaptureError(
            f"{what} holds no floating-point tensor, so there is nothing that its parameters could change: return the "
            "tensors themselves, or pass a loss"
        )
    if any(v.dtype.is_complex for v in graph.outputs):
        raise CaptureError(f"{what} holds complex numbers, about which nothing can be claimed: pass a real loss")


def _backward_graph(outputs: Sequence[Tensor]) -> tuple[set[Tensor], list[str]]:
    """The leaves that autograd would send a gradient to from `outputs`, and the custom functions on the way."""
    found = {t for t in outputs if t.is_leaf and t.requires_grad}
    custom: dict[str, None] = {}
    seen: set[Any] = set()
    stack = [t.grad_fn for t in outputs]
    while stack:
        fn = stack.pop()
        if fn is None or fn in seen:
            continue
        seen.add(fn)
        if hasattr(fn, "variable"):
            found.add(fn.variable)
        if isinstance(fn, torch.autograd.function.BackwardCFunction):
            custom[type(fn).__name__.removesuffix("Backward")] = None
        stack += [f for f, _ in fn.next_functions]
    return found, list(custom)


def _check_coverage(
    model: nn.Module, graph: Graph, state: Mapping[str, Tensor], reached: set[Tensor], custom: Sequence[str]
) -> None:
    """Autograd is the second witness: a parameter that it reaches and the recording does not went past the recorder."""
    recorded = {name for v in graph.ancestors(graph.outputs) for name in v.names}
    # The parameter itself is reached where the model keeps a view of it aside, out of reach of our copies.
    missed = [
        name
        for name, p in model.named_parameters()
        if (p in reached or state[name] in reached) and name not in recorded
    ]
    if missed:
        how = f"the custom autograd function {', '.join(custom)}" if custom else "a custom kernel, or another thread"
        raise CaptureError(
            f"{', '.join(missed[:5])}{' ...' if len(missed) > 5 else ''} reach the result on a path that the recording "
            f"did not see ({how}). Claims about them would be guesses; rewrite that part with torch operators, or "
            "detect on the rest of the model alone."
        )
