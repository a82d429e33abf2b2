"""The loss as the backward sees it: what `backward` was called on, read off the call while it runs. Nothing is patched.

A backward pass starts at its root, which no hook inside of the graph can see; but the Python call that started it is
still running, and holds it. On a GPU the hook runs in a thread of the engine, and the call in another one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.weak import TensorWeakRef

from neuromech.compat import code_of
from neuromech.detect import tensors_of
from neuromech.hooks.forward import Hook

_CALLS = {
    code: argument
    for call, argument in ((torch.autograd.backward, "tensors"), (torch.autograd.grad, "outputs"))
    if (code := code_of(call)) is not None
}
_SCALED_STEP = code_of(torch.amp.GradScaler.step)
_PRODUCT = "MulBackward0"


class LossWatch:
    """Collects the roots of backward passes through the model's outputs; `take` hands them out and starts anew."""

    def __init__(self) -> None:
        self._values: list[tuple[Tensor, bool]] = []  # and whether it is a product
        self._last: TensorWeakRef | None = None
        self.failure = ""  # why the loss could not be read, if it could not

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pass

    def after(self, model: nn.Module, output: Any) -> None:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for t in tensors_of(output):
                if t.requires_grad:
                    t.register_hook(Hook(self._backward))

    def _backward(self, gradient: Tensor) -> None:
        try:
            self._see()
        except Exception as error:  # whatever a root turns out to be: the backward that runs here is the user's
            self.failure = self.failure or f"{type(error).__name__}: {error}"

    def _see(self) -> None:
        for root in _roots():
            if self._last is not None and self._last() is root:
                continue  # seen from another output of the model
            self._last = TensorWeakRef(root)
            scaled = root.grad_fn is not None and root.grad_fn.name() == _PRODUCT
            with torch.no_grad():
                self._values.append((root.detach().clone(), scaled))

    def take(self, optimizer: Optimizer | None = None) -> list[Tensor]:
        """The values of the roots since the last call; to be called while the step runs that they led to.

        Of an `optimizer` that evaluates its closure several times a step, only the first one.
        """
        first = isinstance(optimizer, torch.optim.LBFGS) or bool(getattr(optimizer, "follows_flow", False))
        values, self._values, self._last = self._values, [], None
        scaler = running_scaler() if any(scaled for _, scaled in values) else None
        unscaled = [v / scaler.scale(torch.ones_like(v)) if scaler and scaled else v for v, scaled in values]
        return unscaled[:1] if first else unscaled


def running_scaler() -> torch.amp.GradScaler | None:
    """The one whose `step` runs here: what backward was called on is the product of the loss and its scale."""
    return next((f.f_locals.get("self") for f in _up(sys._getframe(1)) if f.f_code is _SCALED_STEP), None)


def _roots() -> list[Tensor]:
    """The scalars on which the outermost running backward was called."""
    here = _outermost(sys._getframe())
    frames = [here] if here else [f for t in sys._current_frames().values() if (f := _outermost(t))]
    if not frames:
        return []
    tensors = frames[0].f_locals.get(_CALLS[frames[0].f_code])
    listed = [tensors] if isinstance(tensors, Tensor) else list(tensors or ())
    return [t for t in listed if isinstance(t, Tensor) and t.numel() == 1]


def _outermost(frame: FrameType) -> FrameType | None:
    """A backward inside of the backward is a checkpoint's."""
    return next((f for f in reversed([*_up(frame)]) if f.f_code in _CALLS), None)


def _up(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
