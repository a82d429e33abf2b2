"""Conservation laws, from outside: what cannot be right is refused with words that say what to do."""

import pytest
import torch
from torch import nn

from neuromech.errors import PhysicsError
from neuromech.physics import (
    Ball,
    BoundedMixture,
    Box,
    DivergenceFree,
    FreeSpace,
    HodgeDecomposition,
    MovingMixture,
    NeuralConservationLaw,
    Torus,
    check_walls,
    couple,
    fit_mixture,
    gaussian,
    gaussian_cost,
    gaussian_map,
    kinetic_energy,
    mlp,
)


class Block(nn.Module):
    """A potential that is opaque, with any activation."""

    def __init__(self, activation, inputs: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.activation = nn.Linear(inputs, 8), nn.Linear(8, 3), activation

    def forward(self, x):
        return self.b(self.activation(self.a(x)))


def law(domain=None, **options) -> NeuralConservationLaw:
    return NeuralConservationLaw(mlp(3, 3, 8, 1), domain or Ball(2), **options)


def one(x):
    return torch.ones_like(x[:, 0])


X = torch.tensor([[0.1, 0.2], [0.3, -0.4], [0.5, 0.5]])
FLAT = gaussian(torch.zeros(2), torch.eye(2))
ZERO, SKEW = torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
KINKS = {
    "where": lambda z: torch.where(z > 0, z, 0 * z),
    "mask": lambda z: z * (z > 0),
    "nothing": lambda z: z,
}


@pytest.mark.parametrize("form", ["matrix", "vector"])
@pytest.mark.parametrize("name", KINKS)
def test_kinks_that_no_name_tells(name, form) -> None:
    with pytest.raises(PhysicsError, match="second derivative is zero"):
        DivergenceFree(Block(KINKS[name]), 3, form)(torch.rand(4, 3))
    DivergenceFree(Block(torch.tanh), 3, form)(torch.rand(4, 3))
    far = torch.full((4, 3), 1e3)  # saturated there, but not everywhere: not refused
    DivergenceFree(Block(nn.functional.softplus), 3, form)(far)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DivergenceFree(Block(torch.tanh, 2), 3)(torch.rand(4, 3)), "fails on points .*cannot be multiplied"),
        (lambda: DivergenceFree(mlp(3, 3), 3)(torch.rand(4, 3).double()), "points are torch.float64.*make them agree"),
        (
            lambda: DivergenceFree(mlp(3, 3), 3, domain="ball"),
            "expected a FreeSpace, Torus, Box, Ball, Channel or Annulus",
        ),
        (
            lambda: NeuralConservationLaw(mlp(3, 3), "torus"),
            "expected a FreeSpace, Torus, Box, Ball, Channel or Annulus",
        ),
        (lambda: law()(0.0, X.double()), "NeuralConservationLaw: points are torch.float64"),
        (lambda: law()(float("nan"), X), "a time is not finite"),
        (lambda: law()("now", X), "t='now'"),
        (
            lambda: law(density=lambda x: x[:, :1])(0.0, X),
            r"initial density maps points \(3, 2\) to \(3, 1\), .*\(3,\)",
        ),
        (lambda: law(density=one, flux=lambda x: x[:, 0])(0.0, X), r"initial flux maps .* expected \(3, 2\)"),
        (lambda: law(density=one, flux=lambda x: x)(0.0, X), "crosses the wall of Ball.*by up to 1"),
        (lambda: law(Box(2, -1.0), density=one, flux=lambda x: 0 * x + 1)(0.0, X), "crosses the wall of Box"),
        (lambda: law(density=lambda x: 0 * x[:, 0]).velocity(0.0, X), "not positive at 3 of 3 points"),
        (lambda: MovingMixture(2, 0), "components=0"),
        (lambda: MovingMixture(2, size=0.0), "size=0.0"),
        (lambda: MovingMixture(2, start=FLAT, duration=0.0), "duration=0.0"),
        (lambda: BoundedMixture(Torus(2), 0), "components=0"),
        (lambda: BoundedMixture(Torus(2), mass=0.0), "mass=0.0"),
        (lambda: Torus(2.5), "d=2.5"),
        (lambda: Torus(2, period=(1.0, 2.0, 3.0)), "a number, or one for each of 2 axes"),
        (lambda: Box(2, low=(0.0, 0.0), high="wide"), "a number, or one for each of 2 axes"),
        (lambda: mlp(3, 3, periods=(None, 1.0)), "2 periods for 3 inputs"),
        (lambda: couple(FLAT, gaussian(torch.zeros(1), torch.eye(1))), "2 dimensions, end in 1"),
        (lambda: gaussian_cost(torch.zeros(2), torch.eye(2), torch.zeros(1), torch.eye(1)), "with the same d"),
        (lambda: gaussian_map(torch.zeros(2), torch.eye(3), torch.zeros(2), torch.eye(2)), "with the same d"),
        (lambda: couple(torch.zeros(3, 2), FLAT), "start is Tensor; expected a Mixture"),
        (lambda: gaussian_cost(ZERO, -torch.eye(2), ZERO, torch.eye(2)), "first covariance has a negative eigenvalue"),
        (lambda: gaussian_cost(ZERO, torch.eye(2), ZERO, SKEW), "second covariance is not finite, or not symmetric"),
        (lambda: gaussian_map(ZERO, torch.ones(2, 2), ZERO, torch.eye(2)), "first covariance is singular"),
        (lambda: kinetic_energy(MovingMixture(2), 0), "one point or more"),
        (lambda: kinetic_energy(NeuralConservationLaw(MovingMixture(2)), 9), "pass its source"),
        (lambda: HodgeDecomposition(Box(2)).fit(torch.rand(3, 2)), "field of type Tensor"),
        (lambda: HodgeDecomposition(Box(2)).fit(lambda x: x, steps=0), "steps=0"),
    ],
)
def test_bad_input(make, words) -> None:
    with pytest.raises(PhysicsError, match=words):
        make()


def test_what_is_right_is_not_refused() -> None:
    """A flux along the wall, and no points at all."""

    def around(x):
        return torch.stack([-x[:, 1], x[:, 0]], -1)

    state = law(density=one, flux=around)(0.5, X)
    assert torch.isfinite(state.flux).all()

    def slips(x):
        s, c = torch.sin(torch.pi * x), torch.cos(torch.pi * x)
        return torch.stack([s[:, 0] * c[:, 1], -c[:, 0] * s[:, 1]], -1)

    assert torch.isfinite(law(Box(2), density=one, flux=slips)(0.5, X.abs()).flux).all()
    field = DivergenceFree(mlp(3, 3), 3)
    assert field(torch.zeros(0, 3)).shape == (0, 3)
    late = DivergenceFree(Block(torch.relu), 3)
    late(torch.zeros(0, 3))
    with pytest.raises(PhysicsError, match="kink"):  # looked at when there is something to look at
        late(torch.rand(2, 3))


class Placeless(FreeSpace):
    walls = True


class Wide(Box):
    def wall(self, x):
        return torch.ones(len(x), 1), torch.zeros_like(x)


def test_domains_of_ones_own_are_told_what_they_lack() -> None:
    with pytest.raises(PhysicsError, match="has no place"):
        check_walls(Placeless(2))
    with pytest.raises(PhysicsError, match=r"gives \[64, 1\] and \[64, 2\]"):
        check_walls(Wide(2))
    with pytest.raises(PhysicsError, match="expected a FreeSpace"):
        HodgeDecomposition(2)
    with pytest.raises(PhysicsError, match="not finite"):
        fit_mixture(torch.full((9, 2), torch.nan), 2)
