"""What is read off an optimizer."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neuromech.dynamics import Drift, Motion, Settings, law_of, read, regime


def parameters(n: int = 2) -> list[nn.Parameter]:
    out = [nn.Parameter(torch.ones(2)) for _ in range(n)]
    for p in out:
        p.grad = torch.ones(2)
    return out


class Inherits(torch.optim.SGD):
    pass


class Overrides(torch.optim.SGD):
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        return super().step(closure)


class Unknown(torch.optim.Optimizer):
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        pass


def test_exact_law_is_claimed_for_sgd_and_what_leaves_its_step_alone() -> None:
    for cls in (torch.optim.SGD, Inherits):
        optimizer = cls(parameters(), lr=0.1)
        assert law_of(optimizer) == "exact"
        optimizer.register_step_pre_hook(lambda *args: None)
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        assert law_of(optimizer) == "exact"
        assert law_of(copy.deepcopy(cls(parameters(), lr=0.1))) == "exact"


def test_exact_law_is_not_claimed_for_anything_else() -> None:
    patched = torch.optim.SGD(parameters(), lr=0.1)
    patched.step = lambda closure=None: None  # type: ignore[method-assign]
    others = [Overrides(parameters(), lr=0.1), Unknown(parameters(), {"lr": 0.1})]
    assert {law_of(optimizer) for optimizer in (patched, *others)} == {"measured"}
    rebuilt = (torch.optim.Adam, torch.optim.AdamW, torch.optim.Adadelta)
    assert {law_of(cls(parameters())) for cls in rebuilt} == {"rebuilt"}


def test_read_tells_what_moves_and_how() -> None:
    a, b, c, d = parameters(4)
    groups = [{"params": [a], "lr": torch.tensor(0.25)}, {"params": [b, c], "momentum": 0.5, "nesterov": True}]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=torch.tensor(0.5))  # type: ignore[arg-type]
    c.grad = None
    names = {a: "a", b: "b", c: "c", d: "d"}
    assert read(optimizer, names) == {
        "a": Motion(Settings(0.25, weight_decay=0.5), None),
        "b": Motion(Settings(0.1, 0.5, weight_decay=0.5, nesterov=True), None),
    }
    assert read(optimizer, names)["b"].first
    optimizer.step()
    motions = read(optimizer, names)
    assert motions["b"].buffer is optimizer.state[b]["momentum_buffer"]
    assert not motions["b"].first
    assert not motions["a"].first
    assert not optimizer.state.keys() - {a, b}  # reading leaves no trace


def test_read_of_an_unknown_optimizer_says_only_that_it_moves() -> None:
    a, b = parameters()
    assert read(Unknown([a], {"lr": 0.1}), {a: "a", b: "b"}) == {"a": Motion(Drift())}


def test_settings_that_torch_ignores_make_no_difference() -> None:
    assert Settings(0.1, dampening=0.5) == Settings(0.1)
    assert Settings(0.1, 0.9, dampening=0.5) != Settings(0.1, 0.9)


def test_fused_step_under_a_scaler_is_read_unscaled_or_not_at_all() -> None:
    a, b = parameters()
    optimizer = torch.optim.SGD([a, b], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    seen = []
    optimizer.register_step_pre_hook(lambda opt, *args: seen.append(read(opt, {a: "a", b: "b"})))
    for value in (1.0, torch.inf):
        a.grad = torch.full((2,), value)
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)
        scaler.update()
    assert [set(motions) for motions in seen] == [{"a", "b"}, set()]
    settings = seen[0]["a"].settings
    assert isinstance(settings, Settings)
    assert settings.gradient_factor == pytest.approx(1 / 8)


@given(
    lr=st.floats(1e-3, 1.0),
    momentum=st.floats(0.01, 0.999),
    weight_decay=st.floats(0.0, 1.0),
    dampening=st.floats(0.0, 0.9),
    nesterov=st.booleans(),
    degree=st.sampled_from([1, 2]),
)
def test_regime_is_that_of_the_eigenvalues(lr, momentum, weight_decay, dampening, nesterov, degree) -> None:  # type: ignore[no-untyped-def]
    settings = Settings(lr, momentum, 0.0 if nesterov else dampening, weight_decay, nesterov)
    gamma, omega2 = settings.oscillator(degree)
    roots = torch.linalg.eigvals(torch.tensor([[0.0, 1.0], [-omega2, -2 * gamma]], dtype=torch.float64))
    name = regime(gamma, omega2)
    if name == "underdamped":
        assert roots.imag.abs().min() > 0
    elif name == "overdamped":
        assert roots.imag.abs().max() < 1e-7
    assert (name == "free") == (omega2 == 0)


def test_regime_names_the_meeting_point() -> None:
    assert [regime(0.5, x) for x in (0.0, 0.1, 0.25, 0.3)] == ["free", "overdamped", "critical", "underdamped"]
    assert regime(0.1, 0.1**2) == "critical"
