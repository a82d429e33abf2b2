"""Optimizers on a hypersphere, written here from their papers: their law, and a charge that stays as it is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import Optimizer

import neuromech
from neuromech.compat import muon_direction
from neuromech.dynamics import law_of
from neuromech.optimizers import optimizer_table, rule_of


class AdamH(Optimizer):
    def __init__(self, params: Any, lr: float = 1e-2, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def direction(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> Tensor:
        g, (b1, b2) = p.grad, group["betas"]
        assert g is not None
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        state["exp_avg"].lerp_(g, 1 - b1)
        state["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
        k = state["step"]
        return state["exp_avg"] / (1 - b1**k) / ((state["exp_avg_sq"] / (1 - b2**k)).sqrt() + group["eps"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                u, length = self.direction(p, group, self.state[p]), torch.linalg.norm(p)
                new = p - group["lr"] * length * u / torch.linalg.norm(u)
                p.copy_(length * new / torch.linalg.norm(new))


class MuonH(AdamH):
    def __init__(self, params: Any, lr: float = 1e-2, momentum: float = 0.9, nesterov: bool = True):
        ours = {"ns_coefficients": (3.4445, -4.775, 2.0315), "ns_steps": 5, "eps": 1e-7}
        Optimizer.__init__(self, params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, **ours})

    def direction(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> Tensor:
        g, mu = p.grad, group["momentum"]
        assert g is not None
        state.setdefault("momentum_buffer", torch.zeros_like(p)).lerp_(g, 1 - mu)
        buffer = state["momentum_buffer"]
        mixed = g.lerp(buffer, mu) if group["nesterov"] else buffer
        return muon_direction(mixed, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(p.dtype)

    step = AdamH.step


class Matrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.w / self.w.norm()).T


@pytest.mark.parametrize(("cls", "told"), [(AdamH, {}), (MuonH, {}), (MuonH, {"nesterov": False})])
@pytest.mark.parametrize("steps", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_law_holds_and_the_charge_is_constant(cls: type[Optimizer], told: dict[str, Any], steps: int) -> None:
    torch.manual_seed(0)
    model = Matrix()
    optimizer = cls(model.parameters(), **told)  # type: ignore[call-arg]
    rule = rule_of(optimizer)
    assert rule is not None
    assert rule.key == cls.__name__
    assert law_of(optimizer) == "rebuilt"
    probe = neuromech.instrument(model)
    begun = model.w.detach().clone()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(16, 8, dtype=torch.float64)), torch.randint(0, 6, (16,))).backward()
        optimizer.step()
    rows = probe.history.query("member < 0 and name == 'w'")
    assert float(rows["residual"].max()) <= 1e-12
    charge = rows["observed"].to_numpy()
    assert abs(charge / charge[0] - 1).max() <= 1e-12
    assert float((model.w.detach() - begun).norm()) > 0.1
    assert abs(float(probe.norms["angle"].iloc[-1]) / 0.01 - 1) < 0.05


def test_they_are_in_the_table() -> None:
    assert {"AdamH", "MuonH"} <= {row.name for row in optimizer_table()}
