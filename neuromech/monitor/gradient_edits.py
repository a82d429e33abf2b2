"""Are the gradients of a step those of the backward? A common factor (clipping by norm, unscaling) is not a change.

The sampled elements say in which direction each gradient points before and after, the squared norms that this is true
of all its elements. Clipping by value is recognised by its elements: all are as they were, or at one cap. What was done
to the gradients of the first step is taken for meant, as noise that is added at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from neuromech.monitor.evidence import Names

Change = Literal["none", "common", "value", "factors", "added"]
ESTABLISHED = 4  # steps that show a habit
ROUNDINGS = 32.0  # of the cascading sums behind two squared norms, and of the multiplications


def change(
    names: Sequence[str],
    counts: Sequence[int],
    before: Tensor,
    after: Tensor,
    norms_before: Tensor,
    norms_after: Tensor,
    eps: float,
) -> tuple[Change, Names]:
    """What was done to the gradients of `names`, and to which.

    `before`, `after`: sampled elements, end to end; `norms_`: |g|^2 by name; all float64, on the CPU.
    """
    slack = ROUNDINGS * eps
    factors: dict[str, float] = {}
    turned: list[str] = []
    stop = 0
    for i, (name, n) in enumerate(zip(names, counts, strict=True)):
        a, b = before[stop : stop + n], after[stop : (stop := stop + n)]
        square, rest = float(a @ a), float(norms_before[i])
        grown = float(norms_after[i]) / rest if rest else 1.0 + float(norms_after[i])
        factor = float(a @ b) / square if square else grown**0.5
        straight = bool(((b - factor * a).abs() <= slack * b.abs()).all()) and abs(grown - factor**2) <= slack * grown
        factors[name] = factor
        if not straight:
            turned.append(name)
    touched = tuple(name for name, f in factors.items() if abs(f - 1) > slack or name in turned)
    if not touched:
        return "none", ()
    if turned:
        return ("value" if _capped(before, after, norms_before, norms_after, slack) else "added"), tuple(turned)
    low, high = min(factors.values()), max(factors.values())
    if low < 0 < high:  # no clipping turns some of them round
        return "factors", tuple(name for name, f in factors.items() if f < 0)
    if high - low <= slack * high or high <= 1 + slack:
        return "common", touched  # or group by group, as where groups are clipped one by one
    return "factors", tuple(name for name, f in factors.items() if f > 1 + slack)


class SharedFactor:
    """All gradients have had one factor, as clipping by the norm of all has it: later on, who is left out of it?"""

    def __init__(self) -> None:
        self._names: Names = ()
        self._shared = 0  # steps in a row at which all were scaled, and by one factor
        self._apart = False  # they were not, once: groups are clipped one by one

    def spares(self, names: Sequence[str], before: Tensor, after: Tensor, slack: float) -> Names:
        """Those that are as they were while the others were scaled, if no step so far has told them apart.

        `before`, `after`: |g|^2 by name, of gradients that differ by a factor each.
        """
        if tuple(names) != self._names:  # some were thawed, or frozen
            self._names, self._shared, self._apart = tuple(names), 0, False
        live = before > 0
        factors = after[live] / before[live]
        kept = (factors - 1).abs() <= slack
        if not len(factors) or bool(kept.all()):
            return ()
        if float(factors.max() - factors.min()) <= slack * float(factors.max()):
            self._shared += 1
            return ()
        new, self._apart = self._shared >= ESTABLISHED and not self._apart and bool(kept.any()), True
        moving = [name for name, alive in zip(names, live.tolist(), strict=True) if alive]
        return tuple(n for n, same in zip(moving, kept.tolist(), strict=True) if same) if new else ()


def parallel(before: Tensor, after: Tensor, eps: float) -> bool:
    """True if `after` is a multiple of `before`, element by element."""
    square = float(before @ before)
    factor = float(before @ after) / square if square else 0.0
    return factor != 0 and bool(((after - factor * before).abs() <= ROUNDINGS * eps * after.abs()).all())


def _capped(before: Tensor, after: Tensor, norms_before: Tensor, norms_after: Tensor, slack: float) -> bool:
    """True if `after` is a multiple of `before`, clipped by value."""
    live = before != 0
    if not bool(live.any()):
        return False
    # What is below the cap was multiplied by the factor, what was above it by less.
    factor, cap = float((after[live] / before[live]).max()), float(after.abs().max())
    clipped = (factor * before).clamp(-cap, cap)
    shorter = bool((norms_after <= factor**2 * norms_before * (1 + slack)).all())
    return shorter and bool(((after - clipped).abs() <= slack * cap).all())
