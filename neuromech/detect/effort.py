"""How long detection may take, and what is said while it takes its time.

A model whose axes have to be cut into very many pieces (permuted channels, long chains of concatenations) may take far
longer than anyone wants to wait at a first step. So work goes on in a known order under a budget of CPU time, and each
part of it that is left out only adds equations: what is claimed in the end is as sound as without a limit, and less.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from neuromech.errors import DetectionError

# Of the budget, after which no axis is cut any more, no operator passes anything, and no equation is solved.
CUTTING, FOLLOWING, SOLVING = 0.25, 0.5, 0.85
SILENCE = 5.0  # seconds of waiting before the first word
_EVERY = 32  # calls of `checkpoint` between two looks at the clock


class OutOfTime(Exception):
    """The part of the budget that this work has is used up."""


class Effort:
    """What one search for symmetries may cost, and has left out."""

    def __init__(
        self,
        budget: float | None,
        tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`budget`: seconds of `clock`, None for no limit. `tell`: hears of the state of things after five seconds, and
        then whenever the time that has passed has doubled."""
        self.budget, self.doing, self.over = budget, "", False  # `over`: something was left out
        self._tell, self._clock, self._begun, self._calls = tell, clock, clock(), 0
        self._since, self._silence = time.monotonic(), SILENCE

    def used(self) -> float:
        """The share of the budget that is used up."""
        return 0.0 if self.budget is None else (self._clock() - self._begun) / max(self.budget, 1e-9)

    def now(self, doing: str) -> None:
        """What is being done, for whoever waits."""
        self.doing = doing
        self.say()

    def check(self, share: float) -> None:
        self._calls += 1
        if self._calls % _EVERY:
            return
        self.say()
        if self.used() > share:
            self.over = True
            raise OutOfTime("the time to look for symmetries was up before it was followed")

    def say(self) -> None:
        """A word to whoever waits, if it is time for one."""
        waited = time.monotonic() - self._since
        if self._tell is not None and waited > self._silence:
            self._silence = 2 * waited
            self._tell(f"neuromech: still looking for symmetries after {waited:.0f} s{self.doing and ': '}{self.doing}")


_NONE = Effort(None)
_effort: ContextVar[Effort] = ContextVar("effort", default=_NONE)
_share: ContextVar[float] = ContextVar("share", default=float("inf"))


def effort() -> Effort:
    """That of the search that is under way."""
    return _effort.get()


@contextmanager
def limited(
    budget: float | None, tell: Callable[[str], None] | None = None, clock: Callable[[], float] = time.thread_time
) -> Iterator[Effort]:
    """Inside, a search for symmetries takes about `budget` seconds of CPU time at most; see `Effort`.

    Raises `DetectionError` for a budget that cannot be one.
    """
    check_budget(budget)
    before = _effort.set(made := Effort(budget, tell, clock))
    try:
        yield made
    finally:
        _effort.reset(before)


@contextmanager
def until(share: float) -> Iterator[None]:
    """Inside, `checkpoint` raises once this share of the budget is used up."""
    before = _share.set(share)
    try:
        yield
    finally:
        _share.reset(before)


def checkpoint() -> None:
    """To be called wherever the work of a search may grow. Raises `OutOfTime`, inside of `until`."""
    now = _effort.get()
    if now is not _NONE:
        now.check(_share.get())


def cut_allowed() -> None:
    """To be called before an axis is cut into pieces. Raises `OutOfTime` once only whole axes are looked at."""
    now = _effort.get()
    if now is not _NONE and _share.get() <= 1 and now.used() > CUTTING:
        now.over = True
        raise OutOfTime("its axes have to be cut into pieces, and the time for that was up")


def check_budget(budget: float | None) -> None:
    """Raise `DetectionError` for what cannot be a budget."""
    if budget is None or (isinstance(budget, (int, float)) and not isinstance(budget, bool) and budget > 0):
        return
    raise DetectionError(f"budget={budget!r}: pass seconds of CPU time, as in budget=60, or None for no limit")


def to_stderr(line: str) -> None:
    """For those who wait at a terminal or read a log."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, Python does not look for cyclic garbage: nearly all that analysis makes it needs to its end, and looking
    through it takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
