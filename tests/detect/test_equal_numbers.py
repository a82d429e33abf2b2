"""Numbers that are known to be the same, multiples of others, or to add up to something, however they were made:
every translation that this leaves, against the null space of sampled gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import Case, Net

from detect.oracle import DOMAINS, find, null_spaces

NETS = {
    "kernels of 3 x 3 and 1 x 1": ((3, 2, 4, 4), lambda: Net(
        lambda m, x: m.a(x) + m.b(x), a=nn.Conv2d(2, 2, 3, padding=1), b=nn.Conv2d(2, 2, 1)), 2 * 2 + 2),
    "kernels of 3 and of 5, dilated": ((3, 1, 9), lambda: Net(
        lambda m, x: m.a(x) + m.b(x), a=nn.Conv1d(1, 2, 3, padding=2, dilation=2), b=nn.Conv1d(1, 2, 5, padding=4,
        dilation=2)), 2 * 3 + 2),
    "an input beside its negative": ((5, 3), lambda: Net(
        lambda m, x: m.a(torch.cat([x, -x], 1)), a=nn.Linear(6, 2)), 2 * 3),
    "zeros beside an input": ((5, 3), lambda: Net(
        lambda m, x: m.b(F.pad(m.a(x).tanh(), (0, 2))), a=nn.Linear(3, 3), b=nn.Linear(5, 2)), 2 * 2),
    "a mean subtracted by hand": ((5, 3), lambda: Net(
        lambda m, x: m.b((h := m.a(x).tanh()) - h.mean(1, keepdim=True)), a=nn.Linear(3, 3), b=nn.Linear(3, 2)), 2),
    "standardised by hand": ((5, 4), lambda: Net(
        lambda m, x: m.a((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)), a=nn.Linear(4, 2)), 2),
    "divided by its sum": ((5, 3), lambda: Net(
        lambda m, x: m.b((h := m.a(x).square()) / h.sum(1, keepdim=True)), a=nn.Linear(3, 3), b=nn.Linear(3, 2)), 2),
    "a pool over all there is": ((4, 2, 3, 2), lambda: Net(
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(F.layer_norm(x, (3, 2))), 1).flatten(1)),
        a=nn.Linear(2, 3, bias=False), b=nn.Linear(2, 2)), 6 - 1),
    "exponentials around a ReLU": ((5, 3), lambda: Net(
        lambda m, x: F.relu(x * m.u.exp()) * (x * m.v.exp()), u=(3,), v=(3,)), 3),
    "functions of every channel twice": ((5, 2), lambda: Net(
        lambda m, x: m.a(torch.maximum(y := x.repeat_interleave(2, 1).tanh() + 1, y.square() - 2)),
        a=nn.Linear(4, 2)), 2 * 2),
    "a square and a power of two": ((5, 3), lambda: Net(
        lambda m, x: m.a(2**x) + m.b(x**2), a=nn.Linear(3, 2), b=nn.Linear(3, 2)), 2),
    "one channel, dropped at random": ((5, 1), lambda: Net(
        lambda m, x: m.a(F.alpha_dropout(x.expand(-1, 4), 0.5, True)), a=nn.Linear(4, 2, bias=False)), 0),
    "running sums": ((5, 3), lambda: Net(
        lambda m, x: m.a(x).cumsum(1) - m.a(x), a=nn.Linear(3, 3)), 3 + 1),
    "every channel twice": ((5, 3), lambda: Net(
        lambda m, x: m.a(x.repeat_interleave(2, 1)[:, 1:]), a=nn.Linear(5, 2)), 2 * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_every_translation_is_found_and_none_is_made_up(name: str) -> None:
    shape, build, dimension = NETS[name]
    case = Case(name, build, (shape,), "output", ())
    found = find(case, verify=False)
    for domain, null in null_spaces(case).items():
        score = null.score((s for s in found if s.kind in DOMAINS[domain]), case.model())
        assert score.shared == score.claimed, "a false claim"
        assert score.shared == score.true
    assert found.dimension["translation"] == dimension
