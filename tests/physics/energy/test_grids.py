"""Walls and channels: structures keep their form, energies their identity."""

import pytest
import torch

from neuromech.errors import PhysicsError
from neuromech.physics import CentralDifference, ConvEnergy, ConvField, EnergyModel, Laplacian, Symplectic, rollout

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("shape", [(7,), (4, 5)])
def test_the_laplacian_is_symmetric_and_never_positive(boundary: str, shape: tuple[int, ...]) -> None:
    matrix = Laplacian(0.5, len(shape), boundary).matrix(torch.zeros(shape))
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix)[-1]) < (1e-12 if boundary != "dirichlet" else -0.1)
    if boundary != "dirichlet":
        assert float(matrix.sum(0).abs().max()) < 1e-12


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
def test_the_laplacian_between_walls_is_that_of_the_continuum(boundary: str) -> None:
    """Second order on sin and cos, which are 0 and level at the walls."""
    wave = torch.sin if boundary == "dirichlet" else torch.cos
    errors = []
    for n in (20, 40):
        x = (torch.arange(n) + 0.5) * torch.pi / n
        found = Laplacian(torch.pi / n, 1, boundary)(torch.pi / n * wave(x), x)
        errors.append(float((found + wave(x)).square().mean().sqrt()))
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_central_differences_between_walls_are_skew() -> None:
    matrix = CentralDifference(0.5, "dirichlet").matrix(torch.zeros(6))
    torch.testing.assert_close(matrix, -matrix.T)
    with pytest.raises(PhysicsError, match="not one of periodic, dirichlet"):
        CentralDifference(0.5, "neumann")


@pytest.mark.parametrize(("boundary", "channels"), [("neumann", 1), ("dirichlet", 2), ("periodic", 2)])
def test_channels_and_walls_keep_their_laws(boundary: str, channels: int) -> None:
    energy = ConvEnergy(1, 0.2, 4, depth=1, channels=channels, boundary=boundary)
    u0 = torch.randn(3, channels, 6) if channels > 1 else torch.randn(3, 6)
    structure = Symplectic(0.2, dim=1) if channels > 1 else Laplacian(0.2, 1, boundary)
    with torch.no_grad():
        out = rollout(EnergyModel(energy, structure), u0, 0.01, 3, verify=True)
    assert float(out.identity.max()) < 1e-13
    if channels == 1:
        torch.testing.assert_close(out.u.sum(-1)[-1], out.u.sum(-1)[0])
    assert ConvField(1, 4, channels=channels, boundary=boundary).velocity(u0).shape == u0.shape
    assert energy(u0[0]).shape == ()
