"""What operators make of tensors without numbers, asked of torch once for all calls that look the same.

On the meta device a result is a shape, and torch works it out in Python: for the hundred equal layers of a large model
that is most of a forward. What comes out is a function of shapes and options alone, so it is made anew from the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromech.compat import OpOverload, schema_of, storage_id
from neuromech.detect.operands import those_of

_UNLIKE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_PLAIN = (Tensor, torch.nn.Parameter)


class _Look(NamedTuple):
    """What torch sees of a tensor that has no numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int = 0

    def made(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


class RememberedShapes:
    """Calls operators. What comes out of one on the meta device is remembered by what went in."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[_Look, ...] | None] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`func(*args, **kwargs)`."""
        if not _makes_anew(func):
            return func(*args, **kwargs)
        try:
            key = func, torch.get_default_dtype(), tuple(_looks(args)), tuple(_looks(kwargs))
        except _Other:
            return func(*args, **kwargs)
        if (known := self._known.get(key)) is not None:
            made = [look.made() for look in known]
            return made[0] if len(made) == 1 else tuple(made)
        out = func(*args, **kwargs)
        if key not in self._known:
            self._known[key] = _of_results(out, those_of(Tensor, (args, dict(kwargs))))
        return out


class _Other(Exception):
    """An argument of a kind that may be more than it looks like."""


@cache
def _makes_anew(func: Any) -> bool:
    """True if an operator makes tensors of its own, and says so; by shapes and options alone."""
    if not isinstance(func, OpOverload) or func.namespace != "aten" or set(_UNLIKE) & set(func.tags):
        return False
    schema = schema_of(func)
    alone = all(x.alias_info is None for x in (*schema.arguments, *schema.returns))
    return alone and bool(schema.returns) and all(str(r.type) == "Tensor" for r in schema.returns)


def _looks(tree: Any) -> Iterator[object]:
    """Arguments, as far as a result on the meta device may depend on them. Raises `_Other` where that is not known."""
    if isinstance(tree, Tensor):
        if type(tree) not in _PLAIN or not tree.is_meta or tree.layout is not torch.strided or tree.dtype.is_complex:
            raise _Other
        yield _Look(tuple(tree.shape), tree.stride(), tree.dtype, int(tree.storage_offset()))
    elif isinstance(tree, (list, tuple)):
        yield len(tree)
        for x in tree:
            yield from _looks(x)
    elif isinstance(tree, dict):
        for name, x in tree.items():
            yield name
            yield from _looks(x)
    elif type(tree) in (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout):
        yield type(tree), tree
    elif type(tree) is torch.memory_format:
        yield tree
    else:
        raise _Other


def _of_results(out: Any, given: Iterator[Tensor]) -> tuple[_Look, ...] | None:
    """How the results look; None if they are not new ones (a dropout of nothing hands its input through)."""
    results = list(those_of(Tensor, out))
    storages = [storage_id(t) for t in (*results, *given)]
    mine = storages[: len(results)]
    new = len(set(mine)) == len(mine) and not set(mine) & set(storages[len(results) :])
    plain = all(type(t) is Tensor and t.is_meta and t.layout is torch.strided for t in results)
    if not (new and plain and results and all(not t.storage_offset() and not t.dtype.is_complex for t in results)):
        return None
    return tuple(_Look(tuple(t.shape), t.stride(), t.dtype) for t in results)
