"""Models that train inside of `torch.func`: no backward is seen, and no forward with values; charges are followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import neuromech
from neuromech.compat import outside_of_modes, untransformed
from neuromech.errors import NeuromechWarning

X, Y = torch.randn(8, 6, dtype=torch.float64), torch.arange(8) % 3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def loss_of(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    return lambda params, x, y: F.cross_entropy(functional_call(model, params, (x,)), y)


def by_backward(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def by_samples(model: nn.Module, x: Tensor, y: Tensor) -> None:
    held = {name: p.detach() for name, p in model.named_parameters()}

    def single(params: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
        return loss_of(model)(params, a[None], b[None])

    each = torch.vmap(torch.func.grad(single), (None, 0, 0))(held, x, y)
    for name, p in model.named_parameters():
        p.grad = each[name].mean(0)


def by_grad(model: nn.Module, x: Tensor, y: Tensor) -> None:
    held = {name: p.detach() for name, p in model.named_parameters()}
    for name, g in torch.func.grad(loss_of(model))(held, x, y).items():
        model.get_parameter(name).grad = g


def trained(gradients: Callable[[nn.Module, Tensor, Tensor], None]) -> neuromech.Probe:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    probe = neuromech.instrument(model)
    probe.monitor()
    for _ in range(6):
        gradients(model, X, Y)
        optimizer.step()
    return probe


@pytest.mark.parametrize("gradients", [by_samples, by_grad])
def test_charges_are_those_of_a_backward(gradients: Callable[[nn.Module, Tensor, Tensor], None]) -> None:
    probe, usual = trained(gradients), trained(by_backward)
    rescale = [s for s in usual.symmetries if s.kind == "rescale"]
    assert [s.name for s in probe.symmetries] == [s.name for s in rescale]  # what cross entropy does not see, it may
    assert all(s.defect is not None and s.defect < 1e-12 for s in probe.symmetries)
    there = usual.history[usual.history["symmetry"].isin([usual.symmetries.index(s) for s in rescale])]
    torch.testing.assert_close(
        torch.tensor(probe.history["observed"].to_numpy()), torch.tensor(there["observed"].to_numpy())
    )
    assert (probe.history["exact"] - probe.history["observed"]).abs().max() < 1e-12
    assert probe.monitor().step == 6
    assert not probe.monitor().faults


def test_what_is_only_looked_at_in_a_transform_is_not_what_trains() -> None:
    model = net()
    optimizer, probe = torch.optim.SGD(model.parameters(), lr=0.1), neuromech.instrument(model)
    held = {name: p.detach() for name, p in model.named_parameters()}
    torch.func.grad(loss_of(model))(held, X[:2], Y[:2])
    by_backward(model, X, Y)
    optimizer.step()
    assert {s.kind for s in probe.symmetries} == {"rescale", "translation"}


def test_parts_that_train_are_no_model_that_ran_in_a_transform() -> None:
    model = net()
    optimizer, probe = torch.optim.SGD(model.parameters(), lr=0.1), neuromech.instrument(model)
    torch.func.grad(loss_of(model))({name: p.detach() for name, p in model.named_parameters()}, X, Y)
    first, _, last = model

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(last(first(X).tanh()), Y).backward()
        optimizer.step()

    with pytest.warns(NeuromechWarning, match="NM-no-forward"):
        step()
    step()
    assert not [s for s in probe.symmetries if s.kind == "rescale"]


def test_noise_on_gradients_that_no_backward_brought_is_no_fault() -> None:
    model = net()
    optimizer, probe = torch.optim.SGD(model.parameters(), lr=0.1), neuromech.instrument(model)
    monitor = probe.monitor()
    for _ in range(3):
        gradients = torch.autograd.grad(F.cross_entropy(model(X), Y), list(model.parameters()))
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g + 0.01 * torch.randn_like(g)
        optimizer.step()
    assert monitor.step == 3
    assert not monitor.faults
    assert (probe.history["exact"] - probe.history["observed"]).abs().max() < 1e-12


def test_the_value_behind_transforms() -> None:
    x, seen = torch.randn(4, 3, 5, 2), []

    def look(t: Tensor) -> Tensor:
        with outside_of_modes():
            seen.append(untransformed(t))
        return t.sum()

    torch.vmap(torch.func.grad(lambda t: torch.vmap(look, 1)(t).sum()), 2)(x)
    torch.testing.assert_close(seen[0], x[:, 0, 0], rtol=0, atol=0)
