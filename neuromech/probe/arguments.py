"""What `instrument` was given: unwrapped, checked, and put to use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from neuromech.detect import (
    Experiment,
    Findings,
    Graph,
    Invariance,
    betrayed,
    call,
    find_symmetries,
    find_under,
    recognise,
    seen_of,
    state_of,
    tensors_of,
    wants_target,
)
from neuromech.errors import InstrumentError
from neuromech.hooks import Forward, ForwardWatch, held
from neuromech.params import named_parameters
from neuromech.rng import preserved_rng, restore
from neuromech.symmetry import Symmetry


def check(
    model: nn.Module,
    loss: Callable[..., Any] | None,
    example: Any,
    optimizer: Optimizer | None,
    every: int,
    members: int | None,
) -> None:
    """Raise `InstrumentError` for what cannot work, before anything is touched."""
    if not isinstance(model, nn.Module):
        raise InstrumentError(f"expected a torch.nn.Module, got {type(model).__name__}: pass the model itself")
    name = type(model).__name__
    if not any(p.requires_grad for p in model.parameters()):
        raise InstrumentError(f"{name} has no trainable parameters: there is nothing to measure")
    if optimizer is not None and not held(optimizer, list(model.parameters())):
        raise InstrumentError(
            f"this {type(optimizer).__name__} holds none of the parameters of {name}: was it made before the model was "
            "copied or moved? Make it from model.parameters()"
        )
    if not isinstance(every, int) or every < 1:
        raise InstrumentError(f"every={every}: record every step (1) or every so many (2, 3, ...)")
    if members is not None and (not isinstance(members, int) or members < 0):
        raise InstrumentError(f"members={members}: pass how many to record singly (0, 1, ...), or None for all of them")
    if loss is not None and example is None:
        raise InstrumentError(
            "loss= needs example= to be evaluated on: pass both, or neither, and the loss is recognised by the first "
            "gradient that it sends back"
        )


def find_now(model: nn.Module, loss: Callable[..., Any], example: Any) -> Findings:
    """The symmetries under a loss that can be evaluated on the example: `(inputs, target)`, or inputs alone."""
    if not wants_target(loss):
        return find_symmetries(model, example, loss)
    if not (isinstance(example, (tuple, list)) and len(example) == 2):
        raise InstrumentError("this loss takes (output, target): pass example=(inputs, target)")
    inputs, target = example
    return find_symmetries(model, inputs, loss, target)


def find_recognised(model: nn.Module, trained: Forward, graph: Graph) -> Findings:
    """The symmetries under the loss that sent the gradients which `trained` has received."""
    return find_under(model, trained.args, trained.kwargs, graph, _recognised(trained, graph))


def find_violated(
    model: nn.Module, trained: Forward, graph: Graph, known: Sequence[Symmetry]
) -> list[tuple[Symmetry, float]]:
    """The symmetries, beyond those `known`, that the forward has and its gradient violates."""
    free = _recognised(trained, graph)

    def seen(output: Any) -> list[Tensor]:
        return [seen_of(t, f) for t, f in zip(tensors_of(output), free, strict=True)]

    return betrayed(model, graph, free, Experiment(model, trained.args, trained.kwargs, seen), known)


def coarsest(graph: Graph) -> float:
    """The spacing of numbers around 1 in the coarsest format that a recorded forward computes in."""
    dtypes = {v.dtype for node in graph.nodes for v in node.outputs if v.dtype.is_floating_point}
    return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)


class ModelGradient:
    """What the model itself contributes to each gradient, by a forward and backward of our own: of the first forward
    that trained, or of the next one if `ask` was called."""

    def __init__(self, model: nn.Module, watch: ForwardWatch) -> None:
        self._model, self._watch, self._trained = model, watch, watch.trained

    def ask(self) -> None:
        self._trained = None
        self._watch.again()

    def __call__(self) -> dict[str, Tensor] | None:
        """None if the same forward cannot be had a second time: its output must be the same, bit for bit."""
        trained, self._trained = self._trained or self._watch.trained, None
        self._watch.forget()
        return None if trained is None else _gradient_of(self._model, trained)


def _gradient_of(model: nn.Module, trained: Forward) -> dict[str, Tensor] | None:
    if trained.generators is None or not trained.outputs:
        return None
    params = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in named_parameters(model).items()}
    state = state_of(model, torch.clone, params)
    with preserved_rng(), torch.enable_grad():
        restore(trained.generators)
        outputs = tensors_of(call(model, trained.args, trained.kwargs, state))
    if len(outputs) != len(trained.outputs):
        return None
    pairs = [(y, g) for y, g in zip(outputs, trained.cotangents, strict=True) if g is not None]
    if not pairs or not all(torch.equal(y, seen) for y, seen in zip(outputs, trained.outputs, strict=True)):
        return None
    names = [n for n, p in params.items() if p.requires_grad]
    ys, gs = [y for y, _ in pairs], [g for _, g in pairs]
    found = torch.autograd.grad(ys, [params[n] for n in names], gs, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _recognised(trained: Forward, graph: Graph) -> list[Invariance]:
    """What the loss does not see of each output, by the gradient that it sent back."""
    if len(trained.outputs) != len(graph.outputs):
        return [Invariance()] * len(graph.outputs)  # the outputs differ from call to call
    received = zip(trained.outputs, trained.cotangents, strict=True)
    return [Invariance() if g is None else recognise(y, g) for y, g in received]
