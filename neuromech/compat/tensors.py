"""Tensors and operators. See `neuromech.compat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

Packed = Sequence[Tensor]


def version(t: Tensor) -> int:
    """How often code has written to `t` in place. Documented for users of autograd, and yet spelled `_version`."""
    return t._version


def storage_id(t: Tensor) -> int:
    """A number that tensors share if they share memory.

    Not `data_ptr()`: it is 0 for every tensor on the meta device, which would all look tied.
    """
    return int(t.untyped_storage()._cdata)


def local(t: Tensor) -> Tensor:
    """Of a sharded tensor (DTensor), the part that lies in this process; others are themselves, detached.

    `to_local()` is the public form: it waits for the device, and builds a node of the graph.
    """
    inside = getattr(t, "_local_tensor", None)
    return inside if isinstance(inside, Tensor) else t.detach()


def is_sharded(t: Tensor) -> bool:
    """True for a DTensor, of which this process holds a part."""
    return type(t) not in _WHOLE and isinstance(getattr(t, "_local_tensor", None), Tensor)


_WHOLE = (Tensor, torch.nn.Parameter)  # asked of every tensor of every step: what they lack is looked up slowly


def place_of(t: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of a sharded tensor: the shape of the part in this process, and where in the whole it begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = t
    shape, offset = compute_local_shape_and_global_offset(sharded.shape, sharded.device_mesh, sharded.placements)
    return tuple(shape), tuple(offset)


def ranks_of(t: Tensor) -> list[int]:
    """The processes that hold the parts of a sharded tensor."""
    sharded: Any = t
    return [int(r) for r in sharded.device_mesh.mesh.flatten()]


def default_store() -> Any:
    """The store by which the processes of torch.distributed have found each other: no collective is needed to ask."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def foreach_add(x: Packed, y: Packed, alpha: float) -> list[Tensor]:
    """x + alpha y, list by list, in as few kernels as torch can. Public optimizers are built on the foreach operators,
    which have no public name; a loop replaces them."""
    return list(torch._foreach_add(list(x), list(y), alpha=alpha))


def foreach_add_(x: Packed, y: Packed, alpha: float = 1.0) -> None:
    """x += alpha y, list by list."""
    torch._foreach_add_(list(x), list(y), alpha=alpha)


def foreach_mul(x: Packed, factor: float | Sequence[float]) -> list[Tensor]:
    """factor x, list by list; one factor, or one a tensor."""
    return list(torch._foreach_mul(list(x), factor if isinstance(factor, float) else list(factor)))


def foreach_mul_(x: Packed, factor: float) -> None:
    """x *= factor, list by list."""
    torch._foreach_mul_(list(x), factor)


def foreach_lerp(x: Packed, y: Packed, weight: float) -> list[Tensor]:
    """x + weight (y - x), list by list."""
    return list(torch._foreach_lerp(list(x), list(y), weight))


def most_repeated(t: Tensor) -> int:
    """How many entries of a sparse tensor stand at the place where most do, 0 without entries.

    `indices()` is for tensors in which none is repeated.
    """
    return int(t._indices().unique(dim=1, return_counts=True)[1].max()) if t._nnz() else 0


def schema_of(op: Any) -> Any:
    """Name, arguments and aliases of an operator, as torch declares them. No public form."""
    return op._schema


def overload_name(op: OpOverload) -> str:
    """`Tensor` of `aten.add.Tensor`."""
    return str(op._overloadname)


def is_composite(op: object) -> bool:
    """True for an operator that torch itself writes with others, and can be asked to take apart."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(op, OpOverload) and op.has_kernel_for_dispatch_key(key)


# Keywords of `make_fx`: tensors that the traced function reaches by itself stay the very objects.
KEEP_REAL_TENSORS: dict[str, Any] = {"_allow_non_fake_inputs": True}


def asked_for_values() -> type[Exception]:
    """What tensors without content raise where their values are asked for (`torch.equal`). No public form."""
    from torch._subclasses.fake_tensor import DataDependentOutputException

    return DataDependentOutputException


class AnySize:
    """Tensors without content whose first axis may have any length, and what a trace came to ask of that length."""

    def __init__(self, hint: int) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self._shapes, self._known = ShapeEnv(), dict[int, bool]()
        self._mode = FakeTensorMode(shape_env=self._shapes, allow_non_fake_inputs=True)
        self._length = self._symbolic(torch.empty(hint)).shape[0]
        self._symbol: Any = self._length.node.expr  # type: ignore[attr-defined]

    def _symbolic(self, t: Tensor) -> Tensor:
        from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

        context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
        return self._mode.from_tensor(t, symbolic_context=context)

    def fixed(self, t: Tensor) -> Tensor:
        """Of the shape of `t`."""
        return self._mode.from_tensor(t, static_shapes=True)

    def batch(self, t: Tensor) -> Tensor:
        """Of the shape of `t` but for its first axis."""
        with self._mode:
            return torch.empty((self._length, *t.shape[1:]), dtype=t.dtype, device=t.device)

    def admits(self, length: int) -> bool:
        """Does all that was traced hold for this length? Lengths below 2 are cases of their own to torch."""
        if length not in self._known:
            asked = [guard.expr.subs(self._symbol, length) for guard in self._shapes.guards]
            self._known[length] = length > 1 and all(bool(is_so) for is_so in asked)
        return self._known[length]


def operator_libraries() -> set[str]:
    """The libraries of operators that are there: aten, and those that were imported. Nothing public lists them."""
    return {name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names()}
