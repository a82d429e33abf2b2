"""Is a silence chance? A parameter without a gradient may be a layer that is dropped at random; or it may be cut off.

The history of a parameter is a series of steps with a gradient (moves) and without (rests), and at its end a run of
rests. Either the same coin made the run, or something has changed: the likelihood of the first, at the coin that fits
best, over that of the second. Below `CHANCE` the coin is given up. While nothing but the run speaks of rests, the coin
is taken to be no worse than a fair one. So a layer that moved a hundred times is missed after ten steps, one that moved
twenty times after twenty-six, any after forty-six, and one that rests every other step after some fifty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from neuromech.rounding import CHANCE


@dataclass
class Habit:
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


def _log_likelihood(moves: int, rests: int) -> float:
    """Of a series of moves and rests, at the coin that fits best."""
    n = moves + rests
    return sum(k * math.log(k / n) for k in (moves, rests) if k)
