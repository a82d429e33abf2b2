"""What an energy may do and what not, at the borders: of 0, of a batch's size, of what can be traced."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.errors import PhysicsError
from neuromech.physics import EnergyModel, Symplectic, discrete_gradient, rollout
from neuromech.physics.energy import losses, reductions

pytestmark = pytest.mark.usefixtures("float64")
TARGET = torch.linspace(-1, 1, 5 * 6, dtype=torch.float64).reshape(5, 6)
CLASSES = torch.tensor([0, 3, 5, 1, 1])


def residual(energy: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> float:
    terms = (discrete_gradient(energy)(u, v) * (u - v)).sum(1)
    return float((terms - (energy(u) - energy(v))).abs().max())


@pytest.mark.parametrize(
    "energy",
    [
        lambda u: (u - TARGET).square().sum(1),
        lambda u: F.cross_entropy(u, CLASSES, reduction="none"),
        lambda u: u[torch.arange(5), CLASSES] ** 3,
        lambda u: torch.cat([u, TARGET], 1).tanh().prod(1),
        lambda u: u.square().sum(1) / len(u),
    ],
)
def test_what_is_held_for_each_sample_serves_batches_of_its_size(energy: Callable[[Tensor], Tensor]) -> None:
    assert residual(energy, *torch.randn(2, 5, 6)) < 1e-14


def test_another_number_of_samples_than_the_energy_holds_targets_for_is_told() -> None:
    dg = discrete_gradient(lambda u: (u - TARGET).square().sum(1))
    dg(*torch.randn(2, 5, 6))
    with pytest.raises(PhysicsError, match=r"batches of 5 samples and fails for one of 3.*condition"):
        dg(*torch.randn(2, 3, 6))


def test_a_model_of_targets_is_rolled_out() -> None:
    class Springs(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return (u - TARGET).square().sum(1) + u.pow(4).sum(1)

    model = EnergyModel(Springs(), Symplectic())
    energies = model.energy(rollout(model, TARGET.flip(0), 0.1, 5).u[-1]) - model.energy(TARGET.flip(0))
    assert float(energies.abs().max()) < 1e-13


def test_a_trace_that_takes_another_way_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The first way, of any size of batch, is not open to torch's `_trilinear`, of which it wrote a traceback."""
    w, trilinear = torch.randn(1, 2, 2), torch.ops.aten._trilinear
    dg = discrete_gradient(lambda u: trilinear(u[:, :2], w, u[:, 2:], [1, 3], [0], [1, 2], [2, 3])[:, 0])
    u, v = torch.randn(2, 3, 4)
    assert dg(u, v).shape == (3, 4)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("energy", "match"),
    [
        (
            lambda u: u.new_zeros(len(u), 6).scatter_add(1, torch.zeros(len(u), 3, dtype=torch.long), u).sum(1),
            r"^autograd cannot differentiate the energy; cut the source of a scatter to the shape of its index \(",
        ),
        (lambda u: torch.as_tensor(u.numpy()).sum(1), r"^the energy fails for .* that require gradients \("),
        (lambda u: u[u > 0].sum() + u.sum(), r"."),
    ],
)
def test_what_cannot_be_traced_is_told_in_a_sentence(energy: Callable[[Tensor], Tensor], match: str) -> None:
    with pytest.raises(PhysicsError, match=match) as caught:
        discrete_gradient(energy)(*torch.randn(2, 5, 6))
    assert len(str(caught.value)) < 350
    assert "\n" not in str(caught.value)


def test_the_users_own_errors_stay_what_they_are() -> None:
    with pytest.raises(IndexError) as caught:
        discrete_gradient(lambda u: u[:, 13])(*torch.randn(2, 5, 6))
    assert "(5, 6)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: torch.special.entr(x).sum(1),
        lambda x: torch.xlogy(x, x).sum(1),
        lambda x: torch.xlogy(torch.zeros(6), x).sum(1),
        lambda x: torch.special.xlog1py(torch.zeros(6), x - 1).sum(1),
        lambda x: F.binary_cross_entropy(x, torch.full_like(x, 0.3), reduction="none").sum(1),
    ],
)
def test_of_0_is_0_and_not_nan(energy: Callable[[Tensor], Tensor]) -> None:
    u, v = torch.rand(2, 5, 6)
    u[:2, :3], v[:, 1], u[3, 3], v[3, 3] = 0.0, 0.0, 1e-300, 0.0
    assert residual(energy, u, v) < 1e-13
    u.requires_grad_()
    (through,) = torch.autograd.grad(discrete_gradient(energy)(u[2:], v[2:]).square().sum(), u)
    assert torch.isfinite(through[4:]).all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_are_those_of_torch(reduction: str) -> None:
    k = ["none", "mean", "sum"].index(reduction)
    x, y, w = torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5)), torch.rand(3)
    y[0, 0] = 2
    p, bits = torch.rand(4, 3), torch.rand(4, 3).round()
    for smoothing in (0.0, 0.3):
        for weight in (None, w):
            ours = losses.cross_entropy(x, y, weight, k, 2, smoothing)
            theirs = F.cross_entropy(x, y, weight, ignore_index=2, label_smoothing=smoothing, reduction=reduction)
            torch.testing.assert_close(ours, theirs)
            soft = torch.rand_like(x).softmax(1)
            ours = losses.cross_entropy(x, soft, weight, k, -100, smoothing)
            theirs = F.cross_entropy(x, soft, weight, label_smoothing=smoothing, reduction=reduction)
            torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(
                losses.nll(x, y, weight, k, 2)[0], F.nll_loss(x, y, weight, ignore_index=2, reduction=reduction)
            )
    torch.testing.assert_close(
        losses.binary_cross_entropy(p.round(), bits, w, k),
        F.binary_cross_entropy(p.round(), bits, w, reduction=reduction),
    )
    torch.testing.assert_close(
        losses.soft_margin(40 * x, x.sign(), k), F.soft_margin_loss(40 * x, x.sign(), reduction=reduction)
    )
    for p in (1, 2):
        torch.testing.assert_close(
            losses.multi_margin(x[:, :, 0], y[:, 0], p, 0.7, w, k),
            F.multi_margin_loss(x[:, :, 0], y[:, 0], p, 0.7, w, reduction=reduction),
        )


@pytest.mark.parametrize("settings", [(2,), (3, 2, 1), (3, 1, 1, 2), (2, 2, 1, 1, True), (3, 2, 0, 1, True)])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pools_are_those_of_torch(axes: int, settings: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *[7, 6, 8][:axes])
    theirs = getattr(F, f"max_pool{axes}d")(x, *settings, return_indices=True)
    ours = reductions.max_pool(axes, True)(x, *[[s] if k < 4 else s for k, s in enumerate(settings)])
    torch.testing.assert_close(ours, theirs)
    size = [3, 6, 5][:axes]
    theirs = getattr(F, f"adaptive_max_pool{axes}d")(x, size, return_indices=True)
    torch.testing.assert_close(reductions.adaptive_max_pool(x, size), theirs)
