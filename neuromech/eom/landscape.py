"""Where losses are evaluated: a pure function of parameters, or a closure over live ones, behind one face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neuromech.compat import called_with
from neuromech.eom.forward_ad import dual
from neuromech.errors import EoMError
from neuromech.params import Params, combine, named_parameters
from neuromech.rng import restore, states

LossFunction = Callable[[Params], Tensor]
Terms = Sequence[tuple[float, Params]]  # a sum of coefficient * x


class Look(NamedTuple):
    """One evaluation: the loss, the leaves that its graph hangs on, and, if it ran backward itself, the gradient.

    `gradient` lacks the parameters that the loss does not use. `loss` is nan if a closure returned nothing.
    """

    loss: Tensor
    leaves: Params
    gradient: Params | None = None


class Landscape(Protocol):
    """A loss over parameters. `here` are the parameters at the point where it stands, without a graph."""

    @property
    def here(self) -> Params: ...

    def look(self, params: Params | None = None, tangent: Params | None = None, shift: Terms = ()) -> Look:
        """Evaluate at `params` (None: here), or at here + `shift`; as dual numbers if there is a `tangent`."""
        ...


class PureLandscape:
    """A loss that is a pure function of parameters.

    Raises `EoMError` for parameters that no gradient can be taken of.
    """

    def __init__(self, loss: LossFunction, params: Params) -> None:
        check_parameters(params)
        self._loss = loss
        self.here: Params = {name: p.detach() for name, p in params.items()}

    def look(self, params: Params | None = None, tangent: Params | None = None, shift: Terms = ()) -> Look:
        if shift:
            params = combine([(1.0, self.here), *shift])
        # Fresh leaves: views of one tensor must not be shared between evaluations, nor with the caller's graph.
        leaves = {name: p.detach().requires_grad_() for name, p in (params or self.here).items()}
        with torch.enable_grad():
            given = leaves
            if tangent is not None:
                given = {name: dual(p, tangent[name]) for name, p in leaves.items()}
            loss = self._loss(given)
        check_loss(loss)
        return Look(loss, leaves)


def check_parameters(params: Params) -> None:
    if not params:
        raise EoMError("there are no parameters: pass a dict of tensors by name, with at least one")
    for name, p in params.items():
        if not p.is_floating_point():
            raise EoMError(f"{name} is {p.dtype}: only real floating-point parameters move along a flow")
        if p.layout != torch.strided:
            raise EoMError(f"{name} is a {p.layout} tensor: only dense parameters are supported")


def check_loss(loss: Any) -> None:
    """Raises `EoMError` for what is not a scalar tensor."""
    if not isinstance(loss, Tensor):
        raise EoMError(f"the loss has to be a scalar tensor; got {type(loss).__name__}")
    if loss.numel() != 1:
        raise EoMError(f"the loss has shape {tuple(loss.shape)}, and has to be a scalar: use .mean() or .sum()")
    if not loss.is_floating_point():
        raise EoMError(f"the loss is {loss.dtype}: it has to be a real floating-point number")


def as_function(
    model: nn.Module, loss: Callable[..., Tensor], inputs: Any, *target: Any
) -> tuple[LossFunction, Params]:
    """The loss of one frozen batch as a pure function of the trainable parameters, and these as they are now.

    `loss(model(inputs), *target)`; `inputs` a tensor, a tuple of positional or a dict of keyword arguments. Buffers
    (batch-norm statistics) and the random state (dropout masks) are the same at every evaluation and stay untouched.
    """
    trainable = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
    frozen = {name: b.detach().clone() for name, b in model.named_buffers()}
    args: tuple[Any, ...] = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    kwargs: dict[str, Any] = inputs if isinstance(inputs, dict) else {}
    devices = {p.device for p in trainable.values()}
    start = states(devices, only_torch=True)

    def of(params: Params) -> Tensor:
        before = states(devices, only_torch=True)
        try:
            restore(start)
            buffers = {name: b.clone() for name, b in frozen.items()}
            return loss(called_with(model, params | buffers, args, kwargs), *target)
        finally:
            restore(before)

    return of, {name: p.detach().clone() for name, p in trainable.items()}
