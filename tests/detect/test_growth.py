"""Factors that shifts have turned into, behind an exponential, pass whatever a scale passes: against the null space."""

import pytest
from torch import nn
from torch.nn import functional as F
from zoo import Case, Net

from detect.oracle import check_exactly

NETS = {
    "a maximum of exponentials": ((5, 3), lambda: Net(
        lambda m, x: (h := m.a(x).exp()) / h.amax(1, keepdim=True), a=nn.Linear(3, 3)), 3 + 1),
    "sorted": ((5, 3), lambda: Net(
        lambda m, x: (h := m.a(x).exp().sort(1).values) / h.sum(1, keepdim=True), a=nn.Linear(3, 3)), 3 + 1),
    "a norm of exponentials": ((5, 3), lambda: Net(
        lambda m, x: F.normalize(m.a(x).exp(), dim=1), a=nn.Linear(3, 3)), 3 + 1),
    "standardised": ((5, 3), lambda: Net(
        lambda m, x: F.layer_norm((x + m.v) * m.a.exp(), (3,), eps=0), a=(1,), v=(3,)), 1 + 1),
    "a square over a square root": ((5, 3), lambda: Net(
        lambda m, x: (h := m.a(x)).exp().sqrt() / (2 * h).exp().square(), a=nn.Linear(3, 2)), 0),
    "a root of a square": ((5, 3), lambda: Net(
        lambda m, x: m.a(x).exp().square().sqrt() * m.b(x).exp(), a=nn.Linear(3, 2), b=nn.Linear(3, 2)), 2 * (3 + 1)),
    "beside zeros": ((5, 3), lambda: Net(
        lambda m, x: (h := F.pad((x + m.a).exp(), (0, 1))) / h.sum(1, keepdim=True), a=(3,)), 1),
    "beside ones": ((5, 3), lambda: Net(
        lambda m, x: (h := F.pad((x + m.a).exp(), (0, 1), value=1.0)) / h.sum(1, keepdim=True), a=(3,)), 0),
    "ReLU between exponentials": ((5, 3), lambda: Net(
        lambda m, x: F.relu(x * m.u.exp()) * (x * m.v.exp()), u=(3,), v=(3,)), 3),
    "a pool of exponentials": ((4, 1, 2, 3), lambda: Net(
        lambda m, x: (h := F.max_pool2d((x * m.a).exp() * m.b.exp(), 2, 1)) / h.sum(3, keepdim=True), a=(1,), b=(1,)),
        1),
    "one token over the next": ((4, 3, 2), lambda: Net(
        lambda m, x: (h := m.a(x).exp())[:, 0] / h[:, 1], a=nn.Linear(2, 2)), 2),
    "one word over the next": ((4, 3, 2), lambda: Net(
        lambda m, x: (h := F.embedding((x[..., 0] > 0).long(), m.e.exp()))[:, 0] / h[:, 1], e=(2, 3)), 3),
    "one chosen entry over the next": ((4, 3, 2), lambda: Net(
        lambda m, x: (h := m.a(x).exp().gather(1, x.argsort(1)))[:, 0] / h[:, 1], a=nn.Linear(2, 2)), 2),
    "a running sum": ((5, 3), lambda: Net(
        lambda m, x: (h := m.a(x).exp().cumsum(1)) / h[:, -1:], a=nn.Linear(3, 3)), 3 + 1),
    "a hidden state": ((3, 2, 2), lambda: Net(
        lambda m, x: m.r(x * m.a.exp())[0], a=(1,), r=nn.RNN(2, 2, nonlinearity="relu", bias=False)), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_every_translation_is_found_and_none_is_made_up(name: str) -> None:
    shape, build, dimension = NETS[name]
    check_exactly(Case(name, build, (shape,), "output", ()), dimension)
