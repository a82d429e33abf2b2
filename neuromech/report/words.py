"""Numbers as a person reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from neuromech.detect import compressed

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(x: float | None, digits: int = 2) -> str:
    """Two significant digits: 0.1, 540, 2.4×10⁻⁷; – if there is none."""
    if x is None or math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if -3 <= int(exponent) <= 4:
        rounded = float(f"{mantissa}e{exponent}")
        return (
            f"{rounded:,.{max(0, digits - 1 - int(exponent))}f}".rstrip("0").rstrip(".")
            if rounded % 1
            else (f"{rounded:,.0f}")
        )
    short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{short}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def level(x: float) -> str:
    """A loss, to three significant digits. One that is only nearly whole keeps its point: 1.00, where 1 would end a
    sentence on `1. 4 laws`."""
    if math.isnan(x):
        return "not a number"
    said = number(x, 3)
    return f"{x:#.3g}" if said.lstrip("-").isdigit() and not x.is_integer() and abs(x) < 99.5 else said


def apart(values: Sequence[float]) -> list[str]:
    """Numbers beside each other, with as few digits as tell them from one another and place them within a hundredth of
    what lies between two."""
    least = min((abs(a - b) for a, b in pairwise(sorted(values)) if a != b), default=math.inf)

    def score(digits: int) -> tuple[int, bool]:
        texts = [number(x, digits) for x in values]
        return len(set(texts)), all(abs(float(f"{x:.{digits - 1}e}") - x) <= 0.01 * least for x in values)

    best = max(range(2, 17), key=score)  # the first of the best
    return [number(x, best) for x in values]


def power_of_ten(exponent: int) -> str:
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def share(x: float) -> str:
    """A relative size: 3.2 % if that says something to a person, 16 times if it is large, else as a number."""
    return f"{number(100 * x)} %" if 1e-4 <= x < 10 else f"{number(x)} times" if 10 <= x < math.inf else number(x)


def exactly(x: float) -> str:
    """A setting, as it was set: 0.1, 0.0005, 1e-06."""
    return f"{x:.6g}"


def unbroken(name: str) -> str:
    """A name that lines do not break inside of brackets: `fc.weight[:, i]`."""
    return re.sub(r"\[[^]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), name)


def short(name: str) -> str:
    """The name of a family with repeated layers as one: `layers.0-11.out.weight`."""
    return ", ".join(compressed(re.split(r", (?![^\[]*\])", name), 3))


def many(n: int, one: str, more: str | None = None) -> str:
    """`1 law`, `1,532 laws`, `no families`."""
    noun = one if n == 1 else more or f"{one}s"
    return f"{n:,} {noun}" if n else f"no {noun}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def be(n: int) -> str:
    return "is" if n == 1 else "are"


def was(n: int) -> str:
    return "was" if n == 1 else "were"
