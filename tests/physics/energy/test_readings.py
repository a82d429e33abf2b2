"""Whatever an energy reads, and however it is called, a change is followed: every kind of reading, in every mode."""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics import discrete_gradient
from neuromech.physics.energy.discrete import DiscreteGradient
from tests.families import fast
from tests.physics.energy.held import PLACES, VALUES, Energy, kinds, of_this_module
from tests.physics.energy.ways import SETTINGS, WAYS, Way

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),  # of compilers, and of float(w)
]

Call = Callable[[Tensor, Tensor], Tensor]


def _of_value(make: Callable[[], tuple[Energy, Callable[[], Any]]]) -> Way:
    def run() -> Iterator[Energy]:
        energy, change = make()
        yield energy
        change()

    return run


KINDS: dict[str, Way] = {name: _of_value(make) for name, make in kinds()} | WAYS
# A branch on, or a number out of, what is computed while it is traced has no graph: refused, and it says so.
REFUSED = ("sum as a number", "branch on a tensor", "equal tensors")
MODES = ("plain", "facts alone", "vmap", "vmap, facts alone", "eager", "aot_eager", "autocast")
FAST = [
    ("dict, closure", "facts alone"),
    ("import inside", "facts alone"),
    ("data of a number, closure", "vmap, facts alone"),
    ("module: activation", "vmap"),
    ("class: factor", "facts alone"),
    ("default dtype", "plain"),
    ("parts of a sequence", "autocast"),
    ("a part in two places", "facts alone"),
    ("hooks of all modules", "facts alone"),
    ("buffer as a number", "facts alone"),
]


DTYPE = torch.float64


def held(energy: Energy, call: Call) -> bool:
    """Does the identity hold to the rounding of the states? They have the dtype of the energy's parameters."""
    u, v = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind(0)
    dtype = next(energy.parameters(), u.to(DTYPE)).dtype if isinstance(energy, nn.Module) else DTYPE
    u, v = u.to(dtype), v.to(dtype)
    with torch.no_grad():
        terms, at_u, at_v = call(u, v) * (u - v), energy(u), energy(v)
    off = ((terms.sum(1) - (at_u - at_v)).abs() / (terms.abs().sum(1) + at_u.abs() + at_v.abs())).max()
    return bool(off < (1e-13 if u.dtype == torch.float64 else 1e-5))


@pytest.fixture(autouse=True)
def _no_module_stays() -> Iterator[None]:
    yield
    sys.modules.pop(SETTINGS, None)


@pytest.fixture
def _in_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    mode: str = request.param
    if "facts alone" in mode:  # without the look at one sample, which would find most losses too, one call later
        monkeypatch.setattr(DiscreteGradient, "_holds", lambda *args, **kwargs: True)
    if mode == "autocast":
        monkeypatch.setitem(globals(), "DTYPE", torch.float32)
        torch.set_default_dtype(torch.float32)
    if "eager" in mode:
        torch.compiler.reset()
    yield mode
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize(
    ("name", "_in_mode"), fast([(n, m) for n in KINDS for m in MODES], FAST), indirect=["_in_mode"]
)
def test_every_kind_of_reading_is_followed(name: str, _in_mode: str) -> None:
    steps = KINDS[name]()
    energy = next(steps)
    dg = discrete_gradient(energy)
    call: Call = dg
    if "vmap" in _in_mode:
        call = torch.func.vmap(dg)
    elif "eager" in _in_mode:
        call = torch.compile(lambda u, v: dg(u, v), backend=_in_mode)
    if name.startswith(REFUSED):
        with pytest.raises(PhysicsError, match="takes a branch"):
            held(energy, call)
        return
    if _in_mode == "autocast":  # what is traced inside must not serve outside
        with torch.autocast("cpu"):
            held(energy, call)
    assert held(energy, call)
    for _ in steps:
        assert held(energy, call)
    assert held(energy, call)


def test_every_way_to_hold_a_value_is_among_the_kinds() -> None:
    assert len(KINDS) >= 150
    assert {name.rpartition(", ")[2] for name, _ in kinds()} == {place.__name__ for place in PLACES}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "vmap"])
@pytest.mark.parametrize("seed", range(10))
def test_random_changes_of_many_values_at_once(seed: int, mode: str) -> None:
    """An energy that reads twelve values, each in a place of its own; they change one after another: 20 a seed."""
    r, done = random.Random(seed), 0
    while done < 20:
        chosen = r.sample([n for n in VALUES if not n.startswith(REFUSED)], 12)
        made = {n: VALUES[n].make() for n in chosen}
        parts = [r.choice([p for p in PLACES if p is not of_this_module])(made[n], VALUES[n].read) for n in chosen]

        def energy(u: Tensor, parts: Any = parts) -> Tensor:
            return torch.stack([part(u) for part in parts]).sum(0)

        dg = discrete_gradient(energy)
        call: Call = dg if mode == "plain" else torch.func.vmap(dg)
        with mock.patch.object(DiscreteGradient, "_holds", return_value=True):
            assert held(energy, call)
            for n in r.sample(chosen, 10):
                VALUES[n].change(made[n])
                assert held(energy, call), n
                done += 1
