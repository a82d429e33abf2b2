"""How the gradients of a training loop are seen before anyone can touch them: at the end of every backward."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuromech.compat import at_end_of_backward, backward_id, has_stand_ins, is_sharded, local, version
from neuromech.hooks.guard import Guard

Mark = tuple[int, int]


def mark(t: Tensor) -> Mark:
    """Where a tensor lies in memory, and how often code has written to it: it changes when the values do."""
    here = local(t) if is_sharded(t) else t
    return (here.data_ptr() if here.layout is torch.strided else id(here)), version(here)


def marks(tensors: Mapping[str, Tensor]) -> dict[str, Mark]:
    return {name: mark(t) for name, t in tensors.items()}


class _End:
    """Calls `done()` once at the end of every backward that it is told of while that runs."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done, self._task = done, -1

    def ahead(self) -> None:
        task = backward_id()
        if task != self._task:
            self._task = task
            # Others have work to do at the end of the backward too, as DistributedDataParallel has: go behind them.
            at_end_of_backward(lambda: at_end_of_backward(self._done))


class BackwardWatch:
    """Calls `done()` at the end of every backward that reaches one of `params`, once gradients are complete.

    `arrived`: how many gradients each parameter has received since `used` was told that a step has taken them.
    `uncleared`: the parameters to whose gradient a backward added although a step had used it. `dropped`: those whose
    gradient was cleared between two backwards, with no step of theirs in between.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], done: Callable[[], None], guard: Guard) -> None:
        self.arrived: Counter[str] = Counter()
        self.uncleared: set[str] = set()
        self.dropped: set[str] = set()
        self._last: dict[str, Mark] = {}  # gradients as the last backward left them
        self.finished = 0
        self._params, self._done, self._guard = params, done, guard
        self._used: dict[str, Mark] = {}
        self._end = _End(self._finish)
        self._full: set[str] = set()
        self._handles: dict[str, tuple[RemovableHandle, RemovableHandle]] = {}
        self.attach()

    def attach(self) -> None:
        """Watch the parameters that require a gradient by now."""
        for name, p in self._params.items():
            if p.requires_grad and name not in self._handles:
                ahead, behind = self._hook(BackwardWatch._arrive, name), self._hook(BackwardWatch._arrived, name)
                self._handles[name] = p.register_hook(ahead), p.register_post_accumulate_grad_hook(behind)

    def watches(self, name: str) -> bool:
        return name in self._handles

    def used(self, names: Collection[str]) -> None:
        """A step has taken the gradients of `names`."""
        self.uncleared.difference_update(names)
        self.dropped.difference_update(names)
        for name in names:
            self.arrived[name] = 0
            if (g := self._params[name].grad) is not None:
                self._used[name] = mark(g)

    def unchanged(self, name: str) -> bool:
        """True if the gradient is the one that the last step took, and nobody wrote to it since."""
        g = self._params[name].grad
        return g is not None and self._used.get(name) == mark(g)

    def _hook(self, method: Callable[[BackwardWatch, str], None], name: str) -> Callable[[Tensor], None]:
        # The parameter keeps its hooks for ever: they must not keep a forgotten probe alive.
        me = weakref.ref(self)

        def hook(_: Tensor) -> None:
            if (watch := me()) is not None:
                watch._guard(method, watch, name)

        return hook

    def _arrive(self, name: str) -> None:
        """A gradient is about to be added to what there is; or not, if it was asked for by `torch.autograd.grad`."""
        g = self._params[name].grad
        self._full.discard(name)
        if g is None or (name in self.uncleared and not bool(g.count_nonzero())):
            self.uncleared.discard(name)
        # Some clear by g.data.zero_(), which PyTorch does not count as a write.
        waits = self.arrived[name] > 0  # for its step: what is there is not what the last one took
        if g is not None and not waits and self.unchanged(name) and bool(g.count_nonzero()):
            self._full.add(name)
        if waits and (g is None or (self._last.get(name) != mark(g) and not bool(g.count_nonzero()))):
            self.dropped.add(name)

    def _arrived(self, name: str) -> None:
        self._end.ahead()
        if name in self._full:
            self.uncleared.add(name)
        self.arrived[name] += 1
        if (g := self._params[name].grad) is not None:
            self._last[name] = mark(g)

    def _finish(self) -> None:
        self.finished += 1
        self._guard(self._done)

    def remove(self) -> None:
        for pair in self._handles.values():
            for handle in pair:
                handle.remove()
        self._handles.clear()


class HandedGradients:
    """Tells whether the gradients that wait for a step are those that the last backward left, at the same weights.

    By the places of tensors and the writes that are counted: writes by way of `.data` are not seen. Listens to forwards
    until the first backward: what is sharded only after `instrument` has other parameters by then.
    """

    def __init__(self, params: Callable[[], Iterable[nn.Parameter]], guard: Guard) -> None:
        self._all = params
        self._left: list[Mark | None] | None = None
        self._guard = guard
        self._end = _End(self._ended)
        self._handles: dict[nn.Parameter, RemovableHandle] = {}
        # The parameter keeps its hook for ever: it must not keep a forgotten probe alive.
        me = weakref.ref(self._end)

        def arrived(_: Tensor) -> None:
            if (end := me()) is not None:
                end.ahead()

        self._hook = arrived
        self._attach()

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._left is None and not has_stand_ins(model):
            self._attach()

    def after(self, model: nn.Module, output: Any) -> None:
        pass

    @property
    def changed(self) -> bool:
        """True too if no backward was seen: nobody knows then where they come from."""
        self._attach()
        return self._left is None or self._left != self._marks()

    @property
    def none_seen(self) -> bool:
        """No backward has brought any."""
        return self._left is None

    def remove(self) -> None:
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def _attach(self) -> None:
        """Watch the parameters that require a gradient by now: one call each, of every backward of the run."""
        if self._left is None:
            self._params = [p for p in self._all() if p.is_floating_point()]
        for p in self._params:
            if p.requires_grad and p not in self._handles:
                self._handles[p] = p.register_post_accumulate_grad_hook(self._hook)

    def _ended(self) -> None:
        self._guard(self._note)

    def _note(self) -> None:
        self._left = self._marks()

    def _marks(self) -> list[Mark | None]:
        return [*map(mark, self._params), *(None if (g := p.grad) is None else mark(g) for p in self._params)]
