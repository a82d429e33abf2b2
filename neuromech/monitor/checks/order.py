"""Who steps which parameters, and when: optimizers that meet, gradients that are used twice or never come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.compat import own_parameter
from neuromech.hooks import BackwardWatch
from neuromech.monitor.missing_gradient import Habit


class Rhythm:
    """Watches the order of backwards and steps over `params` of `model`."""

    def __init__(self, model: nn.Module, params: Mapping[str, nn.Parameter], backward: BackwardWatch) -> None:
        self._params, self._backward = params, backward
        modules = dict(model.named_modules())
        self._owners = {n: (modules[n.rpartition(".")[0]], n.rpartition(".")[2]) for n in params}
        self._habits = {n: Habit() for n in params}
        self._trained = {n for n, p in params.items() if p.requires_grad}
        self._excused: set[str] = set()
        self._steps: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._told: set[tuple[str, str]] = set()

    def excuse(self, names: Collection[str]) -> None:
        """These are not expected to receive a gradient."""
        self._excused |= set(names)

    def steady(self) -> set[str]:
        """The parameters that are trained and had a gradient at every step so far, if there was any."""
        return {n for n, h in self._habits.items() if self._params[n].requires_grad and h.moves and not h.rests + h.run}

    def is_new(self, optimizer: Optimizer) -> bool:
        """True if it has not stepped yet, and others have: it may be one that only hands its steps on."""
        return optimizer not in self._steps and len(self._steps) > 0

    def check(self, optimizer: Optimizer, moving: Sequence[str], silent: Collection[str]) -> dict[str, Any]:
        """Ahead of a step: fields as in `Evidence`. `silent`: parameters whose gradient is zero."""
        self._backward.attach()
        mine, backward = self._held(optimizer), self._backward
        again = [n for n in moving if backward.watches(n) and not backward.arrived[n] and backward.unchanged(n)]
        others = {n for o in self._steps if o is not optimizer for n in self._held(o)}
        fields = {
            "shared": self._once("shared", mine & others),
            "repeated": again,
            "uncleared": backward.uncleared & set(moving),
            "frozen": self._once("frozen", {n for n in self._trained & mine if not self._params[n].requires_grad}),
            "silent": self._once("silent", self._stopped(mine, set(moving) - set(silent))),
            "replaced": self._once(
                "replaced", {n for n, (m, a) in self._owners.items() if own_parameter(m, a) is not self._params[n]}
            ),
        }
        if self._steps.get(optimizer):  # by its second step every optimizer of a loop has stepped
            trained = {n for n, p in self._params.items() if p.requires_grad and backward.arrived[n]}
            fields["unheld"] = self._once("unheld", trained - mine - others)
        self._trained = {n for n, p in self._params.items() if p.requires_grad}
        return {key: tuple(sorted(names)) for key, names in fields.items()}

    def stepped(self, optimizer: Optimizer) -> None:
        """A step of `optimizer` was taken."""
        self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
        self._backward.used({n for n in self._held(optimizer) if self._params[n].grad is not None})

    def _held(self, optimizer: Optimizer) -> set[str]:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {n for n, p in self._params.items() if id(p) in mine}

    def _stopped(self, held: Collection[str], moved: Collection[str]) -> set[str]:
        """The parameters that rest for longer than chance explains, while others move."""
        out = set()
        for name in held if moved else ():
            if self._params[name].requires_grad and name not in self._excused:
                habit = self._habits[name]
                habit.note(name in moved)
                if habit.run and habit.stopped:
                    out.add(name)
        return out

    def _once(self, kind: str, names: Collection[str]) -> set[str]:
        """Those of `names` that were not told yet."""
        new = {n for n in names if (kind, n) not in self._told}
        self._told |= {(kind, n) for n in new}
        return new
