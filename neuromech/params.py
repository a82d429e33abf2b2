"""Parameters are `dict[str, Tensor]`, keyed by qualified name; this is the little algebra everything else stands on.

Scalars are accumulated in float64 whatever the dtype of the tensors: a charge is a small difference of large sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from neuromech.compat import foreach_add, foreach_add_, foreach_mul, uncompiled

Params = dict[str, Tensor]


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of `model` by qualified name, a tied parameter once, under its first name."""
    return dict(model.named_parameters(remove_duplicate=True))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile` and data-parallel wrappers: its names are the user's."""
    while True:
        wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if wrapped else uncompiled(model)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def dot(x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
    """<x, y> over the names that both hold: a float64 scalar."""
    products = [(x[name].double() * y[name].double()).sum() for name in x if name in y]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)


def norm(x: Mapping[str, Tensor]) -> Tensor:
    """|x|, the Euclidean norm over all tensors: a float64 scalar."""
    return dot(x, x).sqrt()


def combine(terms: Iterable[tuple[float, Mapping[str, Tensor]]]) -> Params:
    """sum of coefficient * x over all (coefficient, x), of which there is at least one; all hold the same names."""
    (first, x), *rest = terms
    names = list(x)
    if first == 1.0 and rest:  # one pass over memory instead of two
        (coefficient, y), *rest = rest
        total = foreach_add([x[name] for name in names], [y[name] for name in names], alpha=coefficient)
    else:
        total = foreach_mul([x[name] for name in names], first)
    for coefficient, y in rest:
        foreach_add_(total, [y[name] for name in names], alpha=coefficient)
    return dict(zip(names, total, strict=True))


def owners(model: nn.Module, names: dict[str, nn.Parameter]) -> dict[str, tuple[nn.Module, str]]:
    """Where each parameter hangs: its module and the attribute there."""
    modules = dict(model.named_modules())
    paths = {name: name.rpartition(".") for name in names}
    return {name: (modules[path], attribute) for name, (path, _, attribute) in paths.items()}
