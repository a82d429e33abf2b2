"""What the model itself contributes to each gradient: its forward once more, on a copy, and its backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromech.compat import gradient_hooks, hooks_on
from neuromech.detect import Graph, call, private_copy, state_of, tensors_of
from neuromech.hooks import Forward, ForwardWatch, Hook
from neuromech.params import named_parameters
from neuromech.rng import preserved_rng, restore

OURS = 1  # hooks ahead of the gradient of a parameter: that of the monitor


class ModelGradient:
    """Of the first forward that trained, or of the next one that trains after `ask`."""

    def __init__(self, model: nn.Module, watch: ForwardWatch) -> None:
        self._model, self._watch, self._trained = model, watch, watch.trained

    def ask(self) -> None:
        self._trained = None
        self._watch.again()

    def __call__(self) -> dict[str, Tensor] | None:
        """None if it cannot be had: the output must be the same, bit for bit, and no hook may change a gradient."""
        trained, self._trained = self._trained or self._watch.trained, None
        self._watch.forget()
        return None if trained is None or _hooked(self._model) else _gradient_of(self._model, trained)


def _gradient_of(model: nn.Module, trained: Forward) -> dict[str, Tensor] | None:
    if trained.generators is None or not trained.outputs:
        return None
    params = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in named_parameters(model).items()}
    state = state_of(model, torch.clone, params)
    with preserved_rng(), torch.enable_grad():
        restore(trained.generators)
        outputs = tensors_of(call(private_copy(model), trained.args, trained.kwargs, state))
    if len(outputs) != len(trained.outputs):
        return None
    pairs = [(y, g) for y, g in zip(outputs, trained.cotangents, strict=True) if g is not None]
    if not pairs or not all(torch.equal(y, seen) for y, seen in zip(outputs, trained.outputs, strict=True)):
        return None
    names = [n for n, p in params.items() if p.requires_grad]
    ys, gs = [y for y, _ in pairs], [g for _, g in pairs]
    found = torch.autograd.grad(ys, [params[n] for n in names], gs, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _hooked(model: nn.Module) -> bool:
    """True if hooks of others run in the forward or backward: a copy is without them."""
    on_weights = any(gradient_hooks(p) > OURS for p in model.parameters())
    return on_weights or any(not isinstance(hook, Hook) for m in model.modules() for hook in hooks_on(m))


def coarsest(graph: Graph | None) -> float:
    """The spacing of numbers around 1 in the coarsest format that a recorded forward computes in."""
    nodes = graph.nodes if graph is not None else []
    dtypes = {v.dtype for node in nodes for v in node.outputs if v.dtype.is_floating_point}
    return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
