"""One forward pass of a model, recorded as a graph, with autograd as a second witness.

The model is left as found: it runs on copies of its parameters, buffers and inputs, plain attributes that it assigns
are put back, and so are the states of the random number generators of torch, NumPy and Python.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neuromech.compat import is_persistent, tree_leaves
from neuromech.detect.calling import Attributes, call, copies, state_of
from neuromech.detect.constant_folding import Replay
from neuromech.detect.experts import InAnyPrecision
from neuromech.detect.graph import Graph as Graph  # part of what `record` promises
from neuromech.detect.module_rules import taken_whole
from neuromech.detect.own_writes import MOVE_OUT, WRITES
from neuromech.detect.recorder import Recorder
from neuromech.errors import CaptureError
from neuromech.rng import GeneratorStates, preserved_rng, same, states


@dataclass(frozen=True)
class Path:
    """Which way a forward takes: the random decision that gets another answer, and which; the seed of all generators;
    the attributes that it finds."""

    turn: tuple[int, float] | None = None
    seed: int | None = None
    given: Attributes = field(default_factory=dict)

    def seeded(self) -> GeneratorStates:
        if self.seed is not None:
            torch.manual_seed(self.seed)
            random.seed(self.seed)
            if numpy := sys.modules.get("numpy"):
                numpy.random.seed(self.seed)
        return states(())


PLAIN = Path()


def record(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
    path: Path = PLAIN,
) -> Graph:
    """Record `loss(model(*args, **kwargs))`, or the model's output if there is no loss; `path`: which way it takes.

    Raises `CaptureError` if the forward itself fails, if its parameters or its result are of a kind that cannot be
    followed, or if a parameter reaches the result on a path that the recording did not see (bare memory, another
    thread).
    """
    check_kind(model)
    given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
    if any(t.is_nested for t in given):
        raise CaptureError("the example holds a nested tensor, whose rows differ in length: pad it to one length")
    recorder = Recorder()
    recorder.turn = path.turn
    left: Attributes = {}
    raised: list[tuple[BaseException, str]] = []
    name = type(model).__name__
    doing = ""

    def run(state: Mapping[str, Tensor], inputs: tuple[Any, dict[str, Any]]) -> list[Tensor]:
        nonlocal doing
        doing = f"the forward of {name} failed while it was recorded"
        out = call(model, *inputs, state, given=path.given, left=left)
        doing = f"the loss failed on the output of {name}"
        recorder.strangers = "input"  # targets
        return tensors_of(out if loss is None else loss(out))

    try:
        with _module_paths(model, recorder.modules) as raised, taken_whole(model, recorder.as_one):
            recorded, inputs = state_of(model, copies), copies((args, kwargs or {}))
            for t in tree_leaves(inputs):
                if isinstance(t, Tensor):
                    recorder.leaf(t, "input")
            for key in statistics(model):
                recorder.leaf(recorded[key], "input")
            for key, p in model.named_parameters(remove_duplicate=False):
                recorder.leaf(recorded[key], "parameter", key, trainable=p.requires_grad)
            for t in tree_leaves(list(path.given.values())):
                if isinstance(t, Tensor):
                    recorder.leaf(t, "input")
            with preserved_rng():
                start = path.seeded()
                with recorder.recording():
                    recorder.graph.outputs = [recorder.read(t) for t in run(recorded, inputs)]
                recorder.graph.drew = not same(start, states(())._replace(torch=start.torch))
            recorder.graph.replaced = tuple(sorted(_names(model, left)))
            witness = state_of(model, copies)
            with preserved_rng(), torch.enable_grad(), InAnyPrecision(), Replay(recorder.answers, recorder.turned):
                path.seeded()
                reached, custom = backward_graph(run(witness, copies((args, kwargs or {}))))
    except CaptureError:
        raise
    except Exception as error:
        where = next((f" in module {path!r}" for e, path in raised if e is error and path), "")
        advice = _advice(error, [*model.parameters(), *model.buffers(), *given])
        raise CaptureError(f"{doing}{where}: {type(error).__name__}: {error}. {advice}.") from error
    if written := [key for key, _ in model.named_parameters() if recorder.written(recorded[key])]:
        raise CaptureError(f"the forward of {name} {WRITES} {written[0]}: {MOVE_OUT}")
    check_outputs(recorder.graph, f"the {'loss' if loss else 'output'} of {name}")
    # The parameter itself is reached where the model keeps a view of it aside, out of reach of our copies.
    expected = {name for name, p in model.named_parameters() if p in reached or witness[name] in reached}
    check_coverage(recorder.graph, expected, custom)
    return recorder.graph


def _names(model: nn.Module, attributes: Attributes) -> Iterator[str]:
    paths = {m: path for path, m in model.named_modules()}
    return (f"{paths[m]}.{name}" if paths.get(m) else name for m, name in attributes)


def statistics(model: nn.Module) -> Iterator[str]:
    """The buffers whose numbers belong to the model's state, and may change while it trains: averages, not indices."""
    for path, m in model.named_modules():
        for name, buffer in m.named_buffers(recurse=False):
            if buffer.is_floating_point() and is_persistent(m, name):
                yield f"{path}.{name}" if path else name


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
    if not isinstance(output, (type, nn.Module)) and not callable(output):
        state = object.__getstate__(output)  # attributes, and what stands in slots
        return tensors_of(state) if state is not None else []
    return []


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


def _advice(error: Exception, tensors: Sequence[Tensor]) -> str:
    """What to do about an error in the forward or the loss, which see `tensors`."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _GRAD_INSIDE):
        return "A forward that differentiates by itself cannot be recorded"
    devices = sorted({str(t.device) for t in tensors})
    if "meta" in devices and len(devices) > 1:
        return (
            f"Model and example lie on {' and '.join(devices)}, and tensors on the meta device have no values that "
            "could meet others: move everything to one device"
        )
    return "Check that example, target and loss fit the model"


def unready(model: nn.Module) -> str:
    """What has to be done with a model before anything can be asked of it, "" if nothing."""
    if isinstance(model, torch.jit.ScriptModule):
        return "a module compiled by torch.jit cannot be recorded: pass the module that it was made from"
    lazy = [name for name, p in [*model.named_parameters(), *model.named_buffers()] if is_lazy(p)]
    if lazy:
        return f"{lazy[0]} is not initialised yet (a lazy module): call the model once on an example, then try again"
    return ""


def check_kind(model: nn.Module) -> None:
    if reason := unready(model):
        raise CaptureError(reason)
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if p.layout is not torch.strided or p.is_quantized:
            kind = "quantised" if p.is_quantized else f"stored as {str(p.layout).removeprefix('torch.')}"
            raise CaptureError(
                f"{name} is {kind}, and only dense tensors of plain numbers can be followed: convert it first"
            )


def check_outputs(graph: Graph, what: str) -> None:
    if not graph.outputs:
        raise CaptureError(
            f"{what} holds no floating-point tensor, so there is nothing that its parameters could change: return the "
            "tensors themselves, or pass a loss"
        )
    if any(v.dtype.is_complex for v in graph.outputs):
        raise CaptureError(f"{what} holds complex numbers, about which nothing can be claimed: pass a real loss")


def backward_graph(outputs: Sequence[Tensor], ends: Collection[Any] = ()) -> tuple[set[Tensor], list[str]]:
    """The leaves that autograd would send a gradient to from `outputs`, and the custom functions on the way; not past
    the nodes `ends`."""
    found = {t for t in outputs if t.is_leaf and t.requires_grad}
    custom: dict[str, None] = {}
    seen: set[Any] = set(ends)
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


def check_coverage(graph: Graph, expected: set[str], custom: Sequence[str]) -> None:
    """Autograd is the second witness: a parameter that it reaches and the recording does not went past the recorder.

    `expected`: the parameters that autograd reaches, on a way with the functions `custom`.
    """
    recorded = {name for v in graph.ancestors(graph.outputs) for name in v.names}
    if names := sorted(expected - recorded):
        how = "bare memory, a custom kernel, or another thread"
        how += f"; is it the custom autograd function {', '.join(custom)}?" if custom else ""
        raise CaptureError(
            f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''} reach the result on a path that the recording "
            f"did not see ({how}). Claims about them would be guesses; rewrite that part with torch operators, or "
            "detect on the rest of the model alone."
        )


def why_not(model: nn.Module) -> str:
    """Why a model cannot be watched, if that can be known before it runs; else ""."""
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        return "FullyShardedDataParallel cuts parameters out of a flat one: shard with fully_shard() (FSDP2) instead"
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        return "what torch.jit has compiled cannot be followed: pass the module that it was made from"
    if any(p.is_meta for p in model.parameters()):
        return "parameters on the meta device have no values: instrument the model once they have (to_empty, ...)"
    return ""
