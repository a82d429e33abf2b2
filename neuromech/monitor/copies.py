"""Does an optimizer hold another copy of the model, while the one that learns is stepped by nobody?

An optimizer built before the model was copied, or before its parameters were replaced, steps tensors to which no
backward of this loop leads. Two models of one shape in one process are fine: a teacher and its student, twins, an
ensemble. So equal shapes are only where suspicion begins. It needs, over `PATIENCE` backward passes of our model:

    gradients of ours wait, and no step takes them; our weights stay, whoever might move them by hand
    the other optimizer steps each time, and no gradient of its own led to it
    no living optimizer holds a parameter of ours
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.utils.weak import TensorWeakRef

from neuromech.compat import version

PATIENCE = 2  # in one iteration its turn may come before ours


@dataclass
class _Foreign:
    """What was seen of one optimizer: its gradients and weights ahead of its step, and how often it stepped idly."""

    gradients: dict[int, tuple[TensorWeakRef, int]] = field(default_factory=dict)
    weights: tuple[int, ...] = ()
    fed: bool = False  # gradients of its own came since this was last asked
    idle: int = 0
    backward: int = -1  # of ours, the last one that waited at an idle step
    theta: Tensor | None = None  # a sample of our weights, when that began


class OtherCopies:
    """Judges the steps of optimizers that hold none of `params`."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self._params = params
        self._met: weakref.WeakKeyDictionary[Optimizer, _Foreign] = weakref.WeakKeyDictionary()
        self._holder: weakref.ref[Optimizer] | None = None

    def begins(self, optimizer: Optimizer) -> None:
        """Ahead of a step of `optimizer`."""
        if _shapes(held_by(optimizer)) <= _shapes(self._params.values()):
            known = self._met.setdefault(optimizer, _Foreign())
            known.weights = tuple(version(p) for p in held_by(optimizer))
            known.fed = known.fed or _fed(optimizer, known)

    def accuses(self, optimizer: Optimizer, waiting: Collection[str], theta: Tensor, backward: int) -> bool:
        """Behind a step, while gradients of ours wait, those of `waiting`, from our backward number `backward`.

        `theta`: a sample of our weights as that backward met them.
        """
        known = self._met.get(optimizer)
        if known is None or not waiting:
            return False
        if _shapes(held_by(optimizer)) != _shapes(self._params[name] for name in waiting):
            return False
        fed, known.fed = known.fed or _fed(optimizer, known), False  # a closure makes gradients within the step
        if fed or _moves_by_itself(optimizer, known.weights):
            known.idle = 0
            return False
        if backward == known.backward:
            return False
        if known.theta is None or not torch.equal(known.theta, theta):
            known.idle, known.theta = 0, theta
        known.idle, known.backward = known.idle + 1, backward
        return known.idle >= PATIENCE and not self._is_held()

    def stepped(self) -> None:
        """One of our optimizers has taken a step."""
        for known in self._met.values():
            known.idle = 0

    def _is_held(self) -> bool:
        """Does any living optimizer hold one of ours? Looks through all objects, so it is asked last."""
        mine = set(map(id, self._params.values()))

        def holds(x: Optimizer | None) -> bool:
            return x is not None and any(id(p) in mine for p in held_by(x))

        if self._holder is not None and holds(self._holder()):
            return True
        found = next(filter(holds, living_optimizers()), None)
        self._holder = None if found is None else weakref.ref(found)
        return found is not None


def living_optimizers() -> Iterator[Optimizer]:
    """Of the whole process: looks through all objects."""
    return (x for x in gc.get_objects() if issubclass(type(x), Optimizer) and hasattr(x, "param_groups"))


def held_by(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of `optimizer`."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _shapes(tensors: Iterable[Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(t.shape) for t in tensors)


def _moves_by_itself(optimizer: Optimizer, before: tuple[int, ...]) -> bool:
    """Without any gradient it has moved its weights: what drives it comes by another way."""
    held = held_by(optimizer)
    return all(p.grad is None for p in held) and tuple(version(p) for p in held) != before


def _fed(optimizer: Optimizer, known: _Foreign) -> bool:
    """Has somebody brought the optimizer a gradient that is not zero since this was asked last?"""
    now = {i: g for i, p in enumerate(held_by(optimizer)) if (g := p.grad) is not None}
    old, known.gradients = known.gradients, {i: (TensorWeakRef(g), version(g)) for i, g in now.items()}
    new = (g for i, g in now.items() if i not in old or old[i][0]() is not g or old[i][1] != version(g))
    return any(bool((g.coalesce().values() if g.is_sparse else g).any()) for g in new)
