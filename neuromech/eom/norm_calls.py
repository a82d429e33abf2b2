"""Calls of batch and instance norm as one record, whichever of torch's two layers of functions they go through.

torch asks a mode about the outermost function only, so that both `functional.batch_norm` and `torch.batch_norm` have
to be known; their arguments come in different orders.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class NormCall(NamedTuple):
    """input: [batch, channels, ..]; the others: [channels]. `batch`: statistics are those of the input."""

    input: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    batch: bool
    momentum: float
    eps: float


# The form of a call, or None where torch's own is as good.
Rewrite = Callable[[NormCall], Tensor | None]

_BUILTIN = "input weight bias running_mean running_var batch momentum eps cudnn_enabled".split()


def batch_norms(form: Rewrite) -> dict[Any, Callable[..., Tensor]]:
    """`form` in place of both functions for batch norm."""
    return _forms(form, functional.batch_norm, torch.batch_norm, "training")


def instance_norms(form: Rewrite) -> dict[Any, Callable[..., Tensor]]:
    """`form` in place of both functions for instance norm."""
    return _forms(form, functional.instance_norm, torch.instance_norm, "use_input_stats")


def _forms(
    form: Rewrite, outer: Callable[..., Tensor], inner: Callable[..., Tensor], batch: str
) -> dict[Any, Callable[..., Tensor]]:
    def replaced(of: Callable[..., Tensor], arguments: Signature) -> Callable[..., Tensor]:
        def norm(*args: Any, **kwargs: Any) -> Tensor:
            bound = arguments.bind(*args, **kwargs)
            bound.apply_defaults()
            given = {"batch" if name == batch else name: value for name, value in bound.arguments.items()}
            out = form(NormCall(**{name: given[name] for name in NormCall._fields}))
            return of(*args, **kwargs) if out is None else out

        return norm

    names = [batch if name == "batch" else name for name in _BUILTIN]
    builtin = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    return {outer: replaced(outer, signature(outer)), inner: replaced(inner, builtin)}
