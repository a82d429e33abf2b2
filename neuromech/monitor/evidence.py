"""What was seen to be wrong at one moment of a run, as plain data: the input of a diagnosis.

Every field is empty if nothing of its kind is wrong. Each comes from a check of its own, and each check is exact or has
a threshold that follows from the number format: see checksum.py, replay.py, torque.py, habit.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from neuromech.monitor.replay import Difference

Names = tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """A tensor that changed while nobody was to write to it.

    `what`: "weight", "gradient", or an entry of the optimizer's state. `bit`: the one that flipped, if one flip
    explains it. `by_code`: PyTorch has counted a write, which a fault of the memory does not cause; None: not known.
    `how`: the change of the sampled elements; None: none of them changed, or they are not known.
    """

    name: str
    what: str
    bit: int | None = None
    by_code: bool | None = None
    how: Difference | None = None


@dataclass(frozen=True)
class Broken:
    """A family whose torque is not a rounding error: `members` of its `size`, by `excess` times what is allowed.

    `of`: how many members it has, where only `size` of them are measured."""

    index: int
    name: str
    parameters: Names
    kind: str
    size: int
    members: int
    excess: float
    of: int = 0

    @property
    def counted(self) -> str:
        """How many are off: "2 of 8 members"."""
        return f"{self.members} of {self.size} " + (f"measured members (of {self.of})" if self.of else "members")


@dataclass(frozen=True)
class GradientEdit:
    """How the gradients of a step differ from those of the backward pass.

    `how`: "added" (other directions), "factors" (some tensors more than others), "before" (those of the backward
    before), "norm" (longer than the clipping allows); `norm` and `allowed` go with the last. "unscaled twice": by the
    square of the factor that was taken off before; "unscaled late": shorter than the clipping by a power of two.
    """

    how: str
    names: Names
    norm: float = 0.0
    allowed: float = 0.0


@dataclass(frozen=True)
class Penalty:
    """A part of a gradient that does not come from the model: `share` of it, or `at_least` that; `form`: "L1", "L2" or
    "", other."""

    name: str
    form: str
    coefficient: float
    share: float
    at_least: bool = False  # known by its torques only


@dataclass(frozen=True)
class Setting:
    """A setting of a param group that is `found` where `expected` was thought; `names`: the parameters of the group."""

    key: str
    expected: object
    found: object
    names: Names
    declared: bool = False


@dataclass(frozen=True)
class Replica:
    """Ranks whose `what` ("weight", "gradient") differs from that of the others; no ranks: there is no majority."""

    what: str
    ranks: tuple[int, ...]
    world: int
    names: Names


@dataclass(frozen=True)
class Evidence:
    """Everything that was found at one moment: ahead of a step, or behind it (`edits` to `clock` are seen ahead)."""

    edits: tuple[Edit, ...] = ()
    rounded: Names = ()  # weights that code wrote to and put back, up to rounding
    followed: Names = ()  # weights that no gradient moves, and code has written to
    own_writes: Names = ()  # weights that the forward has written to, and nobody else
    returned: bool = False  # weights and state are, bit for bit, those that an earlier step left
    restored: bool = False  # the comparison is with a saved state, not with the last step
    lost: Names = ()  # parameters whose optimizer state has gone
    kept: str = ""  # the optimizer that holds the state that is lost elsewhere
    clock: tuple[tuple[str, float, float], ...] = ()  # parameter, steps that its state should count, steps it counts
    restarted: Setting | None = None  # the learning rate is that of step 1 again
    torques: tuple[Broken, ...] = ()
    families: int = 0  # how many families there are
    since_start: bool = False  # the torques were broken at the first gradient that was seen
    cut: Names = ()  # without a gradient, in a family that is broken, for the first time
    elsewhere: Names = ()  # parameters that had other values where their gradients were taken
    rebuilt: Names = ()  # modules that have other modules in them than at first
    handover: Names = ()  # the class of the optimizer that stepped so far, and of that which takes over
    terms: tuple[Penalty, ...] = ()  # of the loss, in the weights, from the first step on
    penalty: float | None = None  # all torques are one multiple of the charges
    delayed: bool = False  # the torques vanish at the weights of one step before
    between: bool = False  # a step was taken between the forward and its backward
    gradient_edit: GradientEdit | None = None
    zeroed: Names = ()  # had a gradient after the backward, and have none at the step
    zeroed_all: bool = False  # ... and so have all that are stepped
    dropped: Names = ()  # gradients were cleared between two backwards of one step
    doubled: Names = ()  # one loss was sent back twice
    still: Names = ()  # stepped with gradients, and did not move
    lost_updates: float = 0.0  # share of the updates that rounding swallows
    twice: Names = ()  # held twice by one optimizer
    copied: str = ""  # the optimizer that steps other tensors of the same shapes
    mode: Names = ()  # modules that went from training to evaluation, or back
    frozen: Names = ()
    silent: Names = ()  # no gradient arrives any more
    dead: Names = ()  # gradients arrive, and are exactly zero since some time
    repeated: Names = ()  # stepped again without a new gradient
    uncleared: Names = ()  # a backward added to a gradient that a step had used
    shared: Names = ()  # held by two optimizers
    unheld: Names = ()  # trained, but no optimizer holds it
    replaced: Names = ()  # the model has another tensor now
    infinite: Names = ()  # gradient not finite, when it came from the backward
    skipped: bool = False  # ... and no step was taken with it
    settings: tuple[Setting, ...] = ()
    schedules: Names = ()  # settings that code changes at step after step
    replicas: tuple[Replica, ...] = ()
    steps: tuple[Difference, ...] = ()  # a step that does not do what its settings say
    laws: tuple[Broken, ...] = ()  # an exact law that left its bound in this step
    averaged: tuple[tuple[str, float, float], ...] = ()  # an average, the weight it was to take in, the one it took
    lr: float = field(default=0.0, compare=False)

    @property
    def empty(self) -> bool:
        return not any(_faults_of(self))

    def __or__(self, other: Evidence) -> Evidence:
        """What both found: lists end to end, of single values the first one that is anything."""

        def merged(a: Any, b: Any) -> Any:
            if isinstance(a, tuple):
                return (*a, *(x for x in b if x not in a))
            return b if a in (None, False, 0, "") else a

        if other is NOTHING or not any(_all_of(other)):
            return self
        if self is NOTHING or not any(_all_of(self)):
            return other
        return Evidence(*(merged(getattr(self, name), getattr(other, name)) for name in _FIELDS))


_NO_FAULT = frozenset(
    "zeroed_all copied rounded followed own_writes returned terms restored families since_start lr kept cut delayed "
    "between skipped elsewhere rebuilt handover schedules".split()
)
_FIELDS = tuple(f.name for f in fields(Evidence))
_all_of = attrgetter(*(f.name for f in fields(Evidence) if f.compare))
_faults_of = attrgetter(*(name for name in _FIELDS if name not in _NO_FAULT))
NOTHING = Evidence()
