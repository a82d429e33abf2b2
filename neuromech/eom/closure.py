"""`Live`: a closure over live parameters as a landscape that can be evaluated again, and elsewhere.

Between evaluations of one step nothing is random and nothing piles up: each starts from the random state and the
buffers (batch-norm statistics, power iterations) that the first one started from, and in the end everything is as that
one forward has left it. Parameters are written in place, as the closure knows them only by what they are.
"""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

from neuromech.compat import foreach_add_, version
from neuromech.eom.accumulation import Closure
from neuromech.eom.forward_ad import dual
from neuromech.eom.landscape import Look, Terms, check_loss
from neuromech.errors import EoMError
from neuromech.params import Params
from neuromech.rng import GeneratorStates, restore, same, states


class Live:
    """Use as a context: leaving it puts parameters, buffers and random states where one plain forward leaves them.

    `once`: the caller promises to look only here and only once, and nothing has to be remembered. `alike`: and that
    every look draws as many random numbers as the first, so that the last one leaves the generators where they should
    be; `alike` tells afterwards whether this was so. `spectator`: leave not even the traces of one forward. `parallel`:
    processes share the work, and only backward() makes them meet; found out where more than one look is taken.
    `known`: the modules that the closure calls, where hooks must not look for them: a compiler would trace the hooks.
    Afterwards `modules` are those that were found.

    `look` takes the gradients that the closure's own backward leaves, if it runs one. Raises `EoMError` if the closure
    changes parameters.
    """

    def __init__(
        self,
        closure: Closure,
        params: Params,
        once: bool = False,
        alike: bool = False,
        spectator: bool = False,
        parallel: bool = False,
        known: Collection[nn.Module] | None = None,
    ) -> None:
        self._closure, self._params, self._once = closure, params, once
        self.alike, self._spectator = alike, spectator
        self._tensors = list(params.values())
        self.parallel = parallel or any(hasattr(p, "device_mesh") for p in self._tensors)
        self._devices = {p.device for p in self._tensors}
        self._home: Params | None = None
        self._moved, self._looks, self.ran_backward = False, 0, False
        self._before: dict[Tensor, Tensor] = {}
        self._after: dict[Tensor, Tensor] = {}
        self._start = None if once else states(self._devices)
        self.modules = set(known or ())
        if known is not None and not once:
            self._before |= {b: b.detach().clone() for m in known for b in m.buffers(recurse=False)}
        self._watched = known is None and not once
        self._end: GeneratorStates | None = None

    @property
    def here(self) -> Params:
        if self._home is None:
            if self._once:
                return {name: p.detach() for name, p in self._params.items()}
            self._home = {name: p.detach().clone() for name, p in self._params.items()}
        return self._home

    def look(self, params: Params | None = None, tangent: Params | None = None, shift: Terms = ()) -> Look:
        if self._once and self._looks:
            raise EoMError(
                "the closure ran backward in this step, but not in earlier ones: it has to do always the same"
            )
        if self._looks and self._start is not None:
            if self._looks == 1:
                self._end = None if self.alike else states(self._devices)
                self._after = {b: b.detach().clone() for b in self._before}
            _restore(self._start, self._before)
        self._shift(shift) if shift else self._write(params, tangent)
        torch.clear_autocast_cache()  # it knows weights by their identity, and these may just have moved
        versions = []
        for p in self._tensors:
            p.grad = None
            versions.append(version(p))
        self._looks += 1
        with torch.enable_grad(), _Buffers(self._before, self.modules, on=self._looks == 1 and self._watched) as watch:
            loss = self._closure()
            self.ran_backward = any(p.grad is not None for p in self._tensors)
            self.parallel |= watch.parallel
            if self.parallel and not self.ran_backward:
                check_loss(loss)
                loss.backward()  # FSDP2 and DDP meet the other processes in nothing else
        gradient: Params = {}
        for (name, p), before in zip(self._params.items(), versions, strict=True):
            if version(p) != before:
                raise EoMError(
                    f"the closure changed {name} in place (clipping of weights, Embedding(max_norm=..), an "
                    "optimizer step): a loss has to leave the point alone where it is evaluated; do it after the step"
                )
            if p.grad is not None:
                gradient[name], p.grad = p.grad, None
        if not gradient:
            check_loss(loss)
            return Look(loss, self._params)
        if isinstance(loss, Tensor):
            check_loss(loss)
        value = torch.as_tensor(float("nan") if loss is None else loss)
        return Look(value.detach(), self._params, gradient)

    @torch.no_grad()
    def _write(self, params: Params | None, tangent: Params | None) -> None:
        if params is None and tangent is None and not self._moved:
            return
        values, self._moved = params or self.here, True
        for name, p in self._params.items():
            value = values[name]
            # An in-place copy of a dual number gives the leaf a tangent, until the level of duals is left.
            p.copy_(value if tangent is None else dual(value.clone(), tangent[name]))

    def _shift(self, terms: Terms) -> None:
        """Move by a sum, in as few passes over memory as it takes."""
        home = self.here
        with torch.no_grad():
            if self._moved:
                self._return()
            self._moved = True
            for coefficient, x in terms:
                foreach_add_(self._tensors, [x[name] for name in home], alpha=coefficient)

    def _return(self) -> None:
        for p, home in zip(self._tensors, self.here.values(), strict=True):
            p.copy_(home)  # one by one: DTensors have no foreach form of it

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with torch.no_grad():
            if self._moved:
                self._return()
            if self._spectator and self._start is not None:
                _restore(self._start, self._before)
            elif self._looks > 1:
                if self._end is not None:
                    self.alike = error is None and same(self._end, states(self._devices))
                _restore(self._end, self._after)


class _Buffers:
    """Remembers, while it is entered, the buffers of every module that is called, as they were before the call.

    `parallel`: whether one of the modules is `DistributedDataParallel`.
    """

    def __init__(self, before: dict[Tensor, Tensor], seen: set[nn.Module], on: bool) -> None:
        self._before, self._seen, self._on, self.parallel = before, seen, on, False

    def _remember(self, module: nn.Module, args: Any) -> None:
        if module in self._seen:
            return
        self._seen.add(module)
        self.parallel |= isinstance(module, DistributedDataParallel)
        for buffer in module.buffers(recurse=False):
            if buffer not in self._before:
                self._before[buffer] = buffer.detach().clone()
        for inside in module.children():
            self._remember(inside, args)

    def __enter__(self) -> _Buffers:
        self._handle = register_module_forward_pre_hook(self._remember) if self._on else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()


def _restore(at: GeneratorStates | None, buffers: dict[Tensor, Tensor]) -> None:
    if at is not None:
        restore(at)
    with torch.no_grad():
        for buffer, value in buffers.items():
            buffer.copy_(value)
