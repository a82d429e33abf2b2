"""Models moved in place: right in every dtype and wrapping, all or nothing."""

import copy

import pytest
import torch
from groups import alone
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from neuromech import NeuromechWarning, Part, Symmetry, SymmetryError, Term, balance, find_symmetries, transform
from neuromech.symmetry import KINDS
from transforms.nets import MODELS, Tied, build


@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_the_symmetry_says(name: str) -> None:
    model, x = build(name)
    for s in find_symmetries(model, x):
        alpha = torch.randn(s.size)
        expected = s.transform({n: p.detach().clone() for n, p in model.named_parameters()}, alpha)
        versions = {n: p._version for n, p in model.named_parameters()}
        assert transform(model, s, alpha) is model
        for n, p in model.named_parameters():
            assert torch.allclose(p, expected[n], rtol=1e-14)
            assert (p._version > versions[n]) == (n in s.parameters)


def test_members_numbers_and_back() -> None:
    model, x = build("mlp")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    s = find_symmetries(model, x).symmetries.of(kind="rescale")[0]
    transform(model, s, torch.log(torch.tensor(2.0, dtype=torch.float64)), i=3)
    assert torch.allclose(model[0].weight[3], 2 * before["0.weight"][3])
    assert torch.equal(model[0].weight[2], before["0.weight"][2])
    transform(model, s, -0.5)
    transform(model, s, 0.5)
    transform(model, s, -torch.log(torch.tensor(2.0, dtype=torch.float64)), i=3)
    assert all(torch.allclose(p, before[n], rtol=1e-13) for n, p in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_rounded_once(dtype: torch.dtype) -> None:
    model, x = build("mlp", spread=0.3)
    s = find_symmetries(model, x).symmetries.of(kind="rescale")[1]
    narrow = copy.deepcopy(model).to(dtype)
    expected = s.transform({n: p.detach().double() for n, p in narrow.named_parameters()}, 0.37)
    transform(narrow, s, 0.37)
    assert all(torch.equal(p, expected[n].to(dtype)) for n, p in narrow.named_parameters())


def test_a_tied_parameter_moves_once_and_answers_to_all_its_names() -> None:
    model = Tied()
    before = model.a.weight.detach().clone()
    transform(model, Symmetry("scale", 1, (Term("c.weight", None, 1),)), 1.0)
    assert torch.allclose(model.a.weight, before * torch.e)
    assert model.a.weight is model.c.weight


def test_matrix_symmetries() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    y = model(x).detach()
    writers = Term("0.weight", None, 1, along=0), Term("0.bias", None, 1, along=0)
    s = Symmetry("matrix", 10, (*writers, Term("1.weight", None, -1, along=1)))
    weight = model[0].weight.detach().clone()
    transform(model, s, torch.randn(10))
    assert torch.allclose(model(x), y, rtol=1e-12)
    assert not torch.allclose(model[0].weight, weight)
    assert "matrix" in KINDS


def test_wrapped_models(tmp_path) -> None:
    torch.manual_seed(0)
    model, x = build("mlp")
    s = find_symmetries(model, x).symmetries.of(kind="rescale")[0]
    plain = transform(copy.deepcopy(model), s, 0.3)

    def body() -> None:
        wrapped = [DistributedDataParallel(copy.deepcopy(model)), torch.compile(copy.deepcopy(model), backend="eager")]
        for w in wrapped:
            assert transform(w, s, 0.3) is w
            assert all(torch.equal(p, q) for p, q in zip(w.parameters(), plain.parameters(), strict=True))
        balance(plain, [s])
        assert balance(wrapped[0], [s]).residual < 1e-12
        pairs = zip(wrapped[0].parameters(), plain.parameters(), strict=True)
        assert all(torch.allclose(p, q, rtol=1e-13) for p, q in pairs)

    alone(tmp_path, body)


def test_all_or_nothing() -> None:
    model, x = build("mlp", spread=0.1)
    s = find_symmetries(model, x).symmetries.of(kind="rescale")[0]
    half = copy.deepcopy(model).half()
    before = {n: p.detach().clone() for n, p in half.named_parameters()}
    with pytest.raises(SymmetryError, match=r"0\.weight would not fit torch\.float16"):
        transform(half, s, 30.0)
    assert all(torch.equal(p, before[n]) for n, p in half.named_parameters())
    with pytest.warns(NeuromechWarning, match="not quite the same"):
        transform(half, Symmetry("scale", s.size, tuple(t for t in s.terms if t.weight > 0)), -30.0)


@pytest.mark.parametrize(
    ("alpha", "member", "message"),
    [
        (float("nan"), None, "finite and real"),
        (float("inf"), None, "finite and real"),
        (1j, None, "finite and real"),
        (torch.zeros(3), None, r"shape \(3,\), expected a number or 7 numbers"),
        (torch.zeros(7), 2, r"shape \(7,\), expected a number"),
        (0.1, 7, "member 7 of a family of 7"),
    ],
)
def test_what_makes_no_sense(alpha: object, member: int | None, message: str) -> None:
    model, x = build("mlp")
    s = find_symmetries(model, x).symmetries.of(kind="rescale")[0]
    with pytest.raises(SymmetryError, match=message):
        transform(model, s, alpha, member)


def test_models_that_do_not_fit() -> None:
    model, x = build("mlp")
    s = find_symmetries(model, x).symmetries.of(kind="rescale")[0]
    with pytest.raises(SymmetryError, match="no parameter"):
        transform(build("gated")[0], s, 0.1)
    with pytest.raises(SymmetryError, match="members"):
        transform(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6)), s, 0.1)
    with pytest.raises(SymmetryError, match="cannot be viewed"):
        transform(model, Symmetry("scale", 5, (Term("0.weight", 0, 1, Part((5, 8))),)), 0.1)
    with pytest.raises(SymmetryError, match="meta device"):
        transform(copy.deepcopy(model).to("meta"), s, 0.1)
    complex_model = nn.ParameterDict({"x": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(SymmetryError, match="only real"):
        transform(complex_model, Symmetry("scale", 1, (Term("x", None, 1),)), 0.1)
