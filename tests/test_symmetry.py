"""The waist: what a family moves, its finite transformation, its charge, and that these agree with each other."""

import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuromech.errors import SymmetryError
from neuromech.symmetry import Part, Symmetry, SymmetrySet, Term


def params() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 4, generator=g, dtype=torch.float64),
        "b": torch.randn(3, generator=g, dtype=torch.float64),
        "c": torch.randn(2, 6, generator=g, dtype=torch.float64),
        "s": torch.randn((), generator=g, dtype=torch.float64),
    }


RESCALE = Symmetry("rescale", 3, (Term("a", 0, 1), Term("b", 0, 1), Term("c", 1, -2, Part((2, 3, 2)))))
SHIFT = Symmetry("translation", 4, (Term("a", 1, Fraction(1, 2)),))
WHOLE = Symmetry("scale", 1, (Term("a", None, 1), Term("s", None, 2)))
SELECTED = Symmetry("scale", 2, (Term("c", 2, 1, Part((2, 3, 2), ((1, 2),))),))
PAIRS = Symmetry("translation", 6, (Term("c", (2, 1), 1, Part((2, 3, 2))),))
FAMILIES = [RESCALE, SHIFT, WHOLE, SELECTED, PAIRS]


def brute_force(s: Symmetry, p: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """The weight of every element under member i, element by element."""
    out = {name: torch.zeros_like(t) for name, t in p.items()}
    for t in s.terms:
        shape = tuple(p[t.parameter].shape)
        view = t.part.shape if t.part else shape
        for flat in range(math.prod(shape)):
            index = [int(v) for v in torch.unravel_index(torch.tensor(flat), view)] if view else []
            if t.part and any(index[a] != k for a, k in t.part.select):
                continue
            member = 0
            for a in t.axes:
                member = member * view[a] + index[a]
            if member == i:
                out[t.parameter].view(-1)[flat] += float(t.weight)
    return out


@pytest.mark.parametrize("s", FAMILIES, ids=lambda s: s.name)
def test_generators_move_what_the_terms_say(s: Symmetry) -> None:
    p = params()
    for i in range(s.size):
        weights = brute_force(s, p, i)
        for name, v in s.generator(p, i).items():
            assert torch.allclose(v, weights[name] if s.is_linear else weights[name] * p[name])
        assert all(name in s.generator(p, i) or not w.any() for name, w in weights.items())


@pytest.mark.parametrize("s", FAMILIES, ids=lambda s: s.name)
def test_charges_are_what_noether_says(s: Symmetry) -> None:
    """Linear in the parameters for translations, quadratic for scales: half the gradient is the generator's dual."""
    p = params()
    for i in range(s.size):
        weights = brute_force(s, p, i)
        expected = sum((w * (p[n] if s.is_linear else p[n] ** 2)).sum() for n, w in weights.items())
        assert torch.isclose(s.charge(p)[i], expected)


@pytest.mark.parametrize("s", FAMILIES, ids=lambda s: s.name)
def test_transformations_are_one_parameter_groups_with_that_generator(s: Symmetry) -> None:
    p = params()
    alpha, beta = torch.randn(s.size, dtype=torch.float64), torch.randn(s.size, dtype=torch.float64)
    twice, once = s.transform(s.transform(p, alpha), beta), s.transform(p, alpha + beta)
    assert all(torch.allclose(twice[n], once[n]) for n in p)
    back = s.transform(s.transform(p, alpha), -alpha)
    assert all(torch.allclose(back[n], p[n]) for n in p)
    step = 1e-6
    moved = s.transform(p, step * alpha)
    for name, v in s.tangent(p, alpha).items():
        assert torch.allclose((moved[name] - p[name]) / step, v, atol=1e-4)
    assert all(moved[n] is p[n] for n in p if n not in s.parameters)


@pytest.mark.parametrize("s", FAMILIES, ids=lambda s: s.name)
def test_one_member_alone(s: Symmetry) -> None:
    p = params()
    one = torch.zeros(s.size, dtype=torch.float64)
    one[-1] = 0.3
    a, b, c = s.transform(p, 0.3, i=-1), s.transform(p, one), s.transform(p, 0.3, i=s.size - 1)
    assert all(torch.equal(a[n], b[n]) and torch.equal(a[n], c[n]) for n in p)
    with pytest.raises(SymmetryError, match=f"member {s.size} of a family of {s.size}"):
        s.transform(p, 1.0, i=s.size)


@given(st.data())
def test_gather_and_spread_are_adjoint(data: st.DataObject) -> None:
    view = data.draw(st.lists(st.integers(1, 4), min_size=0, max_size=4))
    shape = (math.prod(view),) if data.draw(st.booleans()) else tuple(view)
    fixed = data.draw(st.lists(st.sampled_from(range(len(view))), unique=True, max_size=2)) if view else []
    free = [a for a in range(len(view)) if a not in fixed]
    axes = data.draw(st.permutations(free)) if free else []
    axes = axes[: data.draw(st.integers(0, len(axes)))]
    select = tuple((a, data.draw(st.integers(0, view[a] - 1))) for a in fixed)
    axis = None if not axes else axes[0] if len(axes) == 1 else tuple(axes)
    term = Term("p", axis, 1, Part(tuple(view), select))
    x, v = torch.randn(shape, dtype=torch.float64), torch.randn(term.size(shape), dtype=torch.float64)
    assert torch.isclose((term.gather(x) * v).sum(), (x * term.spread(v, shape)).sum())


def test_names() -> None:
    assert RESCALE.name == "a[i], b[i] / c.view(2, 3, 2)[:, i]^2"
    assert SHIFT.name == "a[:, i] x1/2"
    assert WHOLE.name == "a, s^2"
    assert SELECTED.name == "c.view(2, 3, 2)[:, 2, i]"
    assert PAIRS.name == "c.view(2, 3, 2)[:, j, i]"
    assert Symmetry("translation", 3, (Term("b", 0, 1), Term("a", 0, -3))).name == "b[i] - a[i] x3"


@pytest.mark.parametrize("s", [*FAMILIES, Symmetry("scale", 1, (Term("s", None, 1),), "why", 1e-3, ("eps of n",))])
def test_plain_data_and_back(s: Symmetry) -> None:
    data = json.loads(json.dumps(s.to_dict()))
    again = Symmetry.from_dict(data)
    assert again.terms == s.terms
    assert (again.kind, again.size, again.reason, again.broken_by) == (s.kind, s.size, s.reason, s.broken_by)
    assert again.defect == s.defect or math.isnan(s.defect)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Term("a", 0, 0), "weight 0"),
    (lambda: Symmetry("spin", 1, (Term("a", None, 1),)), "'spin' is not one of translation, scale, rescale"),
    (lambda: Symmetry("scale", 1, ()), "at least one term"),
    (lambda: Symmetry("scale", 0, (Term("a", None, 1),)), "at least one member"),
    (lambda: Symmetry("scale", 1, (Term("a", None, 1), Term("b", None, -1))), "do not make a scale"),
    (lambda: Symmetry("rescale", 1, (Term("a", None, 1),)), "do not make a rescale"),
    (lambda: Symmetry("scale", 3, (Term("z", 0, 1),)).check(params()), "no parameter 'z'"),
    (lambda: Symmetry("scale", 4, (Term("a", 0, 1),)).check(params()), "has 3 members, the family has 4"),
    (lambda: Symmetry("scale", 3, (Term("a", 2, 1),)).charge(params()), "axis 2 does not fit"),
    (lambda: Symmetry("scale", 3, (Term("a", (0, 0), 1),)).charge(params()), "axis"),
    (lambda: Symmetry("scale", 5, (Term("a", 0, 1, Part((5, 2))),)).charge(params()), "cannot be viewed as"),
    (lambda: Symmetry("scale", 3, (Term("a", 0, 1, Part((3, 4), ((0, 1),))),)).charge(params()), "axis 0"),
])  # fmt: skip
def test_what_is_ill_formed_says_so(make: object, message: str) -> None:
    with pytest.raises(SymmetryError, match=message):
        make()


def test_charges_are_float64_whatever_the_model() -> None:
    p = {name: t.bfloat16() for name, t in params().items()}
    assert RESCALE.charge(p).dtype == torch.float64
    assert all(v.dtype == torch.bfloat16 for v in RESCALE.transform(p, 0.1).values())


def test_sets() -> None:
    some = SymmetrySet(FAMILIES)
    assert len(some) == 5
    assert some[0] is RESCALE
    assert isinstance(some[1:], SymmetrySet)
    assert list(some.of(kind="translation")) == [SHIFT, PAIRS]
    assert list(some.of(parameter="c", kind="scale")) == [SELECTED]
    assert repr(some) == "SymmetrySet of 5 families, 16 members"
    table = some.table()
    assert list(table.columns) == ["kind", "size", "moves", "defect", "broken_by", "reason"]
    assert table["size"].tolist() == [3, 4, 1, 2, 6]
    assert SymmetrySet().table().empty


# -- matrix symmetries ----------------------------------------------------------------------------------------------

PAIR = Symmetry("matrix", 6, (Term("a", None, 1, along=0), Term("b", None, 1, along=0), Term("d", None, -1, along=1)))
TURN = Symmetry("matrix", 3, PAIR.terms, skew=True)
# Two heads of three channels, shared by two queries each, in fused projections.
QUERY = Term("q", 0, 1, Part((2, 2, 3, 5)), along=2)
KEY = Term("kv", 1, -1, Part((2, 2, 3, 5), ((0, 1),)), along=2)
HEADS = Symmetry("matrix", 12, (QUERY, KEY))
LOOP = Symmetry("matrix", 6, (Term("w", None, 1, along=0), Term("w", None, -1, along=1), Term("a", None, 1, along=0)))
MATRICES = [PAIR, TURN, HEADS, LOOP]


def matrix_params() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (3,), "d": (2, 3), "q": (12, 5), "kv": (12, 5), "w": (3, 3)}
    return {name: torch.randn(s, generator=g, dtype=torch.float64) for name, s in shapes.items()}


def seen(p: dict[str, Tensor]) -> list[Tensor]:
    """What does not change: the products of writers and readers."""
    q, k = p["q"].view(2, 2, 3, 5), p["kv"].view(2, 2, 3, 5)[1]
    return [p["d"] @ p["a"], p["d"] @ p["b"], torch.einsum("hrnd,hne->hrde", q, k)]


def test_matrix_transformations_leave_products_alone() -> None:
    p = matrix_params()
    for s in (PAIR, TURN, HEADS):
        moved = s.transform(p, torch.randn(s.size, dtype=torch.float64))
        assert all(torch.allclose(x, y) for x, y in zip(seen(p), seen(moved), strict=True))
        assert not torch.allclose(moved[s.parameters[0]], p[s.parameters[0]])
    assert torch.equal(HEADS.transform(p, 0.3)["kv"][:6], p["kv"][:6])  # the other half of the fused projection
    moved = LOOP.transform(p, torch.randn(6, dtype=torch.float64))
    readout = torch.linalg.eigvals(p["w"]).abs().sort().values
    assert torch.allclose(torch.linalg.eigvals(moved["w"]).abs().sort().values, readout)


@pytest.mark.parametrize("s", MATRICES, ids=lambda s: s.name)
def test_matrix_transformations_are_generated_by_their_tangents(s: Symmetry) -> None:
    p, alpha, step = matrix_params(), torch.randn(s.size, dtype=torch.float64), 1e-6
    ahead, behind = s.transform(p, step * alpha), s.transform(p, -step * alpha)
    for name, v in s.tangent(p, alpha).items():
        assert torch.allclose((ahead[name] - behind[name]) / (2 * step), v, atol=1e-8)
    total = {name: torch.zeros_like(p[name]) for name in s.parameters}
    for i in range(s.size):
        for name, v in s.generator(p, i).items():
            total[name] += alpha[i] * v
    assert all(torch.allclose(total[name], v) for name, v in s.tangent(p, alpha).items())
    back = s.transform(s.transform(p, alpha), -alpha)
    assert all(torch.allclose(back[name], p[name]) for name in p)


def test_matrix_charges_are_the_entries_of_the_matrix() -> None:
    p = matrix_params()
    c = p["a"] @ p["a"].T + torch.outer(p["b"], p["b"]) - p["d"].T @ p["d"]
    j, k = torch.triu_indices(3, 3)
    assert torch.allclose(PAIR.charge(p), c[j, k])
    assert torch.equal(TURN.charge(p), torch.zeros(3, dtype=torch.float64))
    first, second = HEADS.charge(p).view(2, 6)
    q, k_ = p["q"].view(2, 6, 5)[1].view(2, 3, 5), p["kv"].view(2, 2, 3, 5)[1, 1]
    c = sum(x @ x.T for x in q) - k_ @ k_.T
    assert torch.allclose(second, c[j, k])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("s", [PAIR, HEADS, LOOP], ids=lambda s: s.name)
def test_half_the_gradient_of_a_matrix_charge_is_its_generator_with_signs(s: Symmetry) -> None:
    """The charge is <theta, D theta> / 1 for the generator D theta, the readers' part of which has the sign turned."""
    p = matrix_params()
    for i in range(s.size):
        product = sum((v * p[name]).sum() for name, v in s.generator(p, i).items())
        assert torch.isclose(s.charge(p)[i], product)


def test_gradient_flow_conserves_matrix_charges_to_first_order_in_lr() -> None:
    """The change of the charge over one step of gradient descent is of second order in lr; order fitted."""
    changes = []
    for lr in (1e-2, 1e-3):
        p = {name: t.clone().requires_grad_() for name, t in matrix_params().items()}
        loss = torch.stack([x.square().sum().sin() for x in seen(p)]).sum()
        grads = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
        after = {name: t - lr * g for (name, t), g in zip(p.items(), grads, strict=True)}
        changes.append(torch.stack([(s.charge(after) - s.charge(p)).norm() for s in (PAIR, HEADS)]))
        velocity = dict(zip(p, grads, strict=True))
        momentum = sum((velocity[n] * v).sum() for n, v in TURN.generator(p, 1).items())
        assert torch.isclose(momentum, torch.zeros_like(momentum), atol=1e-10)  # gradient flow does not rotate
    order = (changes[0] / changes[1]).log10()
    assert torch.allclose(order, torch.full_like(order, 2.0), atol=0.05)


def test_matrix_symmetries_as_plain_data() -> None:
    for s in MATRICES:
        again = Symmetry.from_dict(json.loads(json.dumps(s.to_dict())))
        assert repr(again) == repr(s)
    assert PAIR.name == "a[m], b[m] / d[:, m]"
    assert TURN.name == "rotation of a[m], b[m], d[:, m]"
    assert HEADS.name == "q.view(2, 2, 3, 5)[i, :, m] / kv.view(2, 2, 3, 5)[1, i, m]"


def test_matrix_symmetries_that_make_no_sense() -> None:
    with pytest.raises(SymmetryError, match="along"):
        Symmetry("matrix", 6, (Term("a", 0, 1),))
    with pytest.raises(SymmetryError, match="along"):
        Symmetry("scale", 3, (Term("a", None, 1, along=0),))
    with pytest.raises(SymmetryError, match="weight 1"):
        Symmetry("matrix", 6, (Term("a", None, 2, along=0),))
    with pytest.raises(SymmetryError, match="rotations"):
        Symmetry("scale", 3, (Term("a", 0, 1),), skew=True)
    with pytest.raises(SymmetryError, match="has 6 members, the family has 5"):
        Symmetry("matrix", 5, (Term("a", None, 1, along=0),)).charge(matrix_params())
    with pytest.raises(SymmetryError, match=r"alpha has the shape \(2,\), expected a number or 6 numbers"):
        PAIR.transform(matrix_params(), torch.zeros(2))


def test_a_symmetry_in_one_line() -> None:
    one = Fraction(1)
    s = Symmetry("rescale", 32, (Term("a<b>.weight", 0, one), Term("c.weight", 1, Fraction(-1))), "why & how", 1e-16)
    assert str(s) == "rescale, 32 members: a<b>.weight[i] / c.weight[:, i], defect 1e-16"
    assert repr(s) == f"<Symmetry: {s}>"
    assert repr(SymmetrySet([s])) == "SymmetrySet of 1 family, 32 members"
    assert s._repr_html_().startswith("<code>rescale, 32 members: a&lt;b&gt;.weight[i]")
    assert "why &amp; how" in s._repr_html_()
    assert str(Symmetry("translation", 1, (Term("c.bias", None, one),))) == "translation, 1 member: c.bias"
