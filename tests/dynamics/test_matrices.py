"""Charges of matrices: their exact laws against the matrices multiplied out, under every kind of step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from neuromech.dynamics import AverageLaw, Block, Forms, Laws, Matrices, followed
from neuromech.errors import SymmetryError
from neuromech.symmetry import Symmetry, SymmetrySet, Term

from .cases import EXACT, Case, backward, train, watched

N, HEADS = 6, 2
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Attention(nn.Module):
    """Two heads of six channels, without a softmax's neighbours: queries and keys, values and outputs mix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(5, 3 * HEADS * N), nn.Linear(HEADS * N, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, N)).movedim(-3, 0).transpose(-2, -3)
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


def attention(seed: int = 0) -> Case:
    """Both matrix families of a fused attention, whole and along directions; minibatches, float64."""
    import neuromech

    torch.manual_seed(seed)
    model = Attention().double()
    x, y = torch.randn(24, 5, 5, dtype=torch.float64), torch.randn(24, 5, 4, dtype=torch.float64)
    whole = neuromech.find_symmetries(model, x[:2], verify=False).symmetries.of(kind="matrix")
    assert [s.size for s in whole] == [HEADS * 21] * 2
    params = dict(model.named_parameters())
    symmetries = SymmetrySet([*whole, *(s.along(params, 3) for s in whole)])

    def loss(step: int) -> Tensor:
        here = (8 * step) % 24
        return (model(x[here : here + 8]) - y[here : here + 8]).square().mean()

    return Case(model, symmetries, loss)


def brute(model: nn.Module) -> Tensor:
    """The charges multiplied out by hand, head by head: the entries of both families, in the order of `attention`."""
    p = {name: x.detach() for name, x in model.named_parameters()}
    rows = torch.cat([p["qkv.weight"], p["qkv.bias"][:, None]], 1).unflatten(0, (3, HEADS, N))
    columns = p["o.weight"].T.unflatten(0, (HEADS, N))
    out = []
    for upper, lower in ((rows[0], rows[1]), (rows[2], columns)):
        for h in range(HEADS):
            out += [upper[h, j] @ upper[h, k] - lower[h, j] @ lower[h, k] for j in range(N) for k in range(j, N)]
    return torch.stack(out)


STEPS: dict[str, Optimizer] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "decay": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01),
    "heavy ball": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "Nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "ascent": lambda p: torch.optim.SGD(p, 0.01, maximize=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.001, momentum=0.5),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_law_is_exact(name: str) -> None:
    case = attention()
    run = train(case, STEPS[name](list(case.model.parameters())), 12)
    entries = torch.cat([run.observed[-1][run.laws.slices[i]] for i in (0, 1)])
    signs = brute(case.model)  # the sign of a family is a matter of taste: which side is called the writer
    for mine, theirs in zip(entries.chunk(2), signs.chunk(2), strict=True):
        assert min(float((mine - theirs).abs().max()), float((mine + theirs).abs().max())) < 1e-13
    for i in range(4):
        assert run.error("exact", i) <= EXACT
    assert (run.observed[-1] - run.observed[0]).abs().max() > 1e-5  # there was something to predict
    assert not run.broken.any()


def test_what_a_step_of_sgd_adds_is_the_difference_of_the_products_of_gradients() -> None:
    """Of a linear pair: C+ = C + lr^2 (G1 G1^T - G2^T G2)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    family = Symmetry("matrix", 6, (Term("0.weight", None, 1, along=0), Term("1.weight", None, -1, along=1)))
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    case = Case(model, SymmetrySet([family]), lambda step: (model(x) - y).square().mean())
    laws = case.laws()
    backward(case, 0)
    g1, g2 = (layer.weight.grad.clone() for layer in model)  # type: ignore[union-attr, operator]
    before = laws.observe(case.params)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with watched(case, laws, optimizer) as reading:
        optimizer.step()
    added = 0.2**2 * (g1 @ g1.T - g2.T @ g2)
    j, k = torch.triu_indices(3, 3)
    assert torch.allclose(reading[0].exact - before, added[j, k], rtol=0, atol=1e-15)
    assert torch.allclose(reading[0].gains[0], added[j, k], rtol=0, atol=1e-15)


def test_a_side_that_stands_still_splits_the_family() -> None:
    case = attention()

    def each(step: int) -> None:
        if step in (4, 5, 11):
            case.model.o.weight.grad = None  # type: ignore[union-attr]

    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    run = train(case, optimizer, 20, each=each)
    assert run.error("exact") <= EXACT
    assert run.laws.split_ever == {1, 3}


def test_weights_that_are_edited_are_off_the_law() -> None:
    """One element, in both forms of its family; the other family does not move."""
    case = attention()
    optimizer, laws = torch.optim.SGD(case.model.parameters(), lr=0.1), case.laws()
    for step in range(3):
        backward(case, step)
        with watched(case, laws, optimizer) as reading:
            optimizer.step()
            if step == 2:
                with torch.no_grad():
                    case.model.o.weight[1, 2] += 1e-3  # type: ignore[index, union-attr]
    off = (reading[0].exact - reading[0].observed).abs() / reading[0].scale
    worst = [float(off[rows].max()) for rows in laws.slices]
    assert min(worst[1], worst[3]) > 1e-6
    assert max(worst[0], worst[2]) < 1e-13


@pytest.mark.parametrize("kept", [range(3, 9), range(42), range(40, 42)])
def test_a_run_of_members_is_what_it_is_of_all(kept: range) -> None:
    case = attention()
    whole = case.symmetries[0]
    every = Forms([Block.of(whole)], case.params)
    some = Forms([Block.of(whole, kept)], case.params)
    both = [f.charges(case.params) for f in (every, some)]
    assert torch.equal(both[0][0][kept.start : kept.stop], both[1][0])
    assert torch.equal(both[0][1][kept.start : kept.stop], both[1][1])


def test_float32_is_widened_whatever_products_are_set_to() -> None:
    case = attention()
    family, params = case.symmetries[0], {n: p.float() for n, p in case.params.items()}
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = Forms([Block.of(family)], params).charges(params)[0]
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.allclose(found, family.charge({n: p.double() for n, p in params.items()}), rtol=0, atol=1e-14)


def test_averages_are_followed() -> None:
    case = attention()
    mean = {n: p.detach().clone() for n, p in case.params.items()}
    law = AverageLaw(case.symmetries, mean)
    with torch.no_grad():
        for p in case.model.parameters():
            p += 0.1 * torch.randn_like(p)
    law.before(case.params, mean, case.laws().observe(case.params)[0])
    for n, p in case.params.items():
        mean[n].lerp_(p.detach(), 0.3)
    reading = law.after(mean, 0.3)
    assert ((reading.exact - reading.observed).abs() / reading.scale).max() < 1e-14


def test_large_matrices_are_followed_along_directions_and_small_ones_whole() -> None:
    params = {"a": torch.randn(8, 30), "b": torch.randn(20, 8), "c": torch.randn(9, 30), "d": torch.randn(20, 9)}
    small = Symmetry("matrix", 36, (Term("a", None, 1, along=0), Term("b", None, -1, along=1)))
    large = Symmetry("matrix", 45, (Term("c", None, 1, along=0), Term("d", None, -1, along=1)))
    plain = Symmetry("scale", 8, (Term("a", 0, 1),))
    assert [(s.kind, s.size, s.directions) for s in followed([large, plain, small], params)] == [
        ("scale", 8, 0), ("matrix", 10, 4), ("matrix", 36, 0),
    ]  # fmt: skip
    assert followed([large, plain], params, whole=False) == [plain]
    assert Symmetry.from_dict(large.along(params, 4).to_dict()) == large.along(params, 4)
    with pytest.raises(SymmetryError, match="no 9 directions"):
        large.along(params, 9)
    with pytest.raises(SymmetryError, match="rotations have no charge"):
        Laws([large.rotations(params)], params)


def test_along_directions_it_is_a_symmetry_with_that_charge() -> None:
    """The generators move the loss nowhere, and the charge is half of what the squared length gains along them."""
    case = attention()
    params = {n: p.detach() for n, p in case.params.items()}
    backward(case, 0)
    for s in case.symmetries[2:]:
        for i in (0, 1, s.size - 1):
            tangent = s.generator(params, i)
            torque = sum(float((case.params[n].grad * t).sum()) for n, t in tangent.items())  # type: ignore[operator]
            assert abs(torque) < 1e-15
            weight = sum(float((params[n] * t).sum()) for n, t in tangent.items())
            assert weight == pytest.approx(float(s.charge(params)[i]), abs=1e-13)
        moved = s.transform(params, 0.3 * torch.randn(s.size, dtype=torch.float64))
        x = torch.randn(3, 5, 5, dtype=torch.float64)
        out = torch.func.functional_call(case.model, moved, (x,))
        assert torch.allclose(out, case.model(x), rtol=0, atol=1e-12)


def test_invariants_are_those_of_the_matrix() -> None:
    torch.manual_seed(0)
    params = {"a": torch.randn(2, 70, 30), "b": torch.randn(20, 2, 70), "c": torch.randn(5, 9), "d": torch.randn(5, 9)}
    large = Symmetry("matrix", 2 * 35 * 71, (Term("a", 0, 1, along=1), Term("b", 1, -1, along=2)))
    small = Symmetry("matrix", 15, (Term("c", None, 1, along=0), Term("d", None, -1, along=0)))
    kept = Matrices([large, small])
    assert [step for step in range(1, 40) if kept.due(step)] == [*range(1, 16), *range(16, 32, 2), 32, 36]
    kept.measure(7, params)
    columns = kept.take()
    assert columns["step"] == [7, 7]
    assert columns["symmetry"] == [0, 1]
    a, b, c, d = (params[n].double() for n in "abcd")
    of_large, of_small = a @ a.mT - b.permute(1, 2, 0) @ b.permute(1, 0, 2), c @ c.T - d @ d.T
    for i, x in enumerate((of_large, of_small)):
        trace = float(x.diagonal(dim1=-2, dim2=-1).sum())
        assert columns["trace"][i] == pytest.approx(trace, rel=1e-12)
        assert columns["norm"][i] == pytest.approx(float(x.norm()), rel=0.2 if i == 0 else 1e-12)
    assert columns["estimated"] == [1.0, 0.0]
    values = torch.linalg.eigvalsh(of_small)
    assert columns["largest"][1] == pytest.approx(float(values[values.abs().argmax()]), rel=1e-12)
    assert columns["size"][1] == pytest.approx(float(c.norm() ** 2 + d.norm() ** 2), rel=1e-12)


def directions_of(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Charges along directions of random weights, as forms have them and multiplied out in float64, and their scale."""
    torch.manual_seed(0)
    p = {"a": torch.randn(64, 40, dtype=dtype), "b": torch.randn(40, 64, dtype=dtype)}
    terms = Term("a", (), Fraction(1), along=0), Term("b", (), Fraction(-1), along=1)
    s = Symmetry("matrix", 2080, terms, "by hand").along(p, 4)
    charge, scale, _ = Forms([Block.of(s)], p).charges(p)
    return charge, s.charge(p), scale


def test_directions_of_single_precision_are_rounded_to_it() -> None:
    for dtype, eps in ((torch.float64, 1e-15), (torch.float32, 2e-7), (torch.bfloat16, 2e-7)):
        found, true, scale = directions_of(dtype)
        assert float(((found - true).abs() / scale).max()) < eps


def coarsely() -> AbstractContextManager[None]:
    @contextmanager
    def entered() -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    return entered()


@pytest.mark.parametrize("setting", [lambda: torch.autocast("cpu", dtype=torch.bfloat16), coarsely])
def test_no_setting_makes_directions_coarser(setting: Callable[[], AbstractContextManager[None]]) -> None:
    with setting():
        found, true, scale = directions_of(torch.float32)
    assert float(((found - true).abs() / scale).max()) < 1e-14
