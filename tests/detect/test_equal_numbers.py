"""Numbers that are known to be the same, multiples of others, or to add up to something, however they were made:
every translation that this leaves, against the null space of sampled gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import Case, Net

from detect.oracle import check_exactly

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
    "a picture twice, pooled": ((3, 1, 3, 2), lambda: Net(
        lambda m, x: m.b(F.max_pool2d(torch.cat([x, x], 1), (2, 1), 1) @ m.w), w=(2, 1), b=nn.Conv2d(2, 1, 1)), 1),
    "a matrix beside its transpose": ((3, 2, 2), lambda: Net(
        lambda m, x: m.b((torch.cat([x, x.mT], 1) @ m.w).tanh().flatten(1)), w=(2, 1), b=nn.Linear(4, 1)), 0),
    "gains of channels that are equal": ((3, 2), lambda: Net(
        lambda m, x: m.b((torch.cat([x, x], 1) * m.w).tanh()), w=(4,), b=nn.Linear(4, 1)), 0),
    "deviations from the mean of channels": ((3, 3, 2, 3), lambda: Net(
        lambda m, x: m.b(x - x.mean(1, keepdim=True)), b=nn.Conv2d(3, 1, (1, 2), padding=1)), 2),
    "weights of channels that add up to one": ((3, 3, 2, 3), lambda: Net(
        lambda m, x: F.layer_norm(m.b(x.softmax(1)), (4,), eps=0), b=nn.Conv2d(3, 1, (1, 2), padding=(0, 1))), 1),
    "a ring of two": ((3, 2, 3, 2), lambda: Net(
        lambda m, x: m.a(x), a=nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), 2 * 2 * 3),
    "a ring of two, in groups and strides": ((3, 2, 5, 2), lambda: Net(
        lambda m, x: m.a(x), a=nn.Conv2d(2, 4, 3, 2, padding=1, padding_mode="circular", groups=2)), 4 * 3),
    "a ring of two in a hidden layer": ((3, 1, 2), lambda: Net(
        lambda m, x: m.b(m.a(x).tanh()), a=nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"),
        b=nn.Conv1d(2, 1, 3, padding=1, padding_mode="circular")), 2 + 2),
    "a mirror": ((3, 1, 3), lambda: Net(
        lambda m, x: m.a(F.pad(x, (2, 2), "reflect")), a=nn.Conv1d(1, 2, 5, 4)), 2 * 2),
    "the mean of a picture everywhere": ((3, 1, 3, 2), lambda: Net(
        lambda m, x: m.a(F.avg_pool2d(x, 5, 1, 2)), a=nn.Conv2d(1, 2, 2)), 2 * 3),
    "every channel twice": ((5, 3), lambda: Net(
        lambda m, x: m.a(x.repeat_interleave(2, 1)[:, 1:]), a=nn.Linear(5, 2)), 2 * 2),
    "zeros beside a picture": ((3, 1, 3, 2), lambda: Net(
        lambda m, x: m.a(torch.cat([x, torch.zeros_like(x)], 1)), a=nn.Conv2d(2, 2, 3, padding=1)), 2 * 9),
    "ones beside a picture": ((3, 1, 3, 3), lambda: Net(
        lambda m, x: m.a(torch.cat([x, torch.ones_like(x)], 1)), a=nn.Conv2d(2, 2, 2)), 2 * 4),
    "a quadratic form": ((5, 3), lambda: Net(
        lambda m, x: m.a(h := m.b(x), h), a=nn.Bilinear(3, 3, 2), b=nn.Linear(3, 3)), 2 * 3),
    "a quadratic form with a constant entry": ((5, 2), lambda: Net(
        lambda m, x: m.a(h := F.pad(x, (0, 1), value=1), h), a=nn.Bilinear(3, 3, 2)), 2 * 3 + 2),
    "products of all pairs": ((5, 3), lambda: Net(
        lambda m, x: m.a((x[:, :, None] * x[:, None]).flatten(1)), a=nn.Linear(9, 2)), 2 * 3),
    "products in either order": ((5, 3), lambda: Net(
        lambda m, x: m.a(x * x.tanh()) + m.b(x.tanh() * x), a=nn.Linear(3, 2), b=nn.Linear(3, 2)), 2 * 3 + 2),
    "a softmax, summed over the batch": ((3, 4), lambda: Net(
        lambda m, x: (x.softmax(1) @ m.w).sum(0) + m.s, w=(4, 2), s=(2,)), 2),
    "a softmax in pieces, summed over the batch": ((3, 4), lambda: Net(
        lambda m, x: ((g := x.softmax(1))[:, :1] * m.a + g[:, 1:] @ m.b).sum(0) + m.s, a=(2,), b=(3, 2), s=(2,)), 2),
    "a dense mixture of experts": ((5, 4), lambda: Net(
        lambda m, x: (g := m.r(x).softmax(1))[:, :1] * m.a(x) + g[:, 1:2] * m.b(x) + g[:, 2:] * m.c(x) + m.s(x),
        r=nn.Linear(4, 3), a=nn.Linear(4, 2), b=nn.Linear(4, 2), c=nn.Linear(4, 2), s=nn.Linear(4, 2)), 5 + 2 * 5),
    "a layer norm in pieces": ((5, 4), lambda: Net(
        lambda m, x: m.a((h := F.layer_norm(x, (4,), eps=1e-14))[:, :1]) + m.b(h[:, 1:]), a=nn.Linear(1, 2, bias=False),
        b=nn.Linear(3, 2)), 2),
    "a layer norm, a piece of which is missing": ((5, 4), lambda: Net(
        lambda m, x: m.a((h := F.layer_norm(x, (4,), eps=1e-14))[:, :1]) + m.b(h[:, 2:]), a=nn.Linear(1, 2, bias=False),
        b=nn.Linear(2, 2)), 0),
    "zeros beside an input, through functions": ((5, 2), lambda: Net(
        lambda m, x: m.a(torch.maximum(y := F.pad(F.pad(x, (0, 1)).relu() * m.g, (1, 0)).tanh(), y.square())),
        a=nn.Linear(4, 2), g=(3,)), 2 * 2 + 1),
    "a constant beside an input, through functions": ((5, 2), lambda: Net(
        lambda m, x: m.a(F.gelu(F.pad(x, (0, 2), value=0.5)).exp() - 1), a=nn.Linear(4, 2)), 2 * 2),
    "entries twice, of which the first is cut off": ((5, 3), lambda: Net(
        lambda m, x: m.a((p := x.softmax(1).repeat_interleave(2, 1))[:, :1]) + m.b(p[:, 1:]),
        a=nn.Linear(1, 2, bias=False), b=nn.Linear(5, 2)), 2 + 2 * 3),
    "even and odd functions of an input and of its negative": ((5, 2), lambda: Net(
        lambda m, x: m.a((y := torch.cat([x, -x], 1)).square()) + m.b(y.tanh()) + m.c(F.gelu(y)), a=nn.Linear(4, 2),
        b=nn.Linear(4, 2, bias=False), c=nn.Linear(4, 2, bias=False)), 2 * 4),
    "multiples of an input": ((5, 2), lambda: Net(
        lambda m, x: m.a(torch.cat([x.relu(), (2 * x).relu(), (-x).relu()], 1)), a=nn.Linear(6, 2)), 2 * 2),
    "a bias at shuffled places, and a number": ((3, 1, 4, 2), lambda: Net(
        lambda m, x: m.b(h := F.pixel_shuffle(m.a(x), 2) + m.g) + m.c(h), a=nn.Conv2d(1, 4, 1), g=(),
        b=nn.Conv2d(1, 2, 3, padding=1), c=nn.Conv2d(1, 2, 1)), 1 + 2 + 2),
    "a bias and a picture, pooled": ((3, 2, 3, 3), lambda: Net(
        lambda m, x: F.avg_pool2d(m.a(x) + m.w, 3, 1, 1, False, False) * m.g, a=nn.Conv2d(2, 2, 1),
        w=(2, 3, 3), g=(2, 1, 1)), 2),
    "a bias of places under a kernel of one tap": ((3, 1, 4, 2), lambda: Net(
        lambda m, x: m.b(x + m.a).flatten(1).log_softmax(1), a=(4, 2), b=nn.Conv2d(1, 1, 1)), 1 + 1),
    "gates of rows beside gates of columns": ((4, 4), lambda: Net(
        lambda m, x: (g := m.r(x).softmax(1))[:, :1] * m.a + g[:, 1] * m.b + m.s, r=nn.Linear(4, 2), a=(1,), b=(1,),
        s=(1,)), 5),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_every_translation_is_found_and_none_is_made_up(name: str) -> None:
    shape, build, dimension = NETS[name]
    check_exactly(Case(name, build, (shape,), "output", ()), dimension)
