"""Operators with derivatives of our own: against differences, against torch's, and where they have to stand aside."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neuromech import EoMError, EoMOptimizer
from neuromech.eom import Point, as_function
from neuromech.eom.decompositions import mathematical
from neuromech.eom.double_backward import batch_norm, convolution, relu
from neuromech.params import norm
from tests.families import fast

from .cases import distance, squares


def normed(shape):
    x, weight, bias = (torch.randn(s).double().requires_grad_() for s in (shape, shape[1:2], shape[1:2]))
    return lambda x, w, b: batch_norm.batch_norm(x, w, b, None, None, 0.1, 1e-5).sin(), (x, weight, bias)


def convolved(axes, stride, padding, dilation, groups):
    x, weight, bias = torch.randn(2, 4, *[5] * axes), torch.randn(6, 4 // groups, *[2] * axes), torch.randn(6)
    options = ([stride] * axes, [padding] * axes, [dilation] * axes, groups)
    return lambda *t: convolution.convolution(*t, *options).sin(), tuple(
        t.double().requires_grad_() for t in (x, weight, bias)
    )


def rectified():
    return lambda x: relu(x.sin()).sin(), (torch.randn(7).double().requires_grad_(),)


CASES = {
    "batch norm of rows": lambda: normed((6, 3)),
    "batch norm of planes": lambda: normed((3, 2, 2, 3)),
    "convolution of lines": lambda: convolved(1, 1, 0, 1, 1),
    "convolution of planes": lambda: convolved(2, 2, 1, 2, 2),
    "convolution of volumes": lambda: convolved(3, 2, 1, 1, 2),
    "relu": rectified,
}


@pytest.mark.parametrize("name", fast(CASES, set(CASES) - {"convolution of volumes"}))
def test_two_derivatives_are_right_and_a_third_raises(name: str) -> None:
    torch.manual_seed(0)
    f, inputs = CASES[name]()
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)
    first = torch.autograd.grad(f(*inputs).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        torch.autograd.grad(sum(g.sum() for g in second), inputs)


NETS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2, stride=2)),
    "in place": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "no gain": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
    "evaluating": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU()),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("frozen", [False, True])
def test_products_are_torch_s_own(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model, x = NETS[name]().double(), torch.randn(6, 2, 6, 6).double()
    model[0].weight.requires_grad_(not frozen)
    loss, params = as_function(model, squares, x, torch.randn(model(x).shape).double())
    if not params or all(not p.requires_grad for p in model.parameters()):
        return  # nothing is left to move
    v = {n: torch.randn_like(p) for n, p in params.items()}
    point = Point(loss, params, "reverse")
    live = {n: p.clone().requires_grad_() for n, p in params.items()}
    first = torch.autograd.grad(loss(live), list(live.values()), create_graph=True)
    wanted = torch.autograd.grad(first, list(live.values()), list(v.values()), allow_unused=True)
    theirs = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), wanted, strict=True)}
    assert distance(point.hvp(v), theirs) < 1e-12 * max(1.0, float(norm(theirs)))


def test_running_averages_are_torch_s_own() -> None:
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    with mathematical("twice"):
        first = ours(x)
    torch.testing.assert_close(first, theirs(x), rtol=0, atol=0)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with mathematical("twice"), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.randn(1, 3))


def checkpointed(order: int, checkpoints: bool) -> nn.Module:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)).double()
    x = torch.randn(8, 2, 6, 6).double()
    optimizer = EoMOptimizer(torch.optim.SGD(block.parameters(), lr=0.1), order)

    def closure():
        return (checkpoint(block, x, use_reentrant=False) if checkpoints else block(x)).sin().square().mean()

    for _ in range(3):
        optimizer.step(closure)
    return block


def test_checkpoints_are_left_alone() -> None:
    ends = [list(checkpointed(1, checkpoints).parameters()) for checkpoints in (False, True)]
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    with pytest.raises(EoMError, match="no checkpoints"):
        checkpointed(2, True)


def test_transforms_of_functions_are_left_alone() -> None:
    """An ensemble: one loss that maps a network over stacked parameters."""
    torch.manual_seed(0)
    model, x = NETS["plain"]().double(), torch.randn(6, 2, 6, 6).double()
    model[1].track_running_stats, model[1].running_mean, model[1].running_var = False, None, None
    model[1].num_batches_tracked = None
    stacked = {n: torch.stack([p.detach(), p.detach() + 0.1]) for n, p in model.named_parameters()}

    def ensemble(params):
        one = lambda p: torch.func.functional_call(model, p, (x,)).square().mean()  # noqa: E731
        return torch.func.vmap(one)(params).sum()

    exact, rough = Point(ensemble, stacked, "reverse"), Point(ensemble, stacked, "difference")
    v = exact.gradient
    assert distance(exact.hvp(v), rough.hvp(v)) < 1e-6 * float(norm(exact.hvp(v)))


def test_autocast_is_obeyed() -> None:
    model, x = NETS["plain"](), torch.randn(6, 2, 6, 6)
    other = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.mse_loss(model(x).float(), torch.zeros(()).expand(6, 3, 2, 2))
    optimizer = EoMOptimizer(torch.optim.SGD(other.parameters(), lr=0.1))

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            return F.mse_loss(other(x).float(), torch.zeros(()).expand(6, 3, 2, 2))

    assert float(optimizer.step(closure)) == float(plain.detach())
