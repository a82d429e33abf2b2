"""Do all ranks hold the same weights, and step with the same gradients? Compared bit for bit, by checksum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from neuromech.errors import InstrumentError
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.checksum import checksums
from neuromech.monitor.evidence import Evidence, Replica
from neuromech.monitor.facts import Step

Gather = Callable[[Tensor], Tensor]


class ReplicaCheck:
    """Compares this rank with the others by `gather`: [n] of every rank -> [ranks, n]."""

    def __init__(self, params: Mapping[str, Tensor], gather: Gather) -> None:
        self._params, self._gather = params, gather

    def before(self, step: Step) -> Evidence:
        names = list(self._params)
        zero = torch.zeros(1, dtype=torch.int8, device=next(iter(self._params.values())).device)
        grads = [zero if p.grad is None else p.grad for p in self._params.values()]
        own = checksums([*self._params.values(), *grads])
        weights, gradients = self._gather(own).cpu().split(len(names), dim=1)
        found = disagreement("weight", names, weights), disagreement("gradient", names, gradients)
        return Evidence(replicas=tuple(x for x in found if x))

    def after(self, step: Step) -> Evidence:
        return NOTHING


def gather_all(own: Tensor) -> Tensor:
    """[n] of every rank -> [ranks, n]. Every rank has to call it.

    Raises `InstrumentError` without a process group.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        raise InstrumentError("replicas=True compares the ranks of torch.distributed: call init_process_group() first")
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    return torch.stack(rows)


def disagreement(what: str, names: Sequence[str], table: Tensor) -> Replica | None:
    """Which ranks differ from the majority, and in what; `table`: checksums [ranks, names]."""
    rows = [tuple(row) for row in table.tolist()]
    if len(set(rows)) == 1:
        return None
    (majority, most), *_ = Counter(rows).most_common(1)
    odd = tuple(i for i, row in enumerate(rows) if row != majority) if 2 * most > len(rows) else ()
    off = tuple(n for k, n in enumerate(names) if len({row[k] for row in rows}) > 1)
    return Replica(what, odd, len(rows), off)
