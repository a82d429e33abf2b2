"""Signatures of what is lost between a backward and the weights: gradients without a step, steps without a move."""

from __future__ import annotations

from collections.abc import Iterator

from neuromech.monitor.evidence import Evidence
from neuromech.monitor.suspect import CERTAIN, LIKELY, POSSIBLE, Suspect
from neuromech.record import some


def lost_gradients(e: Evidence) -> Iterator[Suspect]:
    if e.zeroed and e.zeroed_all:
        text = f"all gradients ({some(e.zeroed)}) were there after the backward, and are zero or gone at the step"
        yield Suspect("zeroed gradient", CERTAIN, e.zeroed, text)
    elif e.zeroed:
        text = f"the gradients of {some(e.zeroed)} were there after the backward, and are zero or gone at the step"
        yield Suspect("zeroed gradient", LIKELY, e.zeroed, text)
    if e.dropped:
        text = f"between two backwards of one step the gradients of {some(e.dropped)} were cleared: the first is lost"
        yield Suspect("dropped gradient", LIKELY, e.dropped, text)
    if e.doubled:
        text = f"a second backward without a forward added to {some(e.doubled)} what was there, bit for bit"
        yield Suspect("doubled gradient", CERTAIN, e.doubled, text)
    if e.still:
        text = f"{some(e.still)} were stepped with gradients and a learning rate, and are the same bit for bit"
        yield Suspect("nothing moved", CERTAIN if not e.lost_updates else POSSIBLE, e.still, text)
    if e.lost_updates:
        text = f"of the elements that were to move, {e.lost_updates:.0%} did not: updates below the last place"
        yield Suspect("lost updates", CERTAIN, (), text)
