"""Is it chance that a gradient is missing? A layer may be dropped at random, or a branch may have been cut off.

The history of a parameter is a series of steps with a gradient (moves) and without (rests), and at its end a run of
rests. Either the same coin made the run, or something has changed: the likelihood of the first, at the coin that fits
best, over that of the second. Below `CHANCE` the coin is given up. While nothing but the run speaks of rests, the coin
is taken to be no worse than a fair one. So a layer that moved a hundred times is missed after ten steps, one that moved
twenty times after twenty-six, any after forty-six, and one that rests every other step after some fifty.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from neuromech.monitor.facts import Step
from neuromech.monitor.torque import Torques
from neuromech.rounding import CHANCE


@dataclass
class MissingGradientTest:
    """One parameter: its steps with and without a gradient."""

    moves: int = 0
    rests: int = 0  # before the present run
    run: int = 0  # of rests, up to now

    def note(self, moved: bool) -> None:
        if moved:
            self.moves, self.rests, self.run = self.moves + 1, self.rests + self.run, 0
        else:
            self.run += 1

    @property
    def stopped(self) -> bool:
        """True if the present run of rests cannot be chance."""
        if not self.rests and 0.5**self.run <= CHANCE:
            return True
        same = _log_likelihood(self.moves, self.rests + self.run)
        return same - _log_likelihood(self.moves, self.rests) <= math.log(CHANCE)


class GradientHistory:
    """Which of `params` had a gradient, step by step."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self._params = params
        self._tests = {n: MissingGradientTest() for n in params}
        self.expected_none: set[str] = set()

    def expect_none(self, names: Iterable[str]) -> None:
        """These do not reach the loss: no gradient is missed."""
        self.expected_none |= set(names)

    def always(self) -> set[str]:
        """The parameters that are trained and had a gradient at every step so far, if there was any."""
        return {n for n, t in self._tests.items() if self._params[n].requires_grad and t.moves and not t.rests + t.run}

    def moved(self, name: str) -> bool:
        """Has it ever had a gradient that was not zero?"""
        return self._tests[name].moves > 0

    def note(self, held: Collection[str], moved: Collection[str]) -> set[str]:
        """One step: the parameters of `held` that rest for longer than chance explains, while others moved."""
        out = set()
        for name in held if moved else ():
            trained = self._params[name].requires_grad or name in moved  # frozen around its step, as in a game
            if trained and name not in self.expected_none:
                test = self._tests[name]
                test.note(name in moved)
                if test.run and test.stopped:
                    out.add(name)
        return out


def vanished(found: Torques, step: Step) -> set[str]:
    """The parameters whose gradient is zero, element by element: squares are zero long before."""
    small = [n for n, x in zip(step.theta, found.squares, strict=True) if x == 0]
    return {n for n in small if n not in step.gradient or not step.gradient[n].any()}


def _log_likelihood(moves: int, rests: int) -> float:
    """Of a series of moves and rests, at the coin that fits best."""
    n = moves + rests
    return sum(k * math.log(k / n) for k in (moves, rests) if k)


def padded(model: nn.Module) -> set[str]:
    """Embeddings with a row for padding, whose gradient torch leaves at zero: no shift of all rows is seen by it."""
    return {
        f"{name}.weight".lstrip(".")
        for name, m in model.named_modules()
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.padding_idx is not None
    }
