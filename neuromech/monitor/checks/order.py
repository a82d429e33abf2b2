"""Who steps which parameters, and when: optimizers that meet, gradients that are used twice or never come."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.compat import keeps_parameter
from neuromech.hooks import BackwardWatch, Mark, mark
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.copies import living_optimizers
from neuromech.monitor.evidence import Evidence, Names
from neuromech.monitor.facts import Step
from neuromech.monitor.missing_gradient import GradientHistory, vanished

SIZES = 2  # that signs and what is clipped by value may have
AGAIN = 2  # steps with a gradient: an optimizer may be told of a new module behind the first


class StepOrder:
    """Watches the order of backwards and steps over `params` of `model`."""

    def __init__(
        self,
        model: nn.Module,
        params: Mapping[str, nn.Parameter],
        backward: BackwardWatch,
        history: GradientHistory,
        rebuilt: Callable[[], Names],
    ) -> None:
        """`rebuilt`: tells which modules have other modules in them than at first."""
        self._model, self._rebuilt = model, rebuilt
        self._strangers: Counter[str] = Counter()  # came with other modules: steps at which they had a gradient
        self._params, self._backward, self._history = params, backward, history
        modules = dict(model.named_modules(remove_duplicate=False))
        first = {p: n for n, p in params.items()}
        self._owners = [  # of a tied parameter there are several
            (first[p], modules[alias.rpartition(".")[0]], alias.rpartition(".")[2])
            for alias, p in model.named_parameters(remove_duplicate=False)
            if p in first
        ]
        self._trained = {n for n, p in params.items() if p.requires_grad}
        self._steps: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._used: dict[str, tuple[int, Mark]] = {}  # checksums of the gradients that were stepped, and where they lay
        self._last_by: dict[str, weakref.ref[Optimizer]] = {}  # who stepped it last
        self._reported: set[tuple[str, str]] = set()

    def is_new(self, optimizer: Optimizer) -> bool:
        """True if it has not stepped yet, and others have: it may be one that only hands its steps on."""
        return optimizer not in self._steps and len(self._steps) > 0

    def before(self, step: Step) -> Evidence:
        backward = self._backward
        backward.attach()
        mine, moving = set(step.held), set(step.moving)
        others = {n for o in self._steps if o is not step.optimizer for n in self._held(o)}
        again = self._stepped_again({n for n in moving if backward.watches(n) and not backward.arrived[n]}, step)
        # Players of a game are often frozen around their own step: what has brought a gradient for it is trained.
        trained = {n for n, p in self._params.items() if p.requires_grad or backward.arrived[n]}
        frozen, self._trained = self._trained & mine - trained, trained
        replaced = {n for n, m, attribute in self._owners if not keeps_parameter(m, attribute, self._params[n])}
        twice = {n for n, times in Counter(step.held).items() if times > 1}
        unheld: set[str] = set()
        if self._steps.get(step.optimizer):  # by its second step most optimizers of a loop have stepped
            unheld = {n for n in trained if backward.arrived[n]} - mine - others
            unheld = {n for n in unheld if ("unheld", n) not in self._reported}
            unheld -= self._held_by_anyone(unheld)
        if self._rebuilt():
            unheld |= self._unheld_strangers()
        assert step.torques is not None
        resting = self._history.note(mine, moving - vanished(step.torques, step))
        # A gradient that arrives and is zero comes from a flat place, or is multiplied by zero: nothing is cut off.
        dead = {n for n in resting if backward.arrived[n]}
        return Evidence(
            shared=self._once("shared", {n for n in mine & others if n in again or self._taken_over(n, step)}),
            repeated=tuple(sorted(again)),
            uncleared=tuple(sorted(backward.uncleared & moving)),
            frozen=self._once("frozen", {n for n in frozen if self._history.moved(n)}),
            silent=self._once("silent", resting - dead),
            dead=self._once("dead", {n for n in dead if self._history.moved(n)}),
            replaced=tuple(sorted(replaced)),
            twice=self._once("twice", twice),
            unheld=self._once("unheld", unheld),
        )

    def _held_by_anyone(self, names: Collection[str]) -> set[str]:
        """Of `names`, those that a living optimizer holds, which may take its turn later: looks through all objects."""
        if not names:
            return set()
        return {n for o in living_optimizers() for n in self._held(o)}

    def _unheld_strangers(self) -> set[str]:
        """What came with other modules, has a gradient for the second time, and is in no living optimizer."""
        known = set(self._params.values())
        new = {n: p for n, p in self._model.named_parameters() if p.grad is not None and p not in known}
        self._strangers.update(list(new))
        due = {n for n in new if self._strangers[n] == AGAIN}
        held = {p for o in living_optimizers() for group in o.param_groups for p in group["params"]} if due else set()
        return {n for n in due if new[n] not in held}

    def _taken_over(self, name: str, step: Step) -> bool:
        """True if this optimizer has stepped before, and another one has stepped the parameter since."""
        last = self._last_by.get(name)
        return step.optimizer in self._steps and last is not None and last() is not step.optimizer

    def _stepped_again(self, names: Collection[str], step: Step) -> set[str]:
        """Those of `names`, to which no backward has brought anything, if the last step took the same gradients.

        Bit for bit, and not zero; where code has written to them since, numbers that are all of one size say nothing,
        as of signs, or clipped by value.
        """
        live = {n for n in names if step.grad_sums[n] != 0}
        same = {n for n in live if n in self._used and self._used[n][0] == step.grad_sums[n]}
        if all(self._used[n][1] == mark(step.grads[n]) for n in same):
            return same
        varied = any(len(step.gradient[n].abs().unique()) > SIZES for n in same)
        return same if varied and same == live else set()

    def after(self, step: Step) -> Evidence:
        if step.ahead is not None:
            self._last_by |= dict.fromkeys(step.ahead.moving, weakref.ref(step.optimizer))
            self._used |= {n: (step.ahead.grad_sums[n], mark(step.ahead.grads[n])) for n in step.ahead.moving}
        self._steps[step.optimizer] = self._steps.get(step.optimizer, 0) + 1
        self._backward.used({n for n in step.held if self._params[n].grad is not None})
        return NOTHING

    def _held(self, optimizer: Optimizer) -> set[str]:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {n for n, p in self._params.items() if id(p) in mine}

    def _once(self, kind: str, names: Collection[str]) -> tuple[str, ...]:
        """Those of `names` that were not reported yet."""
        new = {n for n in names if (kind, n) not in self._reported}
        self._reported |= {(kind, n) for n in new}
        return tuple(sorted(new))
