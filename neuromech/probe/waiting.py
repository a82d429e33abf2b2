"""From `instrument` to the first step: what the symmetries are, from the user's own forward and its own backward.

The forward is written down as it runs. The loss is known by the gradient that it sends back. A claim <g, D theta> = 0
is checked on the gradients of the first backward, before anyone can have edited them. Nothing is run twice, but for a
forward that runs out of sight, in compiled code or in transforms of `torch.func`: that one is recorded on a copy of the
model, in evaluation order. Where such transforms take all gradients, claims are checked on the copy too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from neuromech.compat import has_compiled_parts, outside_of_modes, tree_map_only, untransformed
from neuromech.detect import (
    Effort,
    Experiment,
    Findings,
    Graph,
    Invariance,
    analyse,
    arguments,
    beside,
    custom_claims,
    find_under,
    limited,
    outputs_as_they_are,
    private_copy,
    record,
    settled,
    to_stderr,
    unseen_by,
)
from neuromech.hooks import (
    Forward,
    ForwardHooks,
    ForwardWatch,
    Guard,
    PartsWatch,
    Ranks,
    any_sharded,
    is_never_called,
    rank,
)
from neuromech.params import named_parameters
from neuromech.probe import empty_run
from neuromech.rounding import coarsest
from neuromech.symmetry import Symmetry

AS_THEY_ARE = "no gradient has been seen yet: as if the loss saw the whole output"
TRANSFORMED = "the model ran inside of torch.func, where its loss is not seen: as if that saw the whole output"


class Waiting:
    """Finds the symmetries of `model` while it begins to train."""

    def __init__(self, model: nn.Module, guard: Guard, example: Any, budget: float | None) -> None:
        """`example`: what the model is called with, None if that is to be seen. Raises `CaptureError` for it.

        `budget`: seconds of CPU time that it may take to find symmetries.
        """
        self._model, self._guard, self._budget = model, guard, budget
        self.found: Findings | None = None
        self.violated: list[tuple[Symmetry, float]] = []
        self.graph: Graph | None = None  # that the symmetries were found in
        self.lenient = False  # claims that the gradients break are kept: somebody else accuses the gradients
        self.ranks: Ranks | None = None  # over which the parameters are sharded
        self._unseen: list[Invariance] = []  # by the loss, of each output
        self.compiled = has_compiled_parts(model)  # some of its forward runs where no hook does
        self._seen: Forward | None = None
        if example is not None:
            args, kwargs = arguments(example)
            self._seen = Forward(args, kwargs, model.training, graph=record(model, args, kwargs))
        self._given = example is not None
        self.hooks = ForwardHooks(model, guard, self._compiled, self._transformed)
        self.forwards = ForwardWatch(guard, self._on_forward, self._on_backward)
        self.hooks.listeners.append(self.forwards)
        if is_never_called(model):
            self.follow_parts()

    @property
    def by_parts(self) -> bool:
        """Are calls of its parts followed, in place of its own?"""
        return isinstance(self.forwards, PartsWatch)

    def follow_parts(self) -> bool:
        """Follow calls of parts from now on. False: the model itself was called, or its parts are followed already."""
        if self._called() or self.by_parts:
            return False
        self.hooks.listeners.remove(self.forwards)
        self.forwards = PartsWatch(self._model, self._guard, self._on_forward, self._on_backward)
        self.hooks.listeners.append(self.forwards)
        self.hooks.follow_parts()
        return True

    def why_nothing(self) -> str:
        if self.found is not None or self.forwards.trained is not None:
            return empty_run.NO_STEP if self.forwards.finite else empty_run.NOT_FINITE
        none = empty_run.NO_BACKWARD if self._called() else empty_run.NO_FORWARD
        return empty_run.EMPTY if self.forwards.empty else none

    def so_far(self) -> Findings | None:
        """The symmetries as if the loss saw the whole output; None before the first forward."""
        if self.found is not None or self._seen is None:
            return self.found
        ahead = self._given and self.forwards.trained is None  # the example may be run as often as it takes
        return self._as_it_is(self._seen, self._graph(self._seen), self._model if ahead else None, AS_THEY_ARE)

    def settle(self, by_hand: bool) -> Findings | None:
        """What is known at the first step; None if no forward was seen. `by_hand`: no backward brought gradients."""
        if self.found is None:
            trained, seen = self.forwards.trained, self._seen
            if trained is not None and trained.finite:
                self._find(trained)
            elif seen is not None and seen.transformed:
                if by_hand:  # else the model trains in another way, in which it was not seen to be called
                    self.graph = self._graph(seen)
                    self.found = self._as_it_is(seen, self.graph, private_copy(self._model), TRANSFORMED)
                    self.meet(self.found)
            elif seen is not None and (self._given or seen.graph is None):
                self._find(seen)
        return self.found

    def meet(self, found: Findings) -> None:
        """If the parameters are sharded: meet the other processes, which measure their parts of the same."""
        if self.ranks is None and any_sharded(self._model.parameters()):
            self.ranks = Ranks("; ".join(s.name for s in found))

    def forget(self) -> None:
        """Let go of all tensors."""
        self._seen, self.graph, self._unseen = None, None, []
        self.forwards.forget()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _on_forward(self, forward: Forward) -> None:
        if self.found is None and not (self._given and self._seen and self._seen.training == forward.training):
            self._seen = forward

    def _compiled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.compiled = True
        if self.found is None and not self._called():
            self._seen = Forward(args, kwargs, self._model.training)

    def _transformed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.found is None and self._seen is None:
            with outside_of_modes():
                args, kwargs = tree_map_only(Tensor, untransformed, (args, kwargs))
            self._seen = Forward(args, kwargs, self._model.training, transformed=True)

    def _called(self) -> bool:
        """Has the model itself been called where autograd follows it?"""
        return self.forwards.empty or (self._seen is not None and not self._seen.transformed)

    def _on_backward(self) -> None:
        seen = self.forwards.trained
        if seen is None or not seen.finite or any_sharded(self._model.parameters()):
            return
        if self.found is None or (self._unseen and self._unseen != unseen_by(seen.outputs, seen.cotangents)):
            self._find(seen)  # once more, if another backward of the same outputs sees more of them

    def _graph(self, forward: Forward) -> Graph:
        if forward.graph is not None:
            return forward.graph
        if self._given and self._seen is not None and self._seen.graph is not None:
            return self._seen.graph
        try:
            copied = private_copy(self._model)
            return record(copied, *beside(copied, (forward.args, forward.kwargs)))
        except Exception as error:
            raise forward.problem or error from error

    def _as_it_is(self, forward: Forward, graph: Graph, run: nn.Module | None, note: str) -> Findings:
        """As if the loss saw the whole output; checked by calls of `run`, if there is one."""
        experiment = None if run is None else Experiment(run, forward.args, forward.kwargs, outputs_as_they_are)
        with self._limited() as spent:
            found = analyse(self._model, graph, [Invariance()] * len(graph.outputs), experiment, (note,))
            return settled(found, spent)

    def _find(self, forward: Forward) -> None:
        from neuromech.monitor import check_claims, excess_of, guess_loss  # a quarter of the package, once it is needed

        self.graph = graph = self._graph(forward)
        eps, params = self._eps(forward), named_parameters(self._model)
        if len(forward.outputs) == len(graph.outputs):
            free = self._unseen = unseen_by(forward.outputs, forward.cotangents)
        else:
            with self._limited():
                free = guess_loss(self._model, graph, params, eps)
        with self._limited() as spent:
            found = find_under(self._model, forward.args, forward.kwargs, graph, free, verify=False)
            extra = custom_claims(graph, free, [*found, *found.rejected])
        if len(forward.outputs) != len(graph.outputs):
            found = replace(found, notes=("the loss was not seen; what it ignores is guessed by the gradients",))
        found = settled(found, spent)
        self.meet(found)
        stale, total = self.forwards.stale(), None if self.ranks is None else self.ranks.total
        found = check_claims(found, params, eps, self.lenient, total, stale)
        excess = zip(extra, excess_of(extra, params, eps, total), strict=True)
        self.violated = [(s, by) for s, (by, _) in excess if by > 1 and not stale.intersection(s.parameters)]
        self.found = found

    def _limited(self) -> AbstractContextManager[Effort]:
        return limited(self._budget, to_stderr if rank() == 0 else None)

    def _eps(self, forward: Forward) -> float:
        kinds = {p.dtype for p in self._model.parameters()} | {t.dtype for t in forward.outputs}
        return coarsest(kinds | ({dtype} if (dtype := self.forwards.autocast) else set()))
