"""Runs of several processes: who writes, and how charges of sharded parameters are added up.

All that is said between processes goes through a group of its own, with a timeout of its own: whatever goes wrong there
neither meets the collectives of the training nor lets it wait for long.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from itertools import count

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neuromech.compat import default_store, is_sharded, ranks_of
from neuromech.errors import InstrumentError
from neuromech.params import named_parameters

PATIENCE = timedelta(seconds=60)
_runs = count()


def rank() -> int:
    """Of this process, 0 if it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_sharded(tensors: Iterable[Tensor]) -> bool:
    return any(is_sharded(t) for t in tensors)


def held_alike(model: nn.Module) -> list[str]:
    """Of a sharded model, what other processes hold as this one does, and which counts in these: what is not sharded,
    in the first process; what is sharded within each of several groups, in the group of the first process.

    Raises `InstrumentError` for a parameter of which this process holds nothing and knows no group.
    """
    params, here = named_parameters(model), rank()
    groups = {name: ranks_of(p) for name, p in params.items() if is_sharded(p)}
    if away := [name for name, group in groups.items() if here not in group]:
        raise InstrumentError(f"{away[0]} lies in other processes alone, and charges cannot be added up over these")
    return [name for name in params if 0 not in groups.get(name, ())] if here and groups else []


class Ranks:
    """The processes over which a model is sharded."""

    def __init__(self, what: str, todo: str = "") -> None:
        """Meet the other processes; `what` they measure has to be the same on all of them. `todo`: if one is missing.

        Raises `InstrumentError` if one does not come within a minute, or measures something else.
        """
        store, run, world = default_store(), next(_runs), dist.get_world_size()
        names = [f"neuromech/{run}/{r}" for r in range(world)]
        store.set(names[dist.get_rank()], sha256(what.encode()).hexdigest())
        try:
            store.wait(names, PATIENCE)
        except Exception as error:
            missing = "the model is sharded, and not every process has instrumented it"
            todo = todo and f"not every process has come: {todo}"
            raise InstrumentError(todo or f"{missing}: call instrument() on all of them") from error
        if len({store.get(name) for name in names}) > 1:
            raise InstrumentError("the processes have found different symmetries, so their charges cannot be added up")
        self._group = dist.new_group(timeout=PATIENCE)
        self._length = 0

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over all processes: one collective. Raises `InstrumentError` if another one has failed."""
        flat = torch.cat((x.detach().reshape(-1), x.new_zeros(1)))
        self._length = len(flat)
        dist.all_reduce(flat, group=self._group)
        if bool(flat[-1].isnan()):
            raise InstrumentError("the instrument of another process has failed")
        return flat[:-1].reshape(x.shape)

    def leave(self) -> None:
        """Tell the others, who may be waiting, that nothing more comes from here; waits for nobody."""
        if self._length:
            flat = torch.full((self._length,), torch.nan, dtype=torch.float64)
            dist.all_reduce(flat, group=self._group, async_op=True)
