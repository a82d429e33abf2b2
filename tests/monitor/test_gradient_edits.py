"""What was done to gradients between the backward and the step is told from what people mean to do."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuromech.monitor.gradient_edits import change, parallel

Grads = dict[str, Tensor]


def told(before: Grads, after: Grads, eps: float = 1.2e-7) -> tuple[str, tuple[str, ...]]:
    names = list(before)
    norms = [torch.stack([g[n].square().sum() for n in names]) for g in (before, after)]
    flat = [torch.cat([g[n].flatten() for n in names]) for g in (before, after)]
    return change(names, [before[n].numel() for n in names], *flat, *norms, eps)


def gradients(seed: int) -> Grads:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(k, generator=g, dtype=torch.float64) for n, k in (("a", 12), ("b", 7), ("c", 30))}


def of(f: Callable[[str, Tensor], Tensor], g: Grads) -> Grads:
    return {n: f(n, x) for n, x in g.items()}


@given(st.integers(0, 10**6), st.floats(1e-6, 1e3))
def test_meant(seed: int, factor: float) -> None:
    g = gradients(seed)
    assert told(g, g) == ("none", ())
    scaled = told(g, of(lambda n, x: x * factor, g))[0]
    assert scaled == ("none" if abs(factor - 1) < 1e-6 else "common")
    cap = float(torch.cat(list(g.values())).abs().median())
    assert told(g, of(lambda n, x: x.clamp(-cap, cap), g))[0] == "value"
    assert told(g, of(lambda n, x: (x * 0.5).clamp(-cap / 4, cap / 4), g))[0] == "value"
    # groups that are clipped one by one
    assert told(g, of(lambda n, x: x * (0.5 if n == "a" else 1.0), g))[0] == "common"


@given(st.integers(0, 10**6))
def test_not_meant(seed: int) -> None:
    g = gradients(seed)
    noise = torch.randn(12, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    assert told(g, of(lambda n, x: x + 0.01 * noise if n == "a" else x, g)) == ("added", ("a",))
    assert told(g, of(lambda n, x: x * 3 if n == "b" else x, g)) == ("factors", ("b",))
    one = {n: x.clone() for n, x in g.items()}
    one["c"][3] += 1.0
    assert told(g, one) == ("added", ("c",))


def test_what_was_not_sampled_shows_in_the_norm() -> None:
    g = gradients(0)
    names = list(g)
    norms = torch.stack([g[n].square().sum() for n in names])
    flat = torch.cat(list(g.values()))
    more = norms.clone()
    more[1] *= 1.5
    assert change(names, [12, 7, 30], flat, flat, norms, more, 1.2e-7)[0] == "added"


def test_parallel() -> None:
    x = torch.randn(20, dtype=torch.float64)
    assert parallel(x, 0.3 * x, 1e-7)
    assert not parallel(x, x + 0.01, 1e-7)
    assert not parallel(torch.zeros(3).double(), torch.ones(3).double(), 1e-7)


@pytest.mark.parametrize("zero", [True, False])
def test_gradients_that_vanish_or_appear(zero: bool) -> None:
    g = gradients(0)
    gone = of(lambda n, x: x * 0 if n == "a" else x, g)
    assert told(*((g, gone) if zero else (gone, g)))[0] in (("common",) if zero else ("added", "factors"))
