"""Calls a model without changing it: on other parameters, buffers and inputs, with what it assigns to itself put back.

What wraps a model for training and is nothing to its mathematics is left out on the way: DataParallel and
DistributedDataParallel, compilation, activation checkpoints, a cache of parametrizations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.compat import (
    called_with,
    deep_copy,
    drop_hooks,
    is_sharded,
    module_machinery,
    run_checkpoints_once,
    run_eagerly,
    tree_map_only,
    without_parametrization_cache,
)
from neuromech.detect.caches import caches_kept_clean
from neuromech.detect.recorder import geometry_of, storage_of
from neuromech.errors import CaptureError

Attributes = dict[tuple[nn.Module, str], Any]  # plain ones, by module and name
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


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
    given: Attributes | None = None,
    left: Attributes | None = None,
) -> Any:
    """`model(*args, **kwargs)` with `state` in place of its own tensors; what it assigns to itself does not stay.

    `given`: attributes that it finds in place of its own. `left`: takes those that it leaves otherwise than they were.
    """
    before = _calling.set(True)
    try:
        with _attributes_lent(model, copied, given or {}, left), caches_kept_clean(model), _plain():
            while isinstance(model, WRAPPERS):  # their forwards prepare a backward that will not come
                model = model.module
                state = {name.removeprefix("module."): t for name, t in state.items()}
            return called_with(model, state, args, kwargs)
    finally:
        _calling.reset(before)


@contextmanager
def _plain() -> Iterator[None]:
    """Uncompiled, without activation checkpoints, with parametrizations evaluated anew."""
    with run_eagerly(), run_checkpoints_once(is_our_call), without_parametrization_cache():
        yield


def private_copy(model: nn.Module) -> nn.Module:
    """A copy whose forward leaves no trace in `model`: it shares parameters and buffers, and no other state.

    Hooks are left out, but for those by which torch computes a weight. A model that is sharded over processes is copied
    whole, to the meta device. Raises `CaptureError` if it cannot be copied.
    """
    state = (*model.parameters(), *model.buffers())
    whole = any(is_sharded(t) for t in state)
    shared = {id(t): _on_meta(t) if whole else t for t in state}
    try:
        copied = deep_copy(model, dict(shared))
    except Exception as error:
        raise CaptureError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}") from error
    for m in copied.modules():
        drop_hooks(m)
    return copied


def _on_meta(t: Tensor) -> Tensor:
    empty = torch.empty(t.shape, dtype=t.dtype, device="meta")
    return nn.Parameter(empty, t.requires_grad) if isinstance(t, nn.Parameter) else empty


def beside(model: nn.Module, inputs: Any) -> Any:
    """`inputs` where the parameters of `model` are, if that is the meta device."""
    if not any(p.is_meta for p in model.parameters()):
        return inputs
    return tree_map_only(Tensor, _on_meta, inputs)


def is_our_call() -> bool:
    """True inside `call`: a forward of neuromech's own, which is not a step of anyone's training."""
    return _calling.get()


_calling: ContextVar[bool] = ContextVar("calling", default=False)


def _inside(value: Any) -> list[int] | None:
    """Which objects a container holds."""
    if isinstance(value, dict):
        return [id(x) for pair in value.items() for x in pair]
    return [id(x) for x in value] if isinstance(value, (list, set)) else None


def _differs(value: Any, before: Any, within: list[int] | None) -> bool:
    if value is before:
        return _inside(value) != within
    if isinstance(value, (bool, int, float, str)) and type(value) is type(before):
        return bool(value != before)
    return isinstance(value, (Tensor, bool, int, float, str, list, dict, set))


@contextmanager
def _attributes_lent(
    model: nn.Module, copied: Callable[[Tensor], Tensor], given: Attributes, left: Attributes | None
) -> Iterator[None]:
    """Lend the model shallow copies of its attributes, parameters and modules, and put the originals back.

    A hidden state that is kept between calls would otherwise be one of ours afterwards, which autograd refuses.
    """
    machinery = module_machinery()
    own = {m: dict(vars(m)) for m in model.modules()}
    for m, attributes in own.items():
        for name, value in attributes.items():
            if name not in machinery and isinstance(value, (Tensor, list, dict, set)):
                m.__dict__[name] = copied(value) if isinstance(value, Tensor) else copy.copy(value)
    for (m, name), value in given.items():
        m.__dict__[name] = value
    lent = {m: dict(vars(m)) for m in own}
    within = {
        (m, name): _inside(value)
        for m, attributes in lent.items()
        for name, value in attributes.items()
        if name not in machinery
    }
    listed = {name for name, _ in model.named_parameters()}
    try:
        yield
        for m in own if left is not None else ():
            for name, value in vars(m).items():
                if name not in machinery and _differs(value, lent[m].get(name), within.get((m, name))):
                    assert left is not None
                    left[m, name] = value
        made = [name for name, _ in model.named_parameters() if name not in listed]
    finally:
        for m, attributes in own.items():
            m.__dict__.clear()
            m.__dict__.update(attributes)
    if made:
        raise CaptureError(
            f"the forward of {type(model).__name__} made new parameters ({', '.join(made[:5])}): call the model once "
            "on the example, then try again"
        )
