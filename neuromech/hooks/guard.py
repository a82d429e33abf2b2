"""What goes wrong in the instrument stays in the instrument: the training that it watches must not hear of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from neuromech.errors import FaultError, kept_from_the_run

T = TypeVar("T")


class Guard:
    """Runs the instrument's part of every hook; the first failure ends it, and is told to `failed`, once.

    `failed` may raise, for those who asked to be stopped. `within`: what encloses each part.
    """

    def __init__(
        self, failed: Callable[[Exception], None], within: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.down = False
        self._failed, self._within = failed, within

    def __call__(self, work: Callable[..., T], *args: object) -> T | None:
        """`work(*args)`, or None if that fails, or if anything has failed before."""
        if self.down:
            return None
        with kept_from_the_run():
            try:
                with self._within():
                    return work(*args)
            except FaultError:
                raise  # the monitor was asked to end the run
            except Exception as error:
                self.down = True
                self._failed(error)
        return None
