"""Divergence-free fields: exact in both precisions, the same by every scheme, refused where they cannot be true."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev, vmap

from neuromech.errors import PhysicsError
from neuromech.physics import DivergenceFree, Periodic, Sin, mlp
from neuromech.physics.fields.schemes import SCHEMES, antisymmetric, cheapest, outputs_of
from neuromech.physics.fields.taylor import jacobian

BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-14}


class Residual(nn.Module):
    """A block that no rule opens."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return h + nn.functional.silu(self.b(h))


POTENTIALS = {
    "tanh": lambda n, m: mlp(n, m, 16, 3),
    "sin": lambda n, m: mlp(n, m, 16, 2, Sin),
    "silu": lambda n, m: mlp(n, m, 16, 2, nn.SiLU),
    "softplus": lambda n, m: mlp(n, m, 16, 2, nn.Softplus),
    "periodic": lambda n, m: mlp(n, m, 16, 2, nn.GELU, periods=[1.0] * n),
    "nested": lambda n, m: nn.Sequential(nn.Sequential(nn.Linear(n, 16), nn.Sigmoid()), nn.Linear(16, m)),
    "readout after a block": lambda n, m: nn.Sequential(Residual(n, 16), nn.Linear(16, m)),
    "a block alone": lambda n, m: Residual(n, m),
    "layer norm": lambda n, m: nn.Sequential(nn.Linear(n, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, m)),
    "group norm": lambda n, m: nn.Sequential(nn.Linear(n, 16), nn.GroupNorm(4, 16), nn.Tanh(), nn.Linear(16, m)),
    "tanh GELU": lambda n, m: nn.Sequential(nn.Linear(n, 16), nn.GELU("tanh"), nn.Linear(16, m)),
    "no readout": lambda n, m: nn.Sequential(nn.Linear(n, m), nn.Tanh()),
}


def relative_divergence(field: DivergenceFree, x: torch.Tensor) -> float:
    j = vmap(jacrev(field))(x)[..., field.conditions :]
    return float(j.detach().diagonal(dim1=1, dim2=2).sum(-1).norm() / j.detach().norm())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("form", SCHEMES)
def test_divergence_is_rounding(form, n, dtype) -> None:
    for activation in (nn.Tanh, Sin):
        field = DivergenceFree(mlp(n, outputs_of(form, n), 32, 2, activation), n, form).to(dtype)
        assert relative_divergence(field, torch.randn(8, n, dtype=dtype)) <= BOUNDS[dtype]


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("form", SCHEMES)
def test_every_scheme_is_the_definition(form, name, float64) -> None:
    """Values and parameter gradients agree with the nested derivatives that the definition asks for."""
    n = 3
    potential = POTENTIALS[name](n, outputs_of(form, n))
    x = torch.randn(5, n)
    seen = {}
    for scheme in SCHEMES[form]:
        v = DivergenceFree(potential, n, form, scheme)(x)
        grads = torch.autograd.grad(v.square().sum(), list(potential.parameters()), allow_unused=True)
        pairs = zip(grads, potential.parameters(), strict=True)
        seen[scheme] = torch.cat(
            [v.flatten(), *(torch.zeros(p.numel()) if g is None else g.flatten() for g, p in pairs)]
        )
        with torch.no_grad():
            torch.testing.assert_close(DivergenceFree(potential, n, form, scheme)(x), v.detach())
    for scheme, values in seen.items():
        torch.testing.assert_close(values, seen["nested"], msg=lambda m, s=scheme: f"{s}: {m}")


def test_definition_by_hand(float64) -> None:
    """A_12 = x^2 y, A_13 = z, A_23 = x y z: v = (x^2 + 1, -2 x y + x y, -x z), written out on paper."""

    class Known(nn.Module):
        def forward(self, p):
            x, y, z = p.T
            return torch.stack([x * x * y, z, x * y * z], -1)

    p = torch.randn(6, 3)
    x, y, z = p.T
    expected = torch.stack([x * x + 1, -2 * x * y + x * y, -x * z], -1)
    for scheme in SCHEMES["matrix"]:
        torch.testing.assert_close(DivergenceFree(Known(), 3, scheme=scheme)(p), expected)


def test_vector_form_by_hand(float64) -> None:
    """b = (y^2, x^3): v = Lap b - grad div b = (2, 6 x)."""

    class Known(nn.Module):
        def forward(self, p):
            x, y = p.T
            return torch.stack([y * y, x**3], -1)

    p = torch.randn(6, 2)
    expected = torch.stack([torch.full_like(p[:, 0], 2.0), 6 * p[:, 0]], -1)
    for scheme in SCHEMES["vector"]:
        torch.testing.assert_close(DivergenceFree(Known(), 2, "vector", scheme)(p), expected)


@pytest.mark.slow
@given(st.integers(2, 6), st.integers(0, 2), st.sampled_from(sorted(SCHEMES)), st.integers(1, 3), st.integers(0, 99))
def test_conditions_depths_and_single_points(n, conditions, form, depth, seed) -> None:
    torch.manual_seed(seed)
    potential = mlp(conditions + n, outputs_of(form, n), 8, depth).double()
    field = DivergenceFree(potential, n, form, conditions=conditions)
    x = torch.randn(4, conditions + n, dtype=torch.float64)
    slow = DivergenceFree(potential, n, form, "nested", conditions)
    torch.testing.assert_close(field(x), slow(x))
    torch.testing.assert_close(vmap(field)(x), field(x))
    torch.testing.assert_close(field(x[0]), field(x)[0])
    assert relative_divergence(field, x) <= 1e-13  # few points and units: the sum may be small by chance


def test_layer_norm_by_elementary_operations(float64) -> None:
    """torch's own layer norm has wrong third derivatives; written out by hand, it has the same field and gradient."""

    class ByHand(nn.Module):
        def forward(self, h):
            h = h - h.mean(-1, keepdim=True)
            return h / torch.sqrt(h.square().mean(-1, keepdim=True) + 1e-5)

    first, last, x = nn.Linear(3, 16), nn.Linear(16, 3), torch.randn(5, 3)
    for form in SCHEMES:
        for scheme in SCHEMES[form]:
            both = []
            for norm in (nn.LayerNorm(16), ByHand()):
                v = DivergenceFree(nn.Sequential(first, norm, nn.Tanh(), last), 3, form, scheme)(x)
                both.append(torch.cat([v.flatten(), torch.autograd.grad(v.pow(3).sum(), first.weight)[0].flatten()]))
            torch.testing.assert_close(*both)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("form", sorted(SCHEMES))
def test_over_attention(form, float64) -> None:
    layer = nn.TransformerEncoderLayer(2, 1, 4, 0.0, batch_first=True, activation="gelu")
    net = nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (3, 2)), layer, nn.Flatten(), nn.Linear(6, 3))
    x, nested = torch.randn(4, 3), DivergenceFree(net, 3, form, "nested")
    for scheme in SCHEMES[form]:
        field = DivergenceFree(net, 3, form, scheme)
        torch.testing.assert_close(field(x), nested(x))
        assert relative_divergence(field, x) <= 1e-13


def test_affine_potentials_give_constant_fields(float64) -> None:
    x = torch.randn(5, 3)
    v = DivergenceFree(nn.Linear(3, 3), 3)(x)
    torch.testing.assert_close(v, v[:1].expand(5, 3))
    assert (DivergenceFree(nn.Linear(3, 3), 3, "vector")(x) == 0).all()


@pytest.mark.parametrize("name", ["tanh", "periodic", "a block alone"])
def test_jacobian(name, float64) -> None:
    field = DivergenceFree(POTENTIALS[name](4, 3), 3, conditions=1).calibrate(torch.randn(20, 4), 0.7)
    x = torch.randn(5, 4)
    v, j = field.jacobian(x)
    torch.testing.assert_close(v, field(x))
    torch.testing.assert_close(j, jacobian(field, x))


def test_derivatives_and_matrix(float64) -> None:
    field = DivergenceFree(mlp(4, 6, 16), 4)
    x = torch.randn(5, 4)
    for scheme in ("forward", "reverse"):
        field.scheme = scheme
        a, d = field.derivatives(x)
        torch.testing.assert_close(a, field.matrix(x))
        torch.testing.assert_close(a, -a.mT)
        torch.testing.assert_close(d.sum(-1), field(x))
        rows = [jacobian(lambda y, i=i: field.matrix(y)[:, i], x).diagonal(dim1=1, dim2=2) for i in range(4)]
        torch.testing.assert_close(d, torch.stack(rows, 1))


def test_calibrate(float64) -> None:
    x = torch.randn(100, 3)
    field = DivergenceFree(mlp(3, 3), 3).calibrate(x, 2.0)
    torch.testing.assert_close(field(x).square().mean().sqrt(), torch.tensor(2.0))
    again = DivergenceFree(mlp(3, 3), 3)
    again.load_state_dict(field.state_dict())
    torch.testing.assert_close(again(x), field(x))


def test_weights_are_read_anew(float64) -> None:
    """Parametrised layers, hooks and functional calls see what they should."""
    field, x = DivergenceFree(mlp(3, 3, 8), 3), torch.randn(4, 3)
    doubled = {k: 2 * v if k.endswith("6.weight") else v for k, v in field.named_parameters()}
    torch.testing.assert_close(functional_call(field, doubled, (x,)), 2 * field(x))
    nn.utils.parametrizations.weight_norm(field.potential[0])
    field(x).sum().backward()
    calls = []
    field.potential[1].register_forward_hook(lambda *_: calls.append(1))
    field(x)
    field.potential.register_forward_hook(lambda *_: calls.append(2))
    assert 2 not in calls
    field(x)
    assert 2 in calls


def test_cheapest_and_layout() -> None:
    assert [cheapest("matrix", n) for n in (2, 3, 32)] == ["reverse", "forward", "forward"]
    a = antisymmetric(torch.arange(1.0, 7.0), 4)
    assert (a == -a.T).all()
    assert a[0].tolist() == [0, 1, 2, 3]
    assert a[2, 3] == 6


@pytest.mark.parametrize(
    "kink", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Hardtanh, nn.Hardswish, nn.ReLU6, nn.SELU, nn.Softsign, nn.PReLU]
)
def test_kinked_modules_are_refused(kink) -> None:
    with pytest.raises(PhysicsError, match=rf"{kink.__name__} \(module '1'\).*kink.*nn.Tanh"):
        DivergenceFree(nn.Sequential(nn.Linear(3, 8), kink(), nn.Linear(8, 3)), 3)


@pytest.mark.parametrize(
    "function", [torch.relu, torch.abs, lambda x: x.clamp(min=0), lambda x: x.max(-1, True)[0] + x]
)
def test_kinked_functions_are_refused(function) -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return function(self.a(x))

    with pytest.raises(PhysicsError, match="kink"):
        DivergenceFree(Hidden(), 3)(torch.randn(4, 3))


def test_kinks_of_weights_are_no_kinks_of_the_field() -> None:
    class Positive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3))

        def forward(self, x):
            return torch.tanh(x @ self.w.abs())

    DivergenceFree(Positive(), 3)(torch.randn(4, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DivergenceFree(nn.Linear(1, 1), 1), "n=1.*n >= 2.*NeuralConservationLaw"),
        (lambda: DivergenceFree(mlp(3, 3), 3, "tensor"), "form='tensor'.*matrix, vector"),
        (lambda: DivergenceFree(mlp(3, 3), 3, "matrix", "laplacian"), "scheme='laplacian'.*reverse"),
        (lambda: DivergenceFree(mlp(3, 3), 3, conditions=-1), "conditions=-1"),
        (lambda: DivergenceFree(torch.tanh, 3), "nn.Module"),
        (lambda: DivergenceFree(mlp(3, 3), 3)(torch.randn(4, 2)), r"\[4, 2\], expected \[B, 3\]"),
        (lambda: DivergenceFree(mlp(3, 3), 3)(torch.randn(2, 4, 3)), r"\[2, 4, 3\]"),
        (lambda: DivergenceFree(mlp(3, 3), 3)(torch.ones(4, 3, dtype=torch.long)), "int64"),
        (lambda: DivergenceFree(mlp(3, 3), 3)([1.0, 2.0, 3.0]), "got list"),
        (lambda: DivergenceFree(mlp(3, 4), 3)(torch.randn(4, 3)), r"expected \(3, 3\).*antisymmetric"),
        (lambda: DivergenceFree(mlp(3, 4), 3, "vector")(torch.randn(4, 3)), r"expected \(3, 3\).*vector potential"),
        (
            lambda: DivergenceFree(nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 3)), 3)(torch.randn(4, 3)),
            "dropout",
        ),
        (
            lambda: DivergenceFree(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), 3)(
                torch.randn(4, 3)
            ),
            "batch",
        ),
        (lambda: DivergenceFree(nn.Linear(3, 3), 3, "vector").calibrate(torch.randn(9, 3)), "cannot be scaled"),
    ],
)
def test_bad_input(make, words) -> None:
    with pytest.raises(PhysicsError, match=words):
        make()


def test_periodic_is_periodic(float64) -> None:
    layer = Periodic([None, 2.0, 0.5], harmonics=2)
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(x + torch.tensor([0.0, 4.0, 0.5])), layer(x))
    assert layer(x).shape == (5, 1 + 4 + 4)
    torch.testing.assert_close(layer(x)[:, 0], x[:, 0])
