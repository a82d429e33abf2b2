"""Noether's theorem for one gradient, on real models: true ones pass in every precision, wrong ones do not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.silent_bugs.nets import Watched, steps
from neuromech.monitor.torque import Charges, TorqueJudge, TorqueMeter, Torques, broken_families, penalty
from neuromech.symmetry import Symmetry

Params = dict[str, nn.Parameter]


def net(dtype: torch.dtype) -> tuple[nn.Module, tuple[Symmetry, ...], Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 5)
    ).to(dtype)
    x, y = torch.randn(32, 1, 6, 6, dtype=dtype), torch.randint(0, 5, (32,))
    found = neuromech.find_symmetries(model, x, F.cross_entropy, y)
    return model, tuple(found.symmetries), x, y


def gradients(model: nn.Module, loss: Tensor) -> tuple[Params, dict[str, Tensor]]:
    params = dict(model.named_parameters())
    return params, dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def measured(dtype: torch.dtype, spoil: object = None) -> tuple[Torques, Tensor, TorqueMeter]:
    model, symmetries, x, y = net(dtype)
    params, grads = gradients(model, F.cross_entropy(model(x), y))
    if callable(spoil):
        spoil(params, grads)
    meter = TorqueMeter(symmetries, params)
    found = meter(params, grads)
    return found, TorqueJudge(meter)(found, torch.finfo(dtype).eps), meter


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_true_gradients_pass_and_wrong_ones_do_not(dtype: torch.dtype) -> None:
    assert float(measured(dtype)[1].max()) < 0.1
    bent = measured(dtype, lambda p, g: g["4.weight"].add_(p["4.weight"].detach(), alpha=1.0))[1]
    assert float(bent.max()) > 1


def test_against_the_generators() -> None:
    """The slow oracle: <g, v> with v from `Symmetry.generator`, member by member."""
    model, symmetries, x, _ = net(torch.float64)
    live, grads = gradients(model, (model(x) ** 2).mean())  # breaks translation of the output
    params = {n: p.detach() for n, p in live.items()}
    found, meter = TorqueMeter(symmetries, params)(params, grads), TorqueMeter(symmetries, params)
    for s, rows in zip(symmetries, meter.slices, strict=True):
        for i in range(s.size):
            v = s.generator(params, i)
            torque = sum(float((grads[n] * d).sum()) for n, d in v.items())
            assert float(found.torque[rows][i]) == pytest.approx(torque, rel=1e-9, abs=1e-12)
            size = sum(float(d.square().sum()) for d in v.values()) ** 0.5
            length = sum(float(grads[n].square().sum()) for n in v) ** 0.5
            assert abs(torque) <= size * length * (1 + 1e-12)
        assert torch.allclose(found.charge[rows], s.charge(params))


def test_a_penalty_is_recognised_with_its_coefficient() -> None:
    def add(p: Params, g: dict[str, Tensor]) -> None:
        for n in g:
            g[n] += 0.003 * p[n].detach()

    found, excess, _ = measured(torch.float64, add)
    assert penalty(found, excess) == pytest.approx(0.003, rel=1e-3)
    found, excess, _ = measured(torch.float64, lambda p, g: g["4.weight"].mul_(1.5))
    assert penalty(found, excess) is None


def test_families_that_are_broken_point_at_the_place() -> None:
    _, excess, meter = measured(torch.float64, lambda p, g: g["4.weight"][3, 7].add_(1.0))
    broken = broken_families(excess, meter.slices)
    names = [meter.symmetries[i].name for i in broken]
    assert len(broken) == 2
    assert all("4.weight" in name for name in names)
    assert all(members == 1 for members, _ in broken.values())


def test_rounding_that_stays_while_gradients_shrink_is_no_fault() -> None:
    """Gradients fall by 1e9, their rounding does not: a loss that is fitted perfectly."""
    model, symmetries, x, y = net(torch.float32)
    params, grads = gradients(model, F.cross_entropy(model(x), y))
    meter = TorqueMeter(symmetries, params)
    judge, noise = TorqueJudge(meter), torch.Generator().manual_seed(0)
    for k in range(60):
        now = {n: g * 0.7**k + 1e-7 * g.abs().max() * torch.randn(g.shape, generator=noise) for n, g in grads.items()}
        assert float(judge(meter(params, now), 1.2e-7).max()) <= 1
    wrong = {n: g + (g.abs().max() if n == "4.weight" else 0) for n, g in grads.items()}
    assert float(judge(meter(params, wrong), 1.2e-7).max()) > 1


def test_no_symmetries() -> None:
    params = {"w": nn.Parameter(torch.ones(3))}
    meter = TorqueMeter((), params)
    found = meter(params, {"w": torch.ones(3)})
    assert found.gradients.tolist() == [3.0]
    assert TorqueJudge(meter)(found, 1e-7).numel() == 0


def test_the_quick_measure_agrees_and_never_calls_a_size_larger() -> None:
    model, symmetries, x, y = net(torch.float64)
    params, grads = gradients(model, F.cross_entropy(model(x), y))
    meter = TorqueMeter(symmetries, params)
    whole = meter(params, grads)
    scale = torch.cat([torch.zeros(s.size) if s.is_linear else _squares(s, params) for s in symmetries])
    quick = meter.quick(params, grads, Charges(whole.charge, scale))
    assert torch.allclose(quick.torque, whole.torque)
    assert torch.allclose(quick.gradients, whole.gradients)
    assert bool((quick.size <= whole.size).all())
    judge, eps = TorqueJudge(meter), torch.finfo(torch.float32).eps
    judge(whole, eps)
    assert not judge.suspects(quick, eps)
    grads["4.weight"].add_(params["4.weight"].detach())
    assert judge.suspects(meter.quick(params, grads, Charges(whole.charge, scale)), eps)


def _squares(s: Symmetry, params: Params) -> Tensor:
    """The slow oracle of a scale: sum of |weight| theta^2, member by member."""
    values = {n: p.detach() for n, p in params.items()}
    found = [{n: (d * values[n]).abs().sum() for n, d in s.generator(values, i).items()} for i in range(s.size)]
    return torch.stack([torch.stack(list(parts.values())).sum() for parts in found])


class BehindZero(nn.Module):
    """Gemma 3n's branch: what is normalised begins at zero, far below the eps of the norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.gate = nn.Linear(12, 12), nn.Parameter(torch.zeros(12))
        self.inner, self.norm, self.head = nn.Linear(12, 12, bias=False), nn.RMSNorm(12, eps=1e-6), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        return self.head(h + self.norm(self.inner(self.gate * h)))


@pytest.mark.parametrize("lr", [1e-4, 1e-3, 1e-2])
def test_a_norm_whose_input_begins_at_zero_accuses_nobody(lr: float) -> None:
    model = BehindZero()
    watched = Watched(model)
    steps(watched, model, torch.optim.AdamW(model.parameters(), lr=lr), 40)
    assert any(s.broken_by and "inner" in s.name for s in watched.probe.symmetries)
    assert not watched.faults
