"""`EoMOptimizer` in a loop of Accelerate, whose optimizers hide the one that they wrap.

with accelerator.accumulate(model):
    accumulate(optimizer, lambda: loss_of(model(x), y))     # in place of accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neuromech.eom import EoMOptimizer
from neuromech.errors import EoMError


def accumulate(optimizer: Any, closure: Callable[[], Any], weight: float | None = None) -> None:
    """Add a micro-batch to the next step of `optimizer`, an `EoMOptimizer` or what Accelerate has made of one.

    Raises `EoMError` for another optimizer, and under fp16, whose scaler waits for gradients: take bf16.
    """
    inner = follower_in(optimizer)
    if inner is None:
        raise EoMError(f"accumulate() belongs to EoMOptimizer; got {type(optimizer).__name__}")
    if getattr(optimizer, "scaler", None) is not None:
        raise EoMError(
            "under fp16 the scaler waits for gradients that EoMOptimizer takes for itself: use mixed_precision='bf16'"
        )
    inner.accumulate(closure, weight)


def follower_in(optimizer: Any) -> EoMOptimizer | None:
    """The `EoMOptimizer` that a wrapper holds, or that this is."""
    while optimizer is not None and not isinstance(optimizer, EoMOptimizer):
        optimizer = getattr(optimizer, "optimizer", None)
    return optimizer
