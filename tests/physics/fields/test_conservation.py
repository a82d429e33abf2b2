"""Density and flux: continuity, mass, walls, start and positivity hold by construction; bad input is refused."""

import math

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
    MovingMixture,
    NeuralConservationLaw,
    SpaceTimeField,
    Subharmonic,
    Torus,
    mlp,
)
from neuromech.physics.fields.taylor import jacobian

BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-14}


def shaken(module: nn.Module, by: float = 0.2) -> nn.Module:
    """Away from the start, where networks of time are zero."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn_like(p))
    return module


def field(domain, **options) -> NeuralConservationLaw:
    d = domain.d
    periods = (None, *domain.periods) if isinstance(domain, Torus) else None
    return NeuralConservationLaw(mlp(1 + d, d * (d + 1) // 2, 16, 2, periods=periods), domain, **options)


def swirl(d):
    return mlp(1 + d, d * (d - 1) // 2, 8, 1) if d > 1 else None


LAWS = {
    "torus": lambda d: field(Torus(d)),
    "box": lambda d: field(Box(d, -1.0, 1.0)),
    "ball": lambda d: field(Ball(d)),
    "ball with a start": lambda d: field(Ball(d), density=lambda x: 1.5 - x.square().sum(-1)),
    "torus with start and flux": lambda d: field(
        Torus(d, 2.0), density=lambda x: 2 + torch.sin(math.pi * x).sum(-1), flux=lambda x: torch.cos(math.pi * x)
    ),
    "moving mixture": lambda d: NeuralConservationLaw(shaken(MovingMixture(d, 4, swirl=swirl(d)))),
    "subharmonic": lambda d: NeuralConservationLaw(shaken(Subharmonic(d, 4, swirl=swirl(d)))),
    "mixture on a torus": lambda d: NeuralConservationLaw(shaken(BoundedMixture(Torus(d), 4))),
    "mixture in a box": lambda d: NeuralConservationLaw(shaken(BoundedMixture(Box(d), 4))),
}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", LAWS)
def test_continuity_is_rounding(name, d, dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        law = LAWS[name](d)
        x = 2 * torch.rand(64, d) - 1 if type(law.domain) is FreeSpace else law.domain.sample(64)
        rest = law.residual(torch.rand(64), x)
        assert float(rest.detach().square().mean().sqrt()) <= BOUNDS[dtype]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("d", [4, 8, 16, 31])
def test_continuity_in_many_dimensions(d, float64) -> None:
    for domain in (Torus(d), Ball(d)):
        rest = field(domain).residual(torch.rand(4), domain.sample(4))
        assert float(rest.detach().abs().max()) <= 1e-14


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("d", [7, 31])
def test_continuity_in_many_dimensions_where_there_is_mass(d, dtype) -> None:
    """Elsewhere a density in 31 dimensions is below the smallest number of float32, and has no digits to keep.

    So it is everywhere if the Gaussians are wide, which they are when shaken by more.
    """
    torch.set_default_dtype(dtype)
    try:
        t = torch.rand(16)
        moving, round_ones = shaken(MovingMixture(d, 4), 0.1), shaken(Subharmonic(d, 4), 0.1)
        around = round_ones.means[torch.randint(4, (16,))].detach() + 0.5 * torch.randn(16, d)
        for source, x in ((moving, moving.sample(t).detach()), (round_ones, around)):
            rest = NeuralConservationLaw(source).residual(t, x)
            assert float(rest.detach().square().mean().sqrt()) <= BOUNDS[dtype]
        for domain in (Torus(d), Box(d), Ball(d)):
            rest = field(domain).residual(t, domain.sample(16))
            assert float(rest.detach().square().mean().sqrt()) <= BOUNDS[dtype]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", LAWS)
def test_mass_is_constant(name, float64) -> None:
    """A fine grid in one dimension: of all of a bounded domain, or of as much of space as holds the density."""
    law = LAWS[name](1)
    unit = (torch.arange(8000) + 0.5).unsqueeze(1) / 8000
    free = type(law.domain) is FreeSpace
    x, length = (100 * unit - 50, 100.0) if free else (law.domain.place(unit), law.domain.volume)
    masses = torch.stack([law.density(t, x).mean() * length for t in (0.0, 0.3, 1.0)]).detach()
    # The midpoint rule is exact for periodic functions and for Gaussians, and of second order between walls.
    torch.testing.assert_close(masses, masses[:1].expand(3), rtol=2e-7, atol=0)
    if not math.isnan(law.total_mass):
        torch.testing.assert_close(masses[0], torch.tensor(law.total_mass), rtol=2e-7, atol=0)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_walls_let_nothing_through(d, float64) -> None:
    for law in (field(Ball(d)), field(Ball(d, 2.0), density=lambda x: 5 - x.square().sum(-1))):
        x = torch.randn(50, d)
        normal = x / x.norm(dim=1, keepdim=True)
        flux = law.flux(torch.rand(50), normal * law.domain.radius)
        assert (flux * normal).sum(-1).abs().max() <= 1e-14
        assert flux.abs().max() > 1e-3
    for law in (field(Box(d, -1.0, 2.0)), NeuralConservationLaw(shaken(BoundedMixture(Box(d, -1.0, 2.0), 6)))):
        x = law.domain.sample(40)
        x[:20, 0], x[20:, 1] = -1.0, 2.0
        flux = law.flux(torch.rand(40), x)
        assert flux[:20, 0].abs().max() <= 1e-14
        assert flux[20:, 1].abs().max() <= 1e-14
        assert flux.abs().max() > 1e-4


def test_start_is_exact(float64) -> None:
    def density(x):
        return 2 + torch.sin(2 * math.pi * x).sum(-1)

    def flux(x):
        return torch.cos(2 * math.pi * x)

    x = Torus(2).sample(50)
    law = field(Torus(2), density=density)
    torch.testing.assert_close(law.density(0.0, x), density(x), rtol=0, atol=1e-15)
    assert (law.density(0.5, x) - density(x)).abs().max() > 1e-3
    both = field(Torus(2), density=density, flux=flux)
    torch.testing.assert_close(both.density(0.0, x), density(x), rtol=0, atol=1e-15)
    torch.testing.assert_close(both.flux(0.0, x), flux(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["moving mixture", "subharmonic", "mixture on a torus", "mixture in a box"])
def test_density_is_positive(name, float64) -> None:
    law = LAWS[name](2)
    x = 4 * torch.rand(500, 2) - 2 if type(law.domain) is FreeSpace else law.domain.sample(500)
    assert (law.density(torch.rand(500), x) > 0).all()
    torch.testing.assert_close(law.velocity(0.5, x), law.flux(0.5, x) / law.density(0.5, x).unsqueeze(-1))


def test_mixture_on_a_torus_is_periodic_and_velocity_outlives_the_density(float64) -> None:
    law, x = LAWS["mixture on a torus"](2), torch.rand(20, 2)
    torch.testing.assert_close(law.flux(0.4, x + torch.tensor([1.0, -2.0])), law.flux(0.4, x))
    far = LAWS["moving mixture"](2)
    there = torch.full((1, 2), 100.0)
    assert far.density(0.5, there) == 0
    assert torch.isfinite(far.velocity(0.5, there)).all()


def test_parameters_get_gradients(float64) -> None:
    for name, make in LAWS.items():
        law = make(2)
        x = law.domain.sample(8) if type(law.domain) is not FreeSpace else torch.randn(8, 2)
        density, flux = law(torch.rand(8), x)
        (density.square().sum() + flux.square().sum()).backward()
        grads = [p.grad for k, p in law.named_parameters() if "turn" not in k and p.grad is not None]
        assert grads, name
        assert all(torch.isfinite(g).all() for g in grads), name


@pytest.mark.slow
def test_paths_follow_the_flow(float64) -> None:
    """The density along a path falls as the flow spreads: d log rho / dt = -div u. And order 4 in the step."""
    law = LAWS["mixture on a torus"](2)
    x = torch.rand(6, 2)
    paths = law.paths(x, torch.linspace(0, 1, 161), substeps=1)
    assert paths.positions.shape == (161, 6, 2)
    points = torch.cat([paths.times.repeat_interleave(6).unsqueeze(1), paths.positions.flatten(0, 1)], 1)
    j = jacobian(lambda z: law.source.velocity(z[:, 0], z[:, 1:]), points)[..., 1:]
    rates = -j.diagonal(dim1=1, dim2=2).sum(-1).reshape(161, 6)
    spread = torch.trapezoid(rates, paths.times, dim=0)
    torch.testing.assert_close((paths.density[-1] / paths.density[0]).log(), spread, rtol=0, atol=2e-3)
    fine = law.paths(x, [0.0, 1.0], substeps=128).positions[-1]
    errors = [float((law.paths(x, [0.0, 1.0], substeps=k).positions[-1] - fine).norm().detach()) for k in (16, 32)]
    assert math.log2(errors[0] / errors[1]) > 3.3


def test_particles_stay_inside(float64) -> None:
    law = field(Ball(2), density=lambda x: 1.5 + 0 * x[:, 0])
    paths = law.paths(Ball(2).sample(200), [0.0, 0.5, 1.0])
    assert (paths.positions.norm(dim=-1) <= 1 + 1e-12).all()


def test_mass_by_drawing_points(float64) -> None:
    law = field(Box(2, 0.0, 2.0), mass=3.0)
    assert abs(float(law.mass(0.7, 200_000).detach()) - 3.0) < 0.02
    assert law.total_mass == 3.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NeuralConservationLaw(mlp(3, 3)), "needs a domain"),
        (lambda: NeuralConservationLaw(mlp(3, 3), FreeSpace(2)), "MovingMixture"),
        (lambda: NeuralConservationLaw(MovingMixture(2), Torus(2)), "its own domain"),
        (lambda: field(Torus(2), flux=lambda x: x), "density= too"),
        (lambda: field(Torus(2), duration=0.0), "duration=0.0"),
        (lambda: NeuralConservationLaw(mlp(3, 3), Torus(2))(0.0, torch.rand(4, 2)), "jumps by .* seam.*Periodic"),
        (lambda: field(Ball(2))(0.0, torch.full((3, 2), 0.9)), r"3 of 3 points lie outside Ball.*\[0.9, 0.9\]"),
        (lambda: field(Box(2))(0.0, torch.tensor([[0.5, 0.5], [0.5, 1.5]])), r"1 of 2 points.*\[0.5, 1.5\]"),
        (lambda: field(Torus(2))(0.0, torch.tensor([[0.5, float("nan")]])), "1 of 1 points lie outside"),
        (lambda: field(Torus(2))(0.0, torch.rand(4, 3)), r"\[4, 3\], expected \[B, 2\]"),
        (lambda: field(Torus(2))(torch.rand(3), torch.rand(4, 2)), r"times have shape \[3\].*\[4\]"),
        (lambda: field(Torus(2)).paths(torch.rand(3, 2), [0.0]), r"times have shape \[1\]"),
        (lambda: field(Torus(2)).paths(torch.rand(3, 2), [0.0, 1.0], 0), "substeps=0"),
        (lambda: field(Torus(2), mass=0.0).velocity(0.0, torch.rand(9, 2)), "not positive.*MovingMixture"),
        (lambda: NeuralConservationLaw(MovingMixture(2)).mass(0.0), "no uniform distribution"),
        (lambda: SpaceTimeField(mlp(3, 2), Box(2))(torch.zeros(3), torch.rand(3, 2)), r"expected \(3, 3\)"),
        (lambda: BoundedMixture(Ball(2)), "Torus or a Box"),
        (lambda: BoundedMixture(Box(2), size=0.7), "size=0.7"),
        (lambda: Subharmonic(2, mass=0.0), "mass=0.0"),
        (lambda: Box(2, 1.0, 1.0), "low < high"),
        (lambda: Ball(2, -1.0), "radius=-1.0"),
        (lambda: Torus(0), "d=0"),
        (lambda: Torus(2, 0.0), "period=0.0"),
        (lambda: DivergenceFree(mlp(1, 1), 1), "time is the second"),
    ],
)
def test_bad_input(make, words) -> None:
    with pytest.raises(PhysicsError, match=words):
        make()
