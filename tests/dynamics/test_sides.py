"""Both sides of a rescaling, against sums written out; and the noise equilibrium that they come to."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn

import neuromech


def net(width: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3, bias=False)).double()


def two_rates(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The sides of a rescaling move differently: it is split into parts."""
    first, *rest = params
    return torch.optim.SGD([{"params": [first], "lr": 0.01}, {"params": rest}], lr=0.1)


@pytest.mark.parametrize("make", [lambda ps: torch.optim.SGD(ps, 0.1), torch.optim.Adam, two_rates])
def test_they_are_the_sums_over_each_side(make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> None:
    model = net()
    probe = neuromech.instrument(model)
    optimizer = make(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4, dtype=torch.float64)).square().sum().backward()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    (last,) = probe.norms.query("step == 3 and equipartition > 0").to_dict("records")

    def up(x: dict[str, torch.Tensor]) -> float:
        return float(x["0.weight"].square().sum() + x["0.bias"].square().sum())

    down = float(grads["2.weight"].square().sum())
    ways = up(grads) / down, down / up(grads)
    assert min(abs(last["equipartition"] / way - 1) for way in ways) < 1e-12
    assert last["norm"] ** 2 == pytest.approx(up(before) + float(before["2.weight"].square().sum()), rel=1e-12)


@pytest.mark.slow
def test_noise_brings_the_sides_to_the_same_energy() -> None:
    """A linear pair under label noise, far from balance at first (Ziyin et al. 2024)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[2].weight.fill_(0.5)
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(400):
        x = torch.rand(4, 1, dtype=torch.float64) + 0.5
        y = x + torch.randn(4, 1, dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    rows = probe.norms.query("equipartition > 0")["equipartition"]
    away = (rows.apply(lambda x: max(x, 1 / x))).to_numpy()
    assert away[:8].mean() > 4
    assert away[-8:].mean() < 1.5


def test_few_steps_are_measured() -> None:
    from neuromech.dynamics import Sides

    symmetries = neuromech.find_symmetries(net(), torch.zeros(2, 4, dtype=torch.float64)).symmetries
    sides = Sides(symmetries, [slice(0, s.size) for s in symmetries])
    assert sum(sides.due(k) for k in range(1, 4097)) <= 8 * 13
    assert all(sides.due(k) for k in range(1, 16))
