"""What a structure promises holds for random parameters: the form of its matrix, and the law of its model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics import (
    CentralDifference,
    ConvEnergy,
    Damped,
    EnergyModel,
    GivenMatrix,
    Laplacian,
    LearnedMatrix,
    LearnedStencil,
    MLPEnergy,
    PortHamiltonian,
    StateDependent,
    Structure,
    Symplectic,
    rollout,
)
from neuromech.physics.energy.energy import mlp
from tests.families import fast

pytestmark = pytest.mark.usefixtures("float64")

# Made in the test, so that their parameters are random there; and the shape of a state.
STRUCTURES: dict[str, tuple[Callable[[], Structure], tuple[int, ...]]] = {
    "symplectic": (Symplectic, (6,)),
    "symplectic field": (lambda: Symplectic(0.1), (6,)),
    "damped": (lambda: Damped(6, 0.3), (6,)),
    "central difference": (lambda: CentralDifference(0.3), (6,)),
    "laplacian": (lambda: Laplacian(0.3), (6,)),
    "laplacian 2-D": (lambda: Laplacian(0.3, 2), (4, 5)),
    "learned skew": (lambda: LearnedMatrix(6), (6,)),
    "learned skew, total kept": (lambda: LearnedMatrix(6, keep_total=True), (6,)),
    "learned dissipative": (lambda: LearnedMatrix(6, dissipative=True, skew=False), (6,)),
    "learned both, total kept": (lambda: LearnedMatrix(6, dissipative=True, keep_total=True), (6,)),
    "of the state": (lambda: StateDependent(mlp(6, 72, 8, 1), dissipative=True), (6,)),
    "of the state, skew": (lambda: StateDependent(mlp(6, 36, 8, 1), keep_total=True), (6,)),
    "stencil": (lambda: LearnedStencil(1, 2, 0.3), (7,)),
    "stencil skew": (lambda: LearnedStencil(1, 2, 0.3, skew=True), (7,)),
    "stencil 2-D": (lambda: LearnedStencil(2, 1, 0.3), (4, 5)),
    "stencil 2-D any": (lambda: LearnedStencil(2, 1, 0.3, rotation=False), (4, 5)),
    "stencil 2-D skew": (lambda: LearnedStencil(2, 1, 0.3, rotation=False, skew=True), (4, 5)),
    "given": (lambda: GivenMatrix(torch.tensor([[0.0, 2.0], [-2.0, 0.0]])), (2,)),
    "given dissipative": (lambda: GivenMatrix(-torch.eye(2), "dissipates"), (2,)),
}
KEEPS_TOTAL = {"central difference", "laplacian", "laplacian 2-D", "of the state, skew"} | {
    name for name in STRUCTURES if "total kept" in name or "stencil" in name
}


def scrambled(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p)
    return module


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("seed", range(3))
def test_form_of_the_matrix(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    make, shape = STRUCTURES[name]
    structure = scrambled(make())
    matrix = structure.matrix(torch.randn(shape)).detach()
    symmetric = (matrix + matrix.T) / 2
    size = float(matrix.abs().max())
    if structure.law == "conserves":
        assert float(symmetric.abs().max()) <= 1e-13 * size
    else:
        eigenvalues = torch.linalg.eigvalsh(symmetric)
        assert float(eigenvalues[-1]) <= 1e-13 * size
        assert float(eigenvalues[0]) < -1e-3 * size
    if name in KEEPS_TOTAL:
        assert float(matrix.sum(0).abs().max()) <= 1e-13 * size
        assert float(matrix.sum(1).abs().max()) <= 1e-13 * size


@pytest.mark.parametrize("name", fast(STRUCTURES, list(STRUCTURES)[::5]))
def test_the_model_obeys_its_law(name: str) -> None:
    make, shape = STRUCTURES[name]
    energy = scrambled(MLPEnergy(shape[0], 8)) if len(shape) == 1 else scrambled(ConvEnergy(2, 0.3, 8))
    model = EnergyModel(energy, scrambled(make()))
    with torch.no_grad():
        path = rollout(model, torch.randn(3, *shape), 1e-4, 20).u
        h = torch.stack([model.energy(u) for u in path])
    change = h.diff(dim=0)
    rounding = 1e-12 * float(h.abs().max())
    if model.structure.law == "conserves":
        assert float((h - h[0]).abs().max()) <= rounding
    else:
        assert float(change.max()) <= rounding
        assert float(change.min()) < -1e3 * rounding
    if name in KEEPS_TOTAL:
        totals = path.flatten(2).sum(-1)
        torch.testing.assert_close(totals, totals[:1].expand_as(totals), rtol=1e-12, atol=1e-11)


def test_known_stencils() -> None:
    torch.testing.assert_close(
        CentralDifference(0.5).matrix(torch.zeros(4)),
        2 * torch.tensor([[0.0, 1, 0, -1], [-1, 0, 1, 0], [0, -1, 0, 1], [1, 0, -1, 0]]),
    )
    torch.testing.assert_close(
        Laplacian(1.0).matrix(torch.zeros(4)),
        torch.tensor([[-2.0, 1, 0, 1], [1, -2, 1, 0], [0, 1, -2, 1], [1, 0, 1, -2]]),
    )


@pytest.mark.parametrize("options", [{}, {"rotation": False}, {"rotation": False, "skew": True}])
def test_the_kernel_is_the_operator(options: dict[str, bool]) -> None:
    """A delta is answered by the kernel, turned by half a turn as a correlation does."""
    stencil = scrambled(LearnedStencil(2, 1, 0.5, **options))
    delta = torch.zeros(5, 5)
    delta[2, 2] = 1
    answer = stencil(delta, delta).detach()[1:4, 1:4].flip(0, 1)
    scale = 0.5**2 * (1.0 if options.get("skew") else 0.5**2)
    torch.testing.assert_close(answer * scale, stencil.kernel(), rtol=1e-12, atol=1e-12)


def test_rotation_symmetric_kernel_has_two_weights() -> None:
    stencil = scrambled(LearnedStencil(2, 1))
    kernel = stencil.kernel()
    assert sum(p.numel() for p in stencil.parameters()) == 2
    for turned in (kernel.rot90(), kernel.flip(0), kernel.T):
        torch.testing.assert_close(turned, kernel)
    assert float(kernel.sum()) == pytest.approx(0, abs=1e-14)
    assert float(kernel[1, 1]) < 0 < float(kernel[0, 0])


def test_friction_is_never_negative() -> None:
    structure = Damped(4, 0.25)
    torch.testing.assert_close(structure.friction, torch.full((2,), 0.25))
    with torch.no_grad():
        structure.log_friction.fill_(-50.0)
    assert (structure.friction >= 0).all()


def test_power_of_the_ports() -> None:
    """H(u1) - H(u0) = dt <DH, B f> with a skew structure: what flows in is what is stored."""
    model = EnergyModel(MLPEnergy(4, 8), PortHamiltonian(Symplectic(), 4, 2))
    forces = torch.randn(10, 3, 2)
    with torch.no_grad():
        path = rollout(model, torch.randn(3, 4), 0.1, 10, inputs=forces).u
        for before, after, force in zip(path[:-1], path[1:], forces, strict=True):
            power = (model.discrete_gradient(after, before) * model.structure.port(force)).sum(-1)
            torch.testing.assert_close(model.energy(after) - model.energy(before), 0.1 * power, rtol=1e-10, atol=1e-13)


def step_of(structure: Structure, **options: Tensor) -> Tensor:
    model = EnergyModel(MLPEnergy(2, 4), structure)
    return model(torch.randn(4, 2), torch.randn(4, 2), **options)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "not skew": (lambda: GivenMatrix(torch.ones(2, 2)), r"symmetric part of G has an entry 1.*G - G\^T"),
    "growing": (lambda: GivenMatrix(torch.eye(2), "dissipates"), "eigenvalue 1 > 0"),
    "not finite": (lambda: GivenMatrix(torch.full((2, 2), torch.nan)), "symmetric part"),
    "not square": (lambda: GivenMatrix(torch.ones(2, 3)), r"square matrix, not of shape \(2, 3\)"),
    "odd state": (lambda: Symplectic()(torch.ones(1, 3), torch.ones(1, 3)), "even number of entries, not 3"),
    "nothing": (lambda: LearnedMatrix(3, skew=False), "nothing to learn"),
    "friction": (lambda: Damped(4, -1.0), "positive"),
    "spacing": (lambda: Laplacian(0.0), "dx is 0"),
    "network": (lambda: StateDependent(nn.Linear(3, 5))(torch.ones(1, 3), torch.ones(1, 3)), "gives 5 numbers.*need 9"),
    "neither law": (lambda: GivenMatrix(torch.zeros(2, 2), "keeps"), "'keeps' is neither"),
    "no structure": (lambda: EnergyModel(MLPEnergy(2, 4), nn.Linear(2, 2)), "structure is Linear; expected a Struct"),
    "swapped": (lambda: EnergyModel(Symplectic(), MLPEnergy(2, 4)), "the energy is Symplectic"),
    "size of a matrix": (lambda: step_of(LearnedMatrix(3)), r"acts on states \[B, 3\], not .* shape \(4, 2\)"),
    "size of what is given": (lambda: step_of(GivenMatrix(torch.zeros(3, 3))), r"acts on states \[B, 3\]"),
    "size of a friction": (lambda: step_of(Damped(4)), r"Damped acts on states \[B, 4\]"),
    "axes": (lambda: step_of(Laplacian(0.1, 2)), r"Laplacian acts on states \[B, n, n\]"),
    "inputs without ports": (lambda: step_of(Symplectic(), inputs=torch.zeros(4, 1)), "Symplectic takes none"),
    "inputs of another size": (
        lambda: step_of(PortHamiltonian(Symplectic(), 2, 1), inputs=torch.zeros(4, 2)),
        r"takes 1 a sample, shape \(4, 1\)",
    ),
    "skew and turned": (lambda: LearnedStencil(2, skew=True), "rotation=False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(PhysicsError, match=message):
        make()


def test_matrix_of_a_state(float64: None) -> None:
    structure = scrambled(StateDependent(mlp(3, 9, 4, 1)))
    u: Tensor = torch.randn(3)
    g = torch.randn(3)
    torch.testing.assert_close(structure.matrix(u) @ g, structure(g[None], u[None])[0])
