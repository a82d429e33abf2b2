"""Pools and their options, against the null space: what becomes of a shift of every entry, which numbers repeat."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product

import pytest
import torch
from families import fast
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Case, Net

from detect.oracle import find, scores

Pool = Callable[[Tensor], Tensor]
SEE_ALL: dict[str, tuple[Pool, int]] = {
    "a kernel wider than the picture": (lambda x: F.avg_pool2d(x, 3, 1, 1), 3 + 3),
    "without the zeros around": (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 3 + 3),
    "along one axis": (lambda x: F.avg_pool2d(x, (3, 1), 1, (1, 0)), 2 + 2),
    "of adaptive size": (lambda x: F.adaptive_avg_pool2d(x, (1, 2)).expand(-1, -1, 2, -1), 2 + 2),
    "the largest entry": (lambda x: F.max_pool2d(x, 3, 1, 1), 0 + 3),
    "the largest along one axis": (lambda x: F.max_pool2d(x, (3, 1), 1, (1, 0)), 0 + 2),
}
SHAPE = (4, 1, 4, 3)
WINDOWS = [(1, 0), (2, 0), (2, 1), ((3, 1), (1, 0)), (5, 2), (3, (1, 0))]
OPTIONS: dict[str, tuple[Pool, tuple[int, ...]]] = {}
for (_size, _around), _step, _ceil in product(WINDOWS, (1, 2), (False, True)):
    for _zeros, _by in product((False, True), (None, 3)):
        _mean = partial(F.avg_pool2d, kernel_size=_size, stride=_step, padding=_around, ceil_mode=_ceil,
                        count_include_pad=_zeros, divisor_override=_by)  # fmt: skip
        OPTIONS[f"mean of {_size} by {_step} in {_around}, {_ceil} {_zeros} {_by}"] = _mean
    for _apart in (1, 2):
        _largest = partial(F.max_pool2d, kernel_size=_size, stride=_step, padding=_around, ceil_mode=_ceil,
                           dilation=_apart)  # fmt: skip
        with suppress(RuntimeError):  # a window that does not fit
            _largest(torch.zeros(SHAPE))
            OPTIONS[f"largest of {_size} by {_step} in {_around}, {_ceil} {_apart}"] = _largest


def pooled(pool: Pool, shape: tuple[int, ...]) -> Case:
    """A pool of what every entry has a factor and a shift of its own in, and a weight for every place of the result."""
    places = pool(torch.zeros(shape))[0].numel()
    parts = {"v": shape[1:], "w": shape[1:], "a": nn.Linear(places, 1, bias=False)}
    net = partial(Net, lambda m, x: m.a(pool(x * m.v + m.w).flatten(1)), **parts)
    return Case("pooled", net, (shape,), "output", ())


def centred(pool: Pool, shape: tuple[int, ...]) -> Case:
    """A pool of what every entry has a shift of its own in; a common shift of the result is not seen."""
    net = partial(Net, lambda m, x: (h := pool(x + m.w)) - h.mean((2, 3), keepdim=True), w=shape[1:])
    return Case("centred", net, (shape,), "output", ())


def translations(case: Case) -> tuple[int, int]:
    """How many translations there are, and how many were found; no claim is false."""
    found = find(case, verify=False)
    for score in scores(case, found).values():
        assert score.shared == score.claimed, "a false claim"
    return score.true, score.shared


@pytest.mark.parametrize("name", SEE_ALL)
def test_what_sees_all_there_is_says_the_same_everywhere(name: str) -> None:
    pool, dimension = SEE_ALL[name]
    assert translations(pooled(pool, (4, 1, 2, 2))) == (dimension, dimension)


@pytest.mark.parametrize("name", fast(OPTIONS, [*OPTIONS][::17]))
def test_no_option_makes_a_claim_false(name: str) -> None:
    pool = OPTIONS[name]
    translations(pooled(pool, SHAPE))
    if pool(torch.zeros(SHAPE))[0].numel() > 1:
        translations(centred(pool, SHAPE))
