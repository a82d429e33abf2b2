"""Domains with sides of their own, channels, annuli, walls that hold the fluid, and what comes in through them."""

import pytest
import torch
from torch import nn

from neuromech.errors import PhysicsError
from neuromech.physics import (
    Annulus,
    Ball,
    BoundedMixture,
    Box,
    Channel,
    DivergenceFree,
    NoSlip,
    Torus,
    check_walls,
    mlp,
)
from neuromech.physics.fields.layers import Sin

pytestmark = pytest.mark.usefixtures("float64")


WIDE = Box(2, low=(0.0, -1.0), high=(3.0, 1.0))
DOMAINS = [
    WIDE,
    Channel(2, low=(0.0, -1.0), high=(3.0, 1.0)),
    Channel(3, open=2),
    Annulus(2, 0.5, 2.0),
    Annulus(3),
    NoSlip(WIDE),
    NoSlip(Ball(2)),
    NoSlip(Channel(2)),
]


def field_in(domain, **how) -> DivergenceFree:
    d = domain.d
    periods = domain.periods if any(domain.periods) else None
    return DivergenceFree(mlp(d, d * (d - 1) // 2, 8, 1, Sin, periods), d, domain=domain, **how)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_walls_let_nothing_through(domain) -> None:
    check_walls(domain)
    field, x = field_in(domain), domain.sample(20)
    v, of_v = (y.detach() for y in field.jacobian(x))
    wanted = torch.func.vmap(torch.func.jacrev(lambda y: field(y)))(x)
    torch.testing.assert_close(of_v, wanted, rtol=1e-10, atol=1e-10)
    assert float(of_v.diagonal(dim1=1, dim2=2).sum(-1).abs().max()) < 1e-12 * float(of_v.abs().max())
    at = domain.to_wall(x)
    if isinstance(domain, NoSlip):
        assert float(field(at).detach().abs().max()) < 1e-12 * float(v.abs().max())
    else:
        slope = domain.wall(at)[1]
        assert float((field(at).detach() * slope).sum(-1).abs().max()) < 1e-12 * float(v.abs().max())


def test_a_torus_with_sides_of_its_own() -> None:
    torus = Torus(2, period=(1.0, 3.0))
    field, x = field_in(torus), torus.sample(10)
    torch.testing.assert_close(field(x + torch.tensor([1.0, -3.0])), field(x))
    assert torus.volume == 3.0
    with pytest.raises(PhysicsError, match=r"period 1\.0"):
        DivergenceFree(mlp(2, 1, 8, 1, Sin, (3.0, 3.0)), 2, domain=torus)(x)


@pytest.mark.parametrize("domain", [Box(2, low=(0.0, -1.0), high=(3.0, 1.0)), Torus(2, period=(1.0, 3.0))], ids=str)
def test_a_mixture_between_unequal_walls_has_its_mass(domain) -> None:
    law = BoundedMixture(domain, components=4, width=8, mass=2.0)
    side = (torch.arange(80) + 0.5) / 80
    grid = domain.place(torch.cartesian_prod(side, side))
    with torch.no_grad():
        density = law(torch.full((len(grid),), 0.3), grid).density
    assert float(density.mean() * domain.volume) == pytest.approx(2.0, abs=1e-6)


def test_a_flow_through_a_channel_and_a_lid_that_moves() -> None:
    channel = Channel(2)

    def inflow(x):
        return torch.stack([4 * x[:, 1] * (1 - x[:, 1]), torch.zeros_like(x[:, 0])], -1)

    field, x = field_in(NoSlip(channel), base=inflow), channel.sample(30)
    at = channel.to_wall(x)
    torch.testing.assert_close(field(at), inflow(at), rtol=0, atol=1e-12)
    assert float(field.jacobian(x)[1].detach().diagonal(dim1=1, dim2=2).sum(-1).abs().max()) < 1e-11
    with pytest.raises(PhysicsError, match="the base has the divergence"):
        field_in(channel, base=lambda x: x)(x)


def test_a_domain_that_lies_is_found_out() -> None:
    class Wrong(Ball):
        def wall(self, x):
            value, slope = super().wall(x)
            return value, 2 * slope

    with pytest.raises(PhysicsError, match=r"gradient of wall\(\) is off"):
        check_walls(Wrong(2))


def test_jacobian_in_many_dimensions() -> None:
    """Column by column, against the one by hand."""
    field = DivergenceFree(mlp(100, 100 * 99 // 2, 4, 1, nn.Tanh), 100)
    of_v = field.jacobian(torch.randn(2, 100))[1].detach()
    assert of_v.shape == (2, 100, 100)
    trace = of_v.diagonal(dim1=1, dim2=2).sum(-1).abs().max()
    assert float(trace) < 1e-12 * float(of_v.norm())
