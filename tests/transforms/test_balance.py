"""Balanced models: the same function, at the optimum that an independent optimiser finds."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from neuromech import Balanced, Findings, Symmetry, SymmetryError, balance, find_symmetries
from transforms.nets import MODELS, Tied, build

NAMES = list(MODELS)


def params(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def rescale(found: Findings) -> list[Symmetry]:
    return [s for s in found if s.kind == "rescale" and not s.broken_by]


def exponents(families: Sequence[Symmetry], p: dict[str, Tensor]) -> Tensor:
    """The weight of every element under every member, [elements, members]: brute force, member by member."""
    ones = {name: torch.ones_like(t) for name, t in p.items()}
    columns = []
    for s in families:
        for i in range(s.size):
            v = s.generator(ones, i)
            columns.append(torch.cat([v.get(name, torch.zeros_like(t)).flatten() for name, t in p.items()]))
    return torch.stack(columns, dim=1)


def least_norm(w: Tensor, theta: Tensor) -> float:
    """The minimum by an optimiser that knows nothing of ours."""
    scipy = pytest.importorskip("scipy.optimize")

    def f(a: object) -> tuple[float, object]:
        e = theta.square() * (2 * w @ torch.as_tensor(a)).exp()
        return float(e.sum()), (2 * e @ w).numpy()

    return float(scipy.minimize(f, [0.0] * w.shape[1], jac=True, method="BFGS", options={"gtol": 1e-9}).fun)


def output(model: nn.Module, x: Tensor) -> Tensor:
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        y = model(x)
    model.load_state_dict(state)  # running statistics
    return y


@pytest.mark.parametrize("name", NAMES)
def test_least_norm(name: str) -> None:
    model, x = build(name)
    found = find_symmetries(model, x)
    families, before, y = rescale(found), params(model), output(model, x)
    done = balance(model, found)
    after = params(model)
    assert (output(model, x) - y).norm() < 1e-13 * y.norm()
    w = exponents(families, before)
    theta = torch.cat([p.flatten() for p in before.values()])
    still = sum(float(p.square().sum()) for n, p in before.items() if not any(n in s.parameters for s in families))
    norm = sum(float(p.square().sum()) for p in after.values())
    assert norm == pytest.approx(least_norm(w, theta), rel=1e-9)
    assert norm <= float(theta.square().sum())
    assert done.after == pytest.approx(norm - still, rel=1e-12)
    assert done.before == pytest.approx(float(theta.square().sum()) - still, rel=1e-12)
    for s in families:  # the conserved charges vanish
        assert s.charge(after).abs().max() <= 1e-11 * done.after
    moved = (w @ torch.cat(done.log_factors)).exp() * theta
    assert torch.allclose(torch.cat([p.flatten() for p in after.values()]), moved, rtol=1e-12)


def test_two_layers_in_closed_form() -> None:
    model, x = build("two layers")
    rows, columns = model[0].weight.detach().norm(dim=1), model[2].weight.detach().norm(dim=0)
    done = balance(model, x)
    assert torch.allclose(done.log_factors[0], (columns / rows).log() / 2, rtol=1e-10)
    assert done.after == pytest.approx(float(2 * (rows * columns).sum()), rel=1e-12)  # AM-GM
    assert torch.allclose(model[0].weight.norm(dim=1), model[2].weight.norm(dim=0))


@pytest.mark.parametrize("name", NAMES)
def test_equal_ranges(name: str) -> None:
    model, x = build(name)
    found = find_symmetries(model, x)
    y = output(model, x)
    balance(model, found, criterion="range")
    assert (output(model, x) - y).norm() < 1e-13 * y.norm()
    after = params(model)
    for s in rescale(found):
        w = exponents([s], after)
        theta = torch.cat([p.flatten() for p in after.values()]).abs()
        matrices = torch.cat([torch.full_like(p, p.ndim > 1).flatten() for p in after.values()]) > 0
        for i in range(s.size):
            sides = []
            for sign in (1, -1):
                side = w[:, i] * sign > 0
                sides.append(theta[side & matrices] if (side & matrices).any() else theta[side])
            assert float(sides[0].max()) == pytest.approx(float(sides[1].max()), rel=1e-7)


def test_equal_ranges_of_two_layers_in_closed_form() -> None:
    model, x = build("two layers")
    rows, columns = model[0].weight.detach().abs().amax(1), model[2].weight.detach().abs().amax(0)
    done = balance(model, x, criterion="range")
    assert torch.allclose(done.log_factors[0], (columns / rows).log() / 2, rtol=1e-10)


@pytest.mark.parametrize("criterion", ["norm", "range"])
@pytest.mark.parametrize("name", NAMES)
def test_the_optimum_does_not_depend_on_where_one_starts(name: str, criterion: str) -> None:
    """Metamorphic: a model moved along its symmetries first ends at the same point (equal ranges: in as good a one),
    and what is balanced stays."""
    model, x = build(name)
    other = copy.deepcopy(model)
    found = find_symmetries(model, x)
    p = params(other)
    for s in rescale(found):
        p = s.transform(p, torch.randn(s.size, dtype=torch.float64))
    other.load_state_dict({**other.state_dict(), **p})
    a, b = balance(model, found, criterion=criterion), balance(other, found, criterion=criterion)
    if criterion == "norm":
        assert b.after == pytest.approx(a.after, rel=1e-10)
        for u, v in zip(params(model).values(), params(other).values(), strict=True):
            assert torch.allclose(u, v, rtol=1e-5, atol=1e-7)
    again = balance(model, found, criterion=criterion)
    assert all(float(f.abs().max()) < 1e-8 for f in again.log_factors)


def test_it_is_deterministic() -> None:
    (a, x), (b, _) = build("mlp"), build("mlp")
    balance(a, x)
    balance(b, x)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_tied_weights() -> None:
    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(3, 4, dtype=torch.float64)
    y = model(x).detach()
    done = balance(model, x)
    assert done.symmetries
    assert done.after < done.before * (1 - 1e-6)
    assert model.c.weight is model.a.weight
    assert torch.allclose(model(x), y, rtol=1e-12)


def test_scale_families_and_what_eps_breaks_are_left_alone_and_said() -> None:
    model, x = build("convolutions")
    weight = model[0].weight.detach().clone()
    done = balance(model, x)
    assert torch.equal(model[0].weight, weight)
    assert any(said.startswith("0.weight[i]: any positive factor") for said in done.left)
    assert "left alone: 0.weight[i]" in str(done)


def test_dead_units_stay_and_are_said() -> None:
    model, x = build("mlp")
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0
        model[2].weight[:, 4] = 0
    before = params(model)
    for criterion in ("norm", "range"):
        done = balance(model, x, criterion=criterion)
        assert [float(done.log_factors[0][i]) for i in (2, 4)] == [0.0, 0.0]
        assert any(said.startswith("2 of 7 members of 0.weight[i]") for said in done.left)
    assert torch.equal(model[0].weight[4] / before["0.weight"][4], torch.ones(5, dtype=torch.float64))
    assert done.residual < 1e-6


def test_a_minimum_at_infinity_that_no_single_member_shows() -> None:
    """x / y and x / y^2 together let y shrink alone: at the end of no finite path."""
    p = nn.ParameterDict({"x": torch.ones(1), "y": torch.ones(1)}).double()
    families = [Symmetry.from_dict(family(w)) for w in ("-1", "-2")]
    done = balance(p, families)
    assert done.left
    assert done.residual < 1e-10
    assert all(0.1 < float(v.detach()) < 10 for v in p.values())


def family(weight: str) -> dict[str, object]:
    terms = [{"parameter": "x", "axis": 0, "weight": "1"}, {"parameter": "y", "axis": 0, "weight": weight}]
    return {"kind": "rescale", "size": 1, "terms": terms, "reason": "", "defect": 0.0, "broken_by": []}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_is_rounded_once(dtype: torch.dtype) -> None:
    exact, x = build("mlp", spread=0.5)
    found = find_symmetries(exact, x)
    model = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(params(model))  # the rounded start, in float64
    balance(model, found)
    balance(exact, found)
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        assert p.dtype == dtype
        assert torch.equal(p, q.to(dtype))


def test_nothing_else_is_touched() -> None:
    model, x = build("convolutions")
    model(x).sum().backward()
    model.eval()
    grads = [p.grad.clone() for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    random = torch.get_rng_state()
    identity = [(p, p.data_ptr()) for p in model.parameters()]
    balance(model, x)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(b, c) for b, c in zip(model.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert all(p is q and p.data_ptr() == where for p, (q, where) in zip(model.parameters(), identity, strict=True))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_in_evaluation_mode_the_running_statistics_stay_true() -> None:
    model, x = build("convolutions")
    model(x)
    model.eval()
    y = model(x).detach()
    done = balance(model, x)
    assert done.after < 0.9 * done.before
    assert torch.allclose(model(x), y, rtol=1e-12)


def test_trained_in_training_mode_it_is_the_same_in_evaluation_mode() -> None:
    """Families through a norm are broken by its eps and left alone, so running statistics keep their meaning."""
    model, x = build("convolutions")
    model(x)
    y = copy.deepcopy(model).eval()(x).detach()
    balance(model, x)
    assert torch.allclose(model.eval()(x), y, rtol=1e-12)


def test_what_makes_no_sense() -> None:
    model, x = build("mlp")
    found, before = find_symmetries(model, x), params(model)
    with pytest.raises(SymmetryError, match="criterion 'l1' is not one of norm, range"):
        balance(model, found, criterion="l1")
    with pytest.raises(SymmetryError, match="pass an example"):
        balance(model)
    with pytest.raises(SymmetryError, match=r"has no parameter '0\.weight'"):
        balance(build("gated")[0], found)
    with pytest.raises(SymmetryError, match="members"):
        balance(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), found)
    with pytest.raises(SymmetryError, match="meta device"):
        balance(copy.deepcopy(model).to("meta"), found)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_model_without_rescale_symmetries() -> None:
    done = balance(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(4, 2))
    assert isinstance(done, Balanced)
    assert str(done) == "nothing was moved: there is no rescale symmetry"


def test_weights_beyond_the_range_of_half_precision_are_refused() -> None:
    """One weight of 6e4 against a column of seven: it would have to grow to 1e5."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 7))
    found = find_symmetries(model, torch.randn(4, 1))
    model.half()
    with torch.no_grad():
        model[0].weight.fill_(6e4)
        model[2].weight.fill_(6e4)
    before = params(model)
    with pytest.raises(SymmetryError, match=r"0\.weight would not fit torch\.float16"):
        balance(model, found)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
