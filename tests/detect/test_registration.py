"""Operators of one's own: a right rule is followed, a wrong one is refused when it is registered."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from neuromech.detect import (
    contraction,
    find_symmetries,
    like,
    movement,
    pointwise,
    reduction,
    register_operator,
    unregister_operator,
)
from neuromech.detect.operator import operator_of
from neuromech.errors import DetectionError


@torch.library.custom_op("nmtest::apply", mutates_args=())
def _apply(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.T


@torch.library.custom_op("nmtest::rectified_square", mutates_args=())
def _rectified_square(x: Tensor) -> Tensor:
    return x.clamp(min=0) ** 2


@torch.library.custom_op("nmtest::reorder", mutates_args=())
def _reorder(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous()


@torch.library.custom_op("nmtest::total", mutates_args=())
def _total(x: Tensor) -> Tensor:
    return x.sum(-1)


@torch.library.custom_op("nmtest::soft", mutates_args=())
def _soft(x: Tensor, dim: int) -> Tensor:
    return x.softmax(dim)


for _op, _same in ((_apply, lambda x, w: x @ w.T), (_rectified_square, lambda x: x.clamp(min=0) ** 2),
                   (_reorder, lambda x: x.movedim(0, -1)), (_total, lambda x: x.sum(-1)),
                   (_soft, lambda x, dim: x.softmax(dim))):  # fmt: skip

    def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.given = inputs

    def _backward(ctx, g, same=_same):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() if isinstance(t, Tensor) else t for t in ctx.given]
            moving = [t for t in leaves if isinstance(t, Tensor)]
            grads = iter(torch.autograd.grad(same(*leaves), moving, g))
        return tuple(next(grads) if isinstance(t, Tensor) else None for t in leaves)

    _op.register_autograd(_backward, setup_context=_setup)

RIGHT = {
    "apply": contraction("bi,oi->bo"),
    "rectified_square": pointwise(degree=2),
    "reorder": movement("abc->bca"),
    "total": reduction("sum", -1),
    "soft": like("aten::softmax"),
}
WRONG = {
    "apply": [contraction("bi,io->bo"), contraction("bi,oi->ob")],
    "rectified_square": [pointwise(degree=1), pointwise(linear=True)],
    "reorder": [movement("abc->cab"), movement("abc->abc")],
    "total": [reduction("max", -1), reduction("mean", -1)],
    "soft": [like("aten::cumsum")],
}
EXAMPLES = {"soft": (torch.randn(3, 4), 1), "reorder": (torch.randn(2, 3, 4),)}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    for name in RIGHT:
        with contextlib.suppress(DetectionError):
            unregister_operator(f"nmtest::{name}")


def test_a_registered_operator_is_followed() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.ops.nmtest.apply(torch.ops.nmtest.rectified_square(torch.ops.nmtest.apply(x, m.u)), m.v)

    def net() -> nn.Module:
        return Net(forward, u=(3, 4), v=(5, 3))

    x = torch.randn(6, 4)
    before = find_symmetries(net(), x)
    assert not before.symmetries
    assert {o.op for o in before.opaque} == {"nmtest.apply", "nmtest.rectified_square"}
    for name in ("apply", "rectified_square"):
        register_operator(f"nmtest::{name}", RIGHT[name])
    after = find_symmetries(net(), x)
    assert [s.name for s in after] == ["u[i] / v[:, i]^2"]
    assert [str(t.weight) for t in after[0].terms] == ["1", "-2"]
    assert not after.rejected
    assert not after.opaque


def test_matrices_pass_a_contraction() -> None:
    register_operator("nmtest::apply", RIGHT["apply"])

    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.ops.nmtest.apply(torch.ops.nmtest.apply(x, m.u), m.v)

    found = find_symmetries(Net(forward, u=(3, 4), v=(5, 3)), torch.randn(6, 4))
    assert found.dimension == {"scaling": 3, "translation": 0, "matrix": 6}


@pytest.mark.parametrize("name", RIGHT)
def test_right_rules_are_believed(name: str) -> None:
    register_operator(f"nmtest::{name}", RIGHT[name], EXAMPLES.get(name))
    with pytest.raises(DetectionError, match="already"):
        register_operator(f"nmtest::{name}", RIGHT[name], EXAMPLES.get(name))


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, some in WRONG.items() for k in range(len(some))])
def test_wrong_rules_are_refused_and_forgotten(name: str, k: int) -> None:
    with pytest.raises(DetectionError):
        register_operator(f"nmtest::{name}", WRONG[name][k], EXAMPLES.get(name))
    register_operator(f"nmtest::{name}", RIGHT[name], EXAMPLES.get(name))


def test_what_cannot_be_registered_is_said() -> None:
    with pytest.raises(DetectionError, match="no operator"):
        register_operator("nmtest::nothing", pointwise())
    with pytest.raises(DetectionError, match="already"):
        register_operator("aten::relu", pointwise(degree=1))
    with pytest.raises(DetectionError, match="example"):
        register_operator("nmtest::soft", RIGHT["soft"])
    with pytest.raises(DetectionError, match="not a contraction"):
        contraction("bi,oi")
    with pytest.raises(DetectionError, match="no tensor"):
        contraction("bi,oi->bx")


def test_a_rule_that_fails_ends_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours costs the claims through one operator, and is said."""
    known = operator_of

    def of(op: str):
        found = known(op)
        return replace(found, rule=lambda *_, **__: [][0], mixing=lambda *_, **__: [][0]) if "relu" in op else found

    for place in ("interpret", "matrix.walk"):
        monkeypatch.setattr(f"neuromech.detect.{place}.operator_of", of)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = find_symmetries(model, torch.randn(5, 3), F.cross_entropy, torch.tensor([0, 1, 1, 0, 1]))
    assert "its rule fails here (IndexError" in str(found)
    assert [s.kind for s in found] == ["translation", "translation"]


def test_what_else_an_operator_says_of_itself_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which indices it tells apart, which rows it reads: nothing is claimed by what fails, and the rest is found."""
    known = operator_of

    def of(op: str):
        found = known(op)
        return replace(found, apart=lambda *_: [][0], rows=lambda *_: [][0]) if "linear" in op and found else found

    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = find_symmetries(model, torch.tensor([0, 1, 1]))
    assert expected.permutations
    for place in ("permutations", "unread"):
        monkeypatch.setattr(f"neuromech.detect.{place}.operator_of", of)
    found = find_symmetries(model, torch.tensor([0, 1, 1]))
    assert [s.name for s in found] == [s.name for s in expected]
    assert not found.permutations
