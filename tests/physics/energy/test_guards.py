"""The promise under change: whatever becomes of an energy after its first call, its discrete gradient follows."""

import functools
import itertools
import random
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics import EnergyModel, MLPEnergy, Structure, Symplectic, discrete_gradient, rollout
from neuromech.physics.energy.guards import facts
from tests.families import fast

SCALE = 1.0  # a global that an energy reads


pytestmark = pytest.mark.usefixtures("float64")


class Knobs:
    """A plain object with a method, a slot of settings, and an attribute of its class."""

    power = 1.0

    def __init__(self) -> None:
        self.gain = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.gain * self.power * x


class Versatile(nn.Module):
    """Reads whatever a module can read."""

    level = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Dropout(0.5), nn.Softplus())
        self.last = nn.Linear(8, 1)
        self.beta, self.settings, self.factors = 1.0, {"a": 1.0, "b": [1.0, 2.0]}, [1.0, 1.0]
        self.space = types.SimpleNamespace(c=1.0)
        self.array, self.loose, self.knobs = np.ones(3), torch.ones(6), Knobs()
        self.scaled = functools.partial(torch.mul, 1.0)
        self.switch = False
        self.eval()

    def stiffness(self) -> float:
        return self.beta * self.settings["a"] * self.settings["b"][1] * self.factors[0] * self.space.c * self.level

    def forward(self, u: Tensor) -> Tensor:
        h = self.last(self.body(u * self.loose)).squeeze(-1)
        h = h * float(self.array[0]) + self.knobs(self.scaled(u)).sum(-1) + (u * u).sum(-1) * SCALE
        return (-h if self.switch else h) * self.stiffness()


def residual(energy: Callable[[Tensor], Tensor], dg: Callable[[Tensor, Tensor], Tensor]) -> float:
    u, v = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).unbind(0)
    with torch.no_grad():
        terms, at_u, at_v = dg(u, v) * (u - v), energy(u), energy(v)
    return float(((terms.sum(1) - (at_u - at_v)).abs() / (terms.abs().sum(1) + at_u.abs() + at_v.abs())).max())


def _set_global(r: random.Random) -> None:
    globals()["SCALE"] = r.uniform(1, 3)


def _times(k: float) -> Callable[..., Any]:
    return lambda module, x, y: k * y


def _swap(m: nn.Sequential, k: int, other: nn.Module) -> None:
    m[k] = other


MUTATIONS: dict[str, Callable[[Versatile, random.Random], Any]] = {
    "attribute": lambda m, r: setattr(m, "beta", r.uniform(1, 3)),
    "switch": lambda m, r: setattr(m, "switch", not m.switch),
    "dict": lambda m, r: m.settings.update(a=r.uniform(1, 3)),
    "nested list": lambda m, r: m.settings["b"].__setitem__(1, r.uniform(1, 3)),
    "list": lambda m, r: m.factors.__setitem__(0, r.uniform(1, 3)),
    "namespace": lambda m, r: setattr(m.space, "c", r.uniform(1, 3)),
    "array in place": lambda m, r: m.array.__setitem__(0, r.uniform(1, 3)),
    "array": lambda m, r: setattr(m, "array", np.full(3, r.uniform(1, 3))),
    "loose tensor": lambda m, r: setattr(m, "loose", torch.full((6,), r.uniform(1, 3))),
    "loose tensor in place": lambda m, r: m.loose.fill_(r.uniform(1, 3)),
    "object": lambda m, r: setattr(m.knobs, "gain", r.uniform(1, 3)),
    "class of the object": lambda m, r: setattr(Knobs, "power", r.uniform(1, 3)),
    "own class": lambda m, r: setattr(Versatile, "level", r.uniform(1, 3)),
    "partial": lambda m, r: setattr(m, "scaled", functools.partial(torch.mul, r.uniform(1, 3))),
    "method": lambda m, r: setattr(m, "stiffness", functools.partial(float, r.uniform(1, 3))),
    "activation": lambda m, r: _swap(m.body, 1, r.choice([nn.Tanh, nn.Softplus, nn.SiLU, nn.GELU, nn.Sigmoid])()),
    "beta of softplus": lambda m, r: m.body.__setitem__(4, nn.Softplus(beta=r.uniform(1, 3))),
    "attribute of a part": lambda m, r: setattr(m.body[4], "beta", r.uniform(1, 3)),
    "layer": lambda m, r: _swap(m.body, 2, nn.Linear(8, 8)),
    "layer of another width": lambda m, r: (_swap(m.body, 0, nn.Linear(6, 9)), _swap(m.body, 2, nn.Linear(9, 8))),
    "one more layer": lambda m, r: _swap(m.body, 3, nn.Sequential(nn.Linear(8, 8), nn.Tanh())),
    "weight": lambda m, r: setattr(m.last, "weight", nn.Parameter(torch.randn(1, 8))),
    "weight in place": lambda m, r: m.last.weight.data.mul_(r.uniform(1, 3)),
    "bias away": lambda m, r: setattr(m.last, "bias", None),
    "state": lambda m, r: m.load_state_dict({k: v * r.uniform(1, 2) for k, v in m.state_dict().items()}),
    "hook": lambda m, r: m.last.register_forward_hook(_times(r.uniform(1, 3))),
    "pre-hook": lambda m, r: m.body.register_forward_pre_hook(lambda mod, x: (x[0] * 1.5,)),
    "parametrization": lambda m, r: nn.utils.parametrizations.weight_norm(m.body[2]),
    "forward of a part": lambda m, r: setattr(m.body[1], "forward", lambda x: torch.sin(x)),
    "global": lambda m, r: _set_global(r),
    "requires grad": lambda m, r: m.last.requires_grad_(False),
    "mode": lambda m, r: m.body[4].train(not m.body[4].training),
    "copy of a part": lambda m, r: m.__setattr__("knobs", Knobs()),
}


# One for each way in which what was read can change; the others run with the slow tests.
WAYS = {
    "attribute", "mode",
}  # fmt: skip


@pytest.fixture
def _restored() -> Any:
    yield
    Knobs.power, Versatile.level = 1.0, 1.0
    globals()["SCALE"] = 1.0


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("name", fast(MUTATIONS, WAYS))
def test_each_mutation(name: str) -> None:
    torch.manual_seed(0)
    m = Versatile()
    dg, r = discrete_gradient(m), random.Random(name)
    assert residual(m, dg) < 1e-13
    MUTATIONS[name](m, r)
    assert residual(m, dg) < 1e-13


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(("seed", "many"), fast([(10, 2), *((seed, 20) for seed in range(10))], [(10, 2)]))
def test_random_mutations_one_after_another_lose_nothing(seed: int, many: int) -> None:
    """In random order, each on top of all earlier ones."""
    r, lost = random.Random(seed), []
    names = [n for n in MUTATIONS if n not in ("parametrization", "layer of another width", "one more layer")]
    torch.manual_seed(seed)
    m = Versatile()
    model = EnergyModel(m, Symplectic())
    residual(m, model.discrete_gradient)
    for _ in range(many):
        name = r.choice([*names, "energy"])
        if name == "energy":
            m = model.energy = Versatile()
        else:
            MUTATIONS[name](m, r)
        found = residual(m, model.discrete_gradient)
        if not found < 1e-13:
            lost.append((name, found))
    assert not lost


# -- closures ----------------------------------------------------------------------------------------------------------


def test_closures_that_rebind_and_arguments_by_default() -> None:
    w, k = torch.randn(6), 1.0

    def energy(u: Tensor, c: float = 1.0) -> Tensor:
        return c * k * ((u * w) ** 2).sum(1)

    dg = discrete_gradient(energy)
    assert residual(energy, dg) < 1e-13
    w = torch.randn(6)
    assert residual(energy, dg) < 1e-13
    k = 3.0
    assert residual(energy, dg) < 1e-13
    energy.__defaults__ = (5.0,)
    assert residual(energy, dg) < 1e-13
    w.mul_(2)
    assert residual(energy, dg) < 1e-13


def test_a_tensor_that_is_read_as_a_number_is_no_fact_but_is_found_out() -> None:
    w = torch.ones(())

    def energy(u: Tensor) -> Tensor:
        return float(w) * (u**2).sum(1)

    dg = discrete_gradient(energy)
    assert residual(energy, dg) < 1e-13
    w.fill_(2.0)
    assert residual(energy, dg) < 1e-13


@given(st.floats(allow_nan=False, min_value=-3, max_value=3))
@settings(max_examples=10, deadline=None)
def test_facts_tell_values_apart_and_are_equal_to_themselves(x: float) -> None:
    m = Versatile()
    before = facts(m)
    assert facts(m) == before
    m.beta = x
    assert (facts(m) == before) == (x == 1.0)


def test_modes_that_were_traced_are_kept() -> None:
    m = MLPEnergy(6, 4)
    dg = discrete_gradient(m)
    u = torch.randn(2, 6)
    first = dg.graph(u)
    m.train(False)
    assert dg.graph(u) is not first
    m.train(True)
    assert dg.graph(u) is first


def test_counters_and_caches_are_no_reason_to_trace_again() -> None:
    class Counting(MLPEnergy):
        calls = 0

        def forward(self, u: Tensor) -> Tensor:
            self.calls += 1
            self.seen = u
            return super().forward(u)

    m = Counting(6, 4)
    dg = discrete_gradient(m)
    u = torch.randn(2, 6)
    first = dg.graph(u)
    dg(u, u + 1)
    assert dg.graph(u) is first


def test_a_rollout_follows_what_only_the_values_tell() -> None:
    local = threading.local()
    local.k = 1.0

    class Local(MLPEnergy):
        def forward(self, u: Tensor) -> Tensor:
            return super().forward(u) * local.k

    m, u = EnergyModel(Local(2, 4), Symplectic()), torch.randn(3, 2)
    rollout(m, u, 0.1, 2)
    local.k = 3.0
    assert rollout(m, u, 0.1, 2, verify=True).identity.max() < 1e-13


# -- what is refused ---------------------------------------------------------------------------------------------------


COUNT = itertools.count()
CHANGING = {
    "clock": lambda u: (u**2).sum(1) * (1 + time.perf_counter()),
    "counter": lambda u: (u**2).sum(1) * (1 + 1e-9 * next(COUNT)),
    "random numbers of Python": lambda u: (u**2).sum(1) * (1 + 1e-9 * random.random()),
    "random numbers of numpy": lambda u: (u**2).sum(1) * (1 + 1e-9 * np.random.rand()),
}


@pytest.mark.parametrize("form", ["chain", "midpoint"])
@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_by_itself_is_refused_however_little(name: str, form: Any) -> None:
    with pytest.raises(PhysicsError, match="gives other values when it is evaluated again"):
        discrete_gradient(CHANGING[name], form)(torch.ones(2, 3), torch.zeros(2, 3))


def test_what_is_set_up_in_the_first_call_is_no_change() -> None:
    class First(MLPEnergy):
        scale = 0.0

        def forward(self, u: Tensor) -> Tensor:
            value, self.scale = super().forward(u) * (1 + self.scale), 1.0
            return value

    m = First(6, 4)
    assert residual(m, discrete_gradient(m)) < 1e-13


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "noise apart from the state": lambda u: (torch.randn(6) + u).square().sum(1),
    "noise of its size": lambda u: (torch.randn_like(u) + u).square().sum(1),
    "mask by hand": lambda u: (torch.bernoulli(torch.full((6,), 0.5)) * u).square().sum(1),
    "random weights": lambda u: (torch.rand(6) * u).square().sum(1),
    "permutation": lambda u: (u * torch.randperm(6)).square().sum(1),
    "integers": lambda u: (u * torch.randint(1, 5, (6,))).square().sum(1),
    "dropout of a weight": lambda u: (u * nn.functional.dropout(torch.ones(6))).square().sum(1),
    "in place": lambda u: (u * torch.empty(6).normal_()).square().sum(1),
    "multinomial": lambda u: (u * (1 + torch.multinomial(torch.ones(6), 6))).square().sum(1),
    "dropout": lambda u: nn.functional.dropout(u).square().sum(1),
}


@pytest.mark.parametrize("form", ["chain", "average", "midpoint"])
@pytest.mark.parametrize("name", RANDOM)
def test_random_energies_are_refused(name: str, form: str) -> None:
    with pytest.raises(PhysicsError, match="random"):
        discrete_gradient(RANDOM[name], form)(torch.randn(4, 6), torch.randn(4, 6))


def test_numbers_of_python_that_change_by_themselves_are_refused() -> None:
    r = random.Random(0)
    with pytest.raises(PhysicsError, match="gives other values"):
        discrete_gradient(lambda u: r.random() * u.square().sum(1))(torch.randn(4, 6), torch.randn(4, 6))


@pytest.mark.slow
def test_dropout_put_to_training_after_the_trace_is_refused() -> None:
    m = Versatile()
    dg = discrete_gradient(m)
    residual(m, dg)
    m.body[3].train()
    with pytest.raises(PhysicsError, match="random"):
        residual(m, dg)


# -- models ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def drift(model: EnergyModel, u: Tensor) -> float:
    energies = model.energy(u.flatten(0, 1)).reshape(u.shape[:2])
    return float((energies - energies[0]).abs().max())


def test_a_model_whose_energy_is_exchanged_trains_and_conserves_the_new_one() -> None:
    model = EnergyModel(MLPEnergy(2, 8), Symplectic())
    model(torch.randn(3, 2), torch.randn(3, 2))
    model.energy = MLPEnergy(2, 8)
    model(torch.randn(3, 2), torch.randn(3, 2)).square().mean().backward()
    assert all(p.grad is not None for p in model.energy.network[:4].parameters())
    assert drift(model, rollout(model, torch.randn(3, 2), 0.3, 20).u) < 1e-13
    with pytest.raises(PhysicsError, match=r"assign `model\.energy`"):
        model.discrete_gradient = discrete_gradient(MLPEnergy(2, 8))
    with pytest.raises(PhysicsError, match="the energy is Symplectic"):
        model.energy = Symplectic()


def test_an_energy_that_changes_between_steps_is_followed() -> None:
    model = EnergyModel(MLPEnergy(2, 8), Symplectic())
    u = rollout(model, torch.randn(3, 2), 0.3, 2).u[-1]
    model.energy.network[1] = nn.Softplus()
    assert drift(model, rollout(model, u, 0.3, 5).u) < 1e-13


class Ascent(Structure):
    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        return g


class Uphill(Structure):
    law = "dissipates"

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        return torch.cat([g[..., 2:], -g[..., :2]], -1) + 1e-6 * g


class OfFour(Structure):
    """Wrong, and only made for states of 4 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix_ = nn.Parameter(torch.randn(4, 4))

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        return g @ self.matrix_


@pytest.mark.parametrize("structure", [Ascent, Uphill])
def test_structures_that_break_their_law_are_refused_when_built(structure: type[Structure]) -> None:
    with pytest.raises(PhysicsError, match=r"<g, G\(u\) g> is"):
        EnergyModel(MLPEnergy(4, 8), structure())
    model = EnergyModel(MLPEnergy(4, 8), Symplectic())
    with pytest.raises(PhysicsError, match=r"<g, G\(u\) g> is"):
        model.structure = structure()


def test_structures_of_an_unknown_shape_are_refused_at_first_sight() -> None:
    model = EnergyModel(MLPEnergy(4, 8), OfFour())
    with pytest.raises(PhysicsError, match="OfFour says that it conserves"):
        model(torch.randn(3, 4), torch.randn(3, 4))
