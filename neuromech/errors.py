"""Everything neuromech raises or warns about. Each message says what was found, what was expected and what to do."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NeuromechError(Exception):
    """Base class of all errors that neuromech raises on purpose."""


class CaptureError(NeuromechError):
    """The forward pass could not be recorded faithfully."""


class DetectionError(NeuromechError):
    """The request for symmetries makes no sense for this model, example or loss."""


class SymmetryError(NeuromechError):
    """A symmetry is ill-formed, or does not fit the parameters that it is applied to."""


class EoMError(NeuromechError):
    """An equation of motion, a step along the gradient flow or a derivative was asked for that does not exist."""


class RecordError(NeuromechError):
    """A run directory or a saved state cannot be written, read or resumed."""


class InstrumentError(NeuromechError):
    """`instrument` was asked for something that cannot work."""


class PhysicsError(NeuromechError):
    """A physical model, its structure, its data or its states make no sense, or cannot be treated exactly."""


class ConvergenceError(PhysicsError):
    """An implicit step was not solved to its tolerance; says for which samples. `states`: those reached before."""

    states: Any = None


class FaultError(NeuromechError):
    """The monitor has found something wrong with the run, and was asked to stop it; `fault` says what."""

    def __init__(self, message: str, fault: object = None) -> None:
        super().__init__(message)
        self.fault = fault


class NeuromechWarning(UserWarning):
    """Something in the run limits what can be said about it; training itself is untouched."""


class FaultWarning(NeuromechWarning):
    """The monitor has found something wrong with the run."""


FIRST_LINE = 100


def code_of(key: str) -> str:
    """The code of a cause or a kind of event, for `neuromech explain`: `NM-edited-weights`."""
    return "NM-" + re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")


def headed(message: str, code: str, short: str = "") -> str:
    """A message under a first line of at most 100 characters: its code, and `short` or its first clause."""
    room = FIRST_LINE - len(code) - 2
    clause = short or re.split(r"[.:;](?: |$)", message, maxsplit=1)[0]
    clause = clause if len(clause) <= room else clause[: room - 2].rsplit(" ", 1)[0] + " …"
    rest = "" if clause == message else f"\n  {message}"
    return f"{code}: {clause}{rest}\n  neuromech explain {code} says more."


def warn(message: str, key: str, kind: type[Warning] = NeuromechWarning, short: str = "") -> None:
    """A warning that points at the line of the user: the nearest one outside of neuromech and torch.

    `key`: what it is about, in words; under its code `neuromech explain` says more. `short`: the first line, else the
    first clause.
    """
    message = headed(message, code_of(key), short)
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    try:
        warnings.warn(message, kind, stacklevel=level)
    except Warning:  # a filter of the user makes errors of warnings
        if not _kept:
            raise
        swallowed.append(message)
        print(f"{kind.__name__}: {message}", file=sys.stderr)


swallowed: list[str] = []
"""Warnings that would have ended a run, had they been raised as the filters ask."""
_kept: list[None] = []


@contextmanager
def kept_from_the_run() -> Iterator[None]:
    """Inside, a warning that filters turn into an error is printed instead: nobody asked to end a training."""
    _kept.append(None)
    try:
        yield
    finally:
        _kept.pop()


def located(error: Exception) -> str:
    """What was raised, and where: `ValueError: why (file.py:12)`."""
    trace = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(trace[-1].filename).name}:{trace[-1].lineno})" if trace else ""
    return f"{type(error).__name__}: {error}{where}"


_INSIDE = {Path(__file__).parent.name, "torch"}


def stood_aside(step: int, error: Exception) -> str:
    """What to say of an instrument that failed after `step`, 0: before it had measured anything."""
    what = located(error)
    if step:
        return (
            f"measuring failed after step {step} and has stopped; training goes on, and what was recorded is kept. "
            f"{what}. strict=True raises this error where it happens"
        )
    return (
        f"the instrument stands aside: {what}. Training goes on as without it, and nothing is measured. To look for "
        "symmetries before training begins pass loss= and example=; strict=True raises this error where it happens"
    )
