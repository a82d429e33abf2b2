"""<DH(u, v), u - v> = H(u) - H(v) to rounding, for every operator that has a rule, near and far in one tensor."""

import copy
import functools
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.errors import PhysicsError
from neuromech.physics import DiscreteGradient, discrete_gradient, register_rule
from neuromech.physics.energy import composites, pair_rules, rules
from neuromech.physics.energy.graph import op_name, trace
from tests.families import fast
from tests.physics.energy import operators

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")]

GROUPS = {
    "linear": operators.LINEAR,
    "bilinear": operators.BILINEAR,
    "quadratic": operators.QUADRATIC,
    "secant": operators.SECANTS,
    "softmax": operators.SOFTMAX,
    "pair": operators.PAIRS,
    "composite": operators.COMPOSITES,
}
CASES = [pytest.param(name, f, id=f"{group}-{name}") for group, fs in GROUPS.items() for name, f in fs.items()]
SCALES = (1e-12, 1e-8, 1e-4, 1.0, 1e2)


def energy_of(function: operators.Function) -> operators.Function:
    """The sum of y + y^2 of the function's values y. Its attribute `size`: of |y| + y^2, of what is added."""

    def total(x: Tensor, first: operators.Function) -> Tensor:
        y = function(x)
        weights = torch.linspace(0.5, 1.5, y[0].numel()).reshape(y.shape[1:])
        return ((first(y) + y * y) * weights).reshape(len(x), -1).sum(1)

    def energy(x: Tensor) -> Tensor:
        return total(x, lambda y: y)

    energy.size = lambda x: total(x, torch.abs)
    return energy


@functools.cache
def traced(function: operators.Function) -> tuple[operators.Function, DiscreteGradient]:
    """The energy of a case and its discrete gradient, traced once for all tests of it."""
    energy = energy_of(function)
    return energy, discrete_gradient(energy)


def residual(energy, dg, u: Tensor, v: Tensor) -> float:
    """|<DH, u - v> - (H(u) - H(v))| relative to the sizes of what is added, the worst sample."""
    axes = list(range(1, u.ndim))
    terms = dg(u, v).detach() * (u - v)
    size = getattr(energy, "size", lambda x: energy(x).abs())
    scale = size(u) + size(v) + terms.abs().sum(axes)
    return float(((terms.sum(axes) - (energy(u) - energy(v))).abs() / scale).max().detach())


def states(mixed: bool = True, batch: int = 16) -> tuple[Tensor, Tensor]:
    """Pairs at distances from 1e-12 to 1e2, in different entries of the same state and in different samples."""
    v = torch.randn(batch, 6)
    scale = (
        10 ** torch.empty(batch, 6).uniform_(-12, 2) if mixed else torch.tensor(SCALES)[torch.arange(batch) % 5, None]
    )
    return v + torch.randn(batch, 6) * scale, v


def bundle(cases: list[tuple[str, operators.Function]]) -> operators.Function:
    """The values of several cases side by side."""
    return lambda x: torch.cat([f(x).reshape(len(x), -1).to(x.dtype) for _, f in cases], 1)


def assert_identity(function: operators.Function) -> None:
    energy, dg = traced(function)
    for mixed in (True, False):
        assert residual(energy, dg, *states(mixed)) <= 1e-13


def assert_is_the_gradient_at_equal_states(function: operators.Function, tolerance: float) -> None:
    energy, dg = traced(function)
    u = torch.randn(16, 6)
    (expected,) = torch.autograd.grad(energy(w := u.clone().requires_grad_()).sum(), w)
    torch.testing.assert_close(dg(u, u), expected, rtol=tolerance, atol=tolerance)


# PyTorch's own derivatives of these have constants in single precision.
SINGLE = {"celu", "hardsigmoid"}
# To trace an energy costs as much as all that is done with it: several operators share one. A wrong rule is off by the
# size of its own term, far more than rounding of the others. A dozen of each group here, all in the slow tests.
BUNDLES = {
    group: bundle([(name, f) for name, f in functions.items() if name not in SINGLE][:12])
    for group, functions in GROUPS.items()
}


@pytest.mark.parametrize("group", BUNDLES)
def test_identity_and_gradient(group: str) -> None:
    assert_identity(BUNDLES[group])
    assert_is_the_gradient_at_equal_states(BUNDLES[group], 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "function"), CASES)
def test_identity_of_each(name: str, function: operators.Function) -> None:
    assert_identity(function)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "function"), CASES)
def test_each_is_the_gradient_at_equal_states(name: str, function: operators.Function) -> None:
    assert_is_the_gradient_at_equal_states(function, 1e-6 if name in SINGLE else 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "function"), CASES)
def test_the_case_holds_its_operator(name: str, function: operators.Function) -> None:
    graph = trace(function, torch.randn(3, 6)).graph
    found = {op_name(n).rstrip("_") for n in graph.nodes if n.op == "call_function"}
    composed_in_python = {"softsign", "tanhshrink", "relu6", "tensordot", "nll_loss_forward", "nll_loss2d_forward"}
    assert name in found or name in composed_in_python


def test_every_operator_of_the_tables_is_tested() -> None:
    # Met only inside other operators, or as the older spelling of one that is tested.
    inner = {"convolution", "_softmax", "_log_softmax", "norm", "true_divide", "clip"}
    assert set(operators.LINEAR) == rules.LINEAR
    assert rules.BILINEAR - inner == set(operators.BILINEAR)
    assert set(operators.QUADRATIC) == rules.QUADRATIC
    assert rules.SOFTMAX - inner == set(operators.SOFTMAX)
    assert set(rules.SECANTS) == set(operators.SECANTS)
    assert set(pair_rules.PAIRS) == set(operators.PAIRS) | operators.GONE
    assert set(composites.COMPOSITES) - inner - {"abs"} <= set(operators.COMPOSITES)


NETWORKS = st.integers(0, 10**6), st.sampled_from(["tanh", "sigmoid", "softplus", "gelu", "silu", "sin", "relu"])


@given(*NETWORKS)
@settings(max_examples=2)
def test_random_networks(seed: int, name: str) -> None:
    check_random_network(seed, name)


@pytest.mark.slow
@given(*NETWORKS)
@settings(max_examples=20)
def test_many_random_networks(seed: int, name: str) -> None:
    check_random_network(seed, name)


def check_random_network(seed: int, name: str) -> None:
    torch.manual_seed(seed)
    act = torch.sin if name == "sin" else getattr(F, name)
    width = int(torch.randint(1, 40, ()))
    first, second, last = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 1)

    def energy(u: Tensor) -> Tensor:
        return 1 + last(act(second(act(first(u))))).squeeze(-1) ** 2

    dg = discrete_gradient(energy)
    assert residual(energy, dg, *states()) <= 1e-13


class Attention(nn.Module):
    """Tokens [B, 6, 4] through attention, a residual connection, layer norm and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return (F.gelu(self.out(h)) ** 2).sum((1, 2))


@pytest.mark.parametrize("training", fast([True, False], [True]))
def test_a_transformer_block_is_an_energy(training: bool) -> None:
    energy = Attention().train(training)
    v = torch.randn(5, 6, 4)
    u = v + torch.randn(v.shape) * 10 ** torch.empty(v.shape).uniform_(-12, 2)
    assert residual(energy, discrete_gradient(energy), u, v) <= 1e-13


def test_kdv_scheme_by_hand() -> None:
    """Furihata (1999): the discrete variational derivative of -a u^3/6 - b u_x^2/2."""
    dx, a, b = 0.2, -6.0, 1.0

    def energy(u: Tensor) -> Tensor:
        return dx * (-a / 6 * u**3 - b / 2 * ((u.roll(-1, -1) - u) / dx) ** 2).sum(-1)

    u, v = torch.randn(4, 30), torch.randn(4, 30)
    m = (u + v) / 2
    by_hand = -a / 6 * (u**2 + u * v + v**2) + b * (m.roll(-1, -1) - 2 * m + m.roll(1, -1)) / dx**2
    torch.testing.assert_close(discrete_gradient(energy)(u, v) / dx, by_hand, rtol=1e-13, atol=1e-12)


def test_cahn_hilliard_scheme_by_hand() -> None:
    """(u^3 + u^2 v + u v^2 + v^3)/4 - (u + v)/2 - gamma of the midpoint's Laplacian (Du and Nicolaides 1991)."""
    dx, gamma = 0.02, 5e-4

    def energy(u: Tensor) -> Tensor:
        return dx * ((u**2 - 1) ** 2 / 4 + gamma / 2 * ((u.roll(-1, -1) - u) / dx) ** 2).sum(-1)

    u, v = torch.randn(4, 30), torch.randn(4, 30)
    m = (u + v) / 2
    by_hand = (u**3 + u**2 * v + u * v**2 + v**3) / 4 - m
    by_hand = by_hand - gamma * (m.roll(-1, -1) - 2 * m + m.roll(1, -1)) / dx**2
    torch.testing.assert_close(discrete_gradient(energy)(u, v) / dx, by_hand, rtol=1e-13, atol=1e-13)


# -- training through it ----------------------------------------------------------------------------------------------


# Gonzalez's correction divides rounding by |u - v|^2 at small distances; that is what the chain form is for.
DERIVED = [
    (f, d) for f in ("chain", "average", "midpoint") for d in (0.0, 1e-7, 0.1, 2.0) if f != "midpoint" or d != 1e-7
]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1), nn.Flatten(0))


@pytest.mark.parametrize(("form", "distance"), fast(DERIVED, [("midpoint", 0.1)]))
def test_derivatives_by_parameters(form: str, distance: float) -> None:
    """First and second order, against central differences, also where the states nearly coincide."""
    energy = network()
    v = torch.randn(2, 6)
    u = v + distance * torch.randn(2, 6)
    dg = discrete_gradient(energy, form)
    weight = energy[0].weight

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = energy

        def forward(self) -> Tensor:
            return dg(u, v)

    def value(w: Tensor) -> Tensor:
        return torch.func.functional_call(Call(), {"energy.0.weight": w}, ())

    assert torch.autograd.gradcheck(value, weight)
    assert torch.autograd.gradgradcheck(value, weight)


@pytest.mark.parametrize("form", fast(["chain", "average", "midpoint"], ["chain"]))
def test_derivatives_by_states(form: str) -> None:
    dg = discrete_gradient(network(), form)
    u, v = torch.randn(2, 2, 6, requires_grad=True).unbind(0)
    u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
    assert torch.autograd.gradcheck(dg, (u, v))
    assert torch.autograd.gradgradcheck(dg, (u, v))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # PyTorch's own, at the first jvp
def test_function_transforms() -> None:
    dg = discrete_gradient(network())
    u, v = torch.randn(2, 5, 6).unbind(0)
    t = torch.randn(5, 6)
    _, by_jvp = torch.func.jvp(lambda w: dg(w, v), (u,), (t,))
    (_, pull) = torch.func.vjp(lambda w: dg(w, v), u)
    g = torch.randn(5, 6)
    torch.testing.assert_close((g * by_jvp).sum(), (pull(g)[0] * t).sum())
    many_u, many_v = torch.randn(2, 3, 5, 6).unbind(0)
    torch.testing.assert_close(
        torch.func.vmap(dg)(many_u, many_v), torch.stack([dg(a, b) for a, b in zip(many_u, many_v, strict=True)])
    )


# -- how it is used ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_state_a_batch_and_a_sum_agree() -> None:
    energy = network()
    u, v = torch.randn(2, 4, 6).unbind(0)
    batch = discrete_gradient(energy)(u, v)
    torch.testing.assert_close(batch, discrete_gradient(lambda w: energy(w).sum())(u, v))
    one = discrete_gradient(lambda w: energy(w[None])[0])
    torch.testing.assert_close(batch, torch.stack([one(a, b) for a, b in zip(u, v, strict=True)]))


def test_symmetric_in_the_states() -> None:
    dg = discrete_gradient(network())
    u, v = states(batch=8)
    torch.testing.assert_close(dg(u, v), dg(v, u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: lambda u: m(u)], ids=["module", "function"])
def test_parameters_are_live(wrap) -> None:
    module = network()
    dg = discrete_gradient(wrap(module))
    u, v = torch.randn(2, 4, 6).unbind(0)
    before = dg(u, v)
    with torch.no_grad():
        module[4].weight.mul_(2)
    torch.testing.assert_close(dg(u, v), 2 * before)


def test_a_replaced_parameter_counts() -> None:
    module = network()
    dg = discrete_gradient(module)
    u, v = torch.randn(2, 4, 6).unbind(0)
    before = dg(u, v)
    module[4].weight = nn.Parameter(3 * module[4].weight.detach())
    torch.testing.assert_close(dg(u, v), 3 * before)


@pytest.mark.parametrize("form", ["chain", "average", "midpoint"])
def test_one_unit_at_the_end_is_one_number_a_sample(form: str) -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    u, v = torch.randn(2, 4, 6).unbind(0)
    squeezed = discrete_gradient(lambda w: module(w).squeeze(1), form)
    torch.testing.assert_close(discrete_gradient(module, form)(u, v), squeezed(u, v))


@pytest.mark.parametrize("retraces", [True, False])
def test_python_numbers_count(retraces: bool) -> None:
    settings = {"stiffness": 1.0}
    dg = discrete_gradient(lambda u: settings["stiffness"] * (u**2).sum(1))
    u, v = torch.randn(2, 4, 6).unbind(0)
    before = dg(u, v)
    settings["stiffness"] = 2.0
    if retraces:
        dg.retrace()
    torch.testing.assert_close(dg(u, v), 2 * before)


def test_in_place_operators_of_its_own_memory_are_fine() -> None:
    def energy(x: Tensor) -> Tensor:
        h = 2 * x
        h += 1
        return F.relu(h.mul_(3), inplace=True).sum(1)

    def pure(x: Tensor) -> Tensor:
        return F.relu(3 * (2 * x + 1)).sum(1)

    u, v = torch.randn(2, 4, 6).unbind(0)
    torch.testing.assert_close(discrete_gradient(energy)(u, v), discrete_gradient(pure)(u, v))


def test_copies_and_pickles() -> None:
    dg = discrete_gradient(network())
    u, v = torch.randn(2, 4, 6).unbind(0)
    expected = dg(u, v)
    copied = copy.deepcopy(dg)
    torch.testing.assert_close(copied(u, v), expected)
    assert copied.energy is not dg.energy
    torch.testing.assert_close(pickle.loads(pickle.dumps(dg))(u, v), expected)


def test_under_inference_mode_and_without_gradients() -> None:
    module = network()
    u, v = torch.randn(2, 4, 6).unbind(0)
    expected = discrete_gradient(module)(u, v)
    with torch.inference_mode():
        torch.testing.assert_close(discrete_gradient(module)(u, v), expected)
    with torch.no_grad():
        found = discrete_gradient(module)(u, v)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_single_precision_reaches_its_own_rounding() -> None:
    inner = network().float()

    def energy(u: Tensor) -> Tensor:
        return 1 + inner(u) ** 2

    dg = discrete_gradient(energy)
    u, v = (x.float() for x in states())
    assert residual(energy, dg, u, v) <= 2e-6


# -- the alternatives -------------------------------------------------------------------------------------------------


def test_average_converges_with_its_nodes() -> None:
    energy = network()
    u, v = torch.randn(2, 8, 6).unbind(0)
    errors = [residual(energy, discrete_gradient(energy, "average", nodes=n), u, v) for n in (1, 2, 4, 12)]
    assert errors[0] > 1e2 * errors[2] > 0
    assert errors[-1] < 1e-11


def test_midpoint_is_exact_far_from_equal_states() -> None:
    energy = network()
    dg = discrete_gradient(energy, "midpoint")
    u, v = torch.randn(2, 8, 6).unbind(0)
    assert residual(energy, dg, u, v) <= 1e-14
    torch.testing.assert_close(dg(u, u), discrete_gradient(energy)(u, u))
    one = discrete_gradient(lambda w: energy(w[None])[0], "midpoint")
    torch.testing.assert_close(one(u[0], v[0]), dg(u, v)[0])


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "not summed": (
        lambda u: u**2,
        r"shape \(4, 6\) and torch.float64; expected a real number, shape \(\), or one a sample, shape \(4,\)",
    ),
    "no rule": (lambda u: torch.lgamma(u).sum(1), r"aten.lgamma.default, which has no discrete chain rule"),
    "sorted": (lambda u: torch.sort(u, 1)[0].sum(1), r"aten.sort"),
    "random": (lambda u: F.dropout(u).sum(1), r"random.*\.eval\(\)"),
    "batch statistics": (lambda u: F.batch_norm(u, None, None, training=True).sum(1), r"batch_norm.*couple"),
    "coupled": (lambda u: u.sum(1) * u.sum(), r"first of 4 samples depends on the others"),
    "branch": (lambda u: u.sum(1) if u.sum() > 0 else -u.sum(1), r"branch that depends on the values"),
    "item": (lambda u: u.sum(1) * u.sum().item(), r"_local_scalar_dense|branch"),
    "constant": (lambda u: torch.ones(4), r"does not depend on the state"),
    "detached": (lambda u: (u.detach() * u).sum(1), r"detach.*hides"),
    "writes into the state": (lambda u: u.add_(1).sum(1), r"add_.*in place"),
    "transform": (lambda u: torch.vmap(lambda w: (w**2).sum())(u), r"loses the state.*vmap.*form=.midpoint."),
    "matrix function": (lambda u: torch.matrix_exp(u.reshape(-1, 2, 3)[:, :, :2]).sum((1, 2)), r"exp.*form=.midpoint."),
    "nothing": (lambda u: None, "no tensor"),
    "integer": (lambda u: u.sum(1).long(), "int64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_energies(name: str) -> None:
    energy, message = REFUSED[name]
    with pytest.raises(PhysicsError, match=message):
        discrete_gradient(energy)(torch.randn(4, 6), torch.randn(4, 6))


@pytest.mark.parametrize("form", ["average", "midpoint"])
@pytest.mark.parametrize("name", ["not summed", "coupled", "constant", "nothing", "integer"])
def test_the_alternatives_refuse_what_is_no_energy(name: str, form: str) -> None:
    energy, message = REFUSED[name]
    with pytest.raises(PhysicsError, match=message):
        discrete_gradient(energy, form)(torch.randn(4, 6), torch.randn(4, 6))


@pytest.mark.parametrize("form", ["chain", "average", "midpoint"])
def test_a_module_that_ignores_the_state_is_no_energy(form: str) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.ones(4))

        def forward(self, u: Tensor) -> Tensor:
            return 2 * self.level

    with pytest.raises(PhysicsError, match="does not depend on the state"):
        discrete_gradient(Constant(), form)(torch.randn(4, 6), torch.randn(4, 6))


def test_the_random_numbers_of_the_user_are_not_touched() -> None:
    dg, u = discrete_gradient(network()), torch.randn(4, 6)
    before = torch.get_rng_state()
    dg(u, u)
    assert torch.equal(before, torch.get_rng_state())


def test_refused_states() -> None:
    dg = discrete_gradient(network())
    u = torch.randn(4, 6)
    for v, message in (
        (u[:2], r"\(4, 6\).*\(2, 6\)"),
        (u.float(), "float32"),
        (torch.where(u > 0, u, torch.nan), "not finite, the first at index"),
        (u.long(), "int64"),
        (u.numpy(), "ndarray"),
    ):
        with pytest.raises(PhysicsError, match=message):
            dg(u, v)
    with pytest.raises(PhysicsError, match="form"):
        discrete_gradient(network(), "gradient")  # type: ignore[arg-type]
    with pytest.raises(PhysicsError, match="at least one node, not 0"):
        discrete_gradient(network(), "average", nodes=0)
    with pytest.raises(PhysicsError, match="function of the state"):
        discrete_gradient(3.0)  # type: ignore[arg-type]


def test_an_error_in_the_energy_itself_comes_through() -> None:
    with pytest.raises(RuntimeError, match=r"size|shape"):
        discrete_gradient(lambda u: (u @ torch.ones(5)).sum())(torch.randn(4, 6), torch.randn(4, 6))


# -- what people bring -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own, in its compiler
def test_compiled_energies_are_what_they_were_compiled_from() -> None:
    plain = network()
    u, v = torch.randn(2, 4, 6).unbind(0)
    for energy in (torch.compile(plain), nn.Sequential(torch.compile(plain))):
        torch.testing.assert_close(discrete_gradient(energy)(u, v), discrete_gradient(plain)(u, v))


@pytest.mark.slow
def test_spectral_norm_in_training() -> None:
    for wrap in (nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm):
        module = nn.Sequential(wrap(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 1)).train()
        dg = discrete_gradient(module)
        u, v = torch.randn(2, 4, 6).unbind(0)
        for _ in range(200):  # power iterations, as forward passes make them
            found = dg(u, v)
        with torch.no_grad():
            change = (module.eval()(u) - module(v)).squeeze(1)
        torch.testing.assert_close((found * (u - v)).sum(1), change)


def test_message_passing_of_a_graph() -> None:
    """Degree-normalised sums over edges, as graph convolutions write them: in place."""
    source, target = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])

    def energy(u: Tensor) -> Tensor:
        x = u.reshape(-1, 3, 2)
        degree = torch.zeros(3).index_add_(0, target, torch.ones(4)).pow_(-0.5)
        messages = (degree[source] * degree[target])[:, None] * torch.tanh(x[:, source] - x[:, target])
        out = torch.zeros_like(x).index_add_(1, target, messages)
        return out.square().sum((1, 2))

    assert residual(energy, discrete_gradient(energy), *states()) <= 1e-13


@pytest.mark.slow
def test_the_mass_matrix_of_a_double_pendulum() -> None:
    def energy(u: Tensor) -> Tensor:
        q, p = u[:, :2], u[:, 2:4]
        c = torch.cos(q[:, 0] - q[:, 1])
        mass = torch.stack([torch.stack([2 + 0 * c, c], -1), torch.stack([c, 1 + 0 * c], -1)], -2)
        return (p * torch.linalg.solve(mass, p)).sum(1) / 2 - 2 * torch.cos(q[:, 0]) - torch.cos(q[:, 1])

    dg = discrete_gradient(energy)
    u, v = torch.randn(2, 16, 6).unbind(0)
    assert residual(energy, dg, u, v) <= 1e-13


@torch.library.custom_op("neuromech_test::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


cube.register_fake(torch.empty_like)
cube.register_autograd(lambda ctx, g: 3 * g * ctx.x**2, setup_context=lambda ctx, inputs, output: _keep(ctx, *inputs))


def _keep(ctx, x: Tensor) -> None:
    ctx.x = x


def test_rules_of_the_users_own() -> None:
    def energy(u: Tensor) -> Tensor:
        return cube(u).sum(1)

    u, v = torch.randn(2, 5, 6).unbind(0)
    with pytest.raises(PhysicsError, match=r"neuromech_test\.cube.*register_rule"):
        discrete_gradient(energy)(u, v)
    register_rule("neuromech_test::cube", "secant", lambda a, b, fa, fb: a * a + a * b + b * b)
    assert residual(energy, discrete_gradient(energy), *states()) <= 1e-13
    with pytest.raises(PhysicsError, match="replace=True"):
        register_rule("neuromech_test::cube", "linear")
    register_rule("neuromech_test::cube", "secant", lambda a, b, fa, fb: a * a, replace=True)
    with pytest.raises(PhysicsError, match="registered rule that is wrong"):
        discrete_gradient(energy)(u, v)
    register_rule("lgamma", "pointwise", torch.digamma)
    smooth = discrete_gradient(lambda w: torch.lgamma(4 + w.square()).sum(1))
    assert residual(smooth.energy, smooth, u, v) <= 1e-13
    for name, kind, words in (
        ("nothing", "linear", "no operator"),
        ("mul", "linear", "has a rule"),
        ("abs", "x", "kind"),
    ):
        with pytest.raises(PhysicsError, match=words):
            register_rule(name, kind)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # PyTorch 2.14 deprecates it
def test_scripted_energies_say_what_to_do() -> None:
    plain = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    scripted = torch.jit.script(plain)
    with pytest.raises(PhysicsError, match="scripted module hides its operators"):
        discrete_gradient(scripted)
    u, v = torch.randn(2, 4, 6).unbind(0)
    found = discrete_gradient(scripted, "midpoint")(u, v)
    torch.testing.assert_close(found, discrete_gradient(plain, "midpoint")(u, v))
