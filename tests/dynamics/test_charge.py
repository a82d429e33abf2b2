"""The compiled measurement against the plain one of `Symmetry` and `Term`."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neuromech.dynamics.charge import Forms
from neuromech.dynamics.forms import sums
from neuromech.dynamics.forms.sums import Block
from neuromech.symmetry import Part, Term

from .cases import normed

SHAPES = {"conv": (4, 3, 2, 2), "fused": (12, 4), "flat": (4, 12), "bias": (4,), "scalar": (), "square": (4, 4)}
TERMS = [
    *(("conv", 0, None), ("conv", 1, None), ("conv", None, None), ("conv", (1, 0), None), ("conv", (0, 2), None)),
    *(("fused", (1,), Part((3, 4, 4), ((0, i),))) for i in range(3)),
    *(("fused", (2,), Part((3, 4, 4), ((1, 1), (0, 2)))), ("fused", 0, None), ("fused", (0, 1), Part((4, 3, 4)))),
    *(("flat", 1, Part((4, 4, 3))), ("flat", (2,), Part((4, 4, 3))), ("flat", 0, None), ("flat", 1, None)),
    *(("bias", 0, None), ("scalar", None, None)),
    *(("fused", 0, Part((4, 4), (), (4, 1), 12)), ("fused", 1, Part((4, 4), (), (4, 1), 20))),  # rows 3:7, 5:9
    *(("fused", 0, Part((5, 2), (), (4, 1), 9)), ("flat", 1, Part((3, 5), (), (12, 1), 4))),  # corners
    *(("flat", 1, Part((2, 4), (), (24, 3), 1)), ("conv", (0,), Part((4, 2, 2), ((1, 1),), (12, 4, 3), 0))),  # combs
    *(("square", 0, Part((4,), (), (5,))), ("square", 1, Part((2, 3), (), (3, 3), 2))),  # diagonals
    # rows 2 to 6 one by one; the first half of each of three heads, by head or as a whole; every third row, one column
    *(("fused", 0, Part((4, 4), (), (4, 1), 8)), ("fused", (0,), Part((3, 2, 4), (), (16, 4, 1), 0))),
    *(("fused", None, Part((3, 2, 4), (), (16, 4, 1), 8)), ("fused", (1,), Part((4, 4), (), (12, 1), 4))),
    *(
        ("fused", 0, Part((4,), (), (4,), 34)),
        ("flat", (0,), Part((4, 2), (), (12, 5), 1)),
        ("bias", None, Part((2,), (), (1,), 1)),
    ),
    *(("square", 0, None), ("square", (1, 0), None), ("square", (0, 1), None)),
]


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    """Random blocks; the terms of one tell equally many members apart."""
    weight = st.sampled_from([Fraction(1), Fraction(-1), Fraction(2, 3)])
    chosen = draw(st.lists(st.sampled_from(TERMS), max_size=12))
    terms = [Term(name, axis, draw(weight), part) for name, axis, part in chosen]
    sizes = [t.size(SHAPES[t.parameter]) for t in terms]
    by_size = [[t for t, n in zip(terms, sizes, strict=True) if n == size] for size in dict.fromkeys(sizes)]
    return [Block(n, draw(st.booleans()), tuple(ts)) for n, ts in zip(dict.fromkeys(sizes), by_size, strict=True)]


def random(seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()}


def plainly(block: Block, a: dict[str, Tensor], b: dict[str, Tensor], absolute: bool = False) -> Tensor:
    """The definition: term by term, in float64."""
    total = torch.zeros(block.size, dtype=torch.float64)
    for t in block.terms:
        x, y = a[t.parameter].double(), b[t.parameter].double()
        w = abs(float(t.weight)) if absolute else float(t.weight)
        z = x if block.linear else x * y
        z = z.abs() if absolute else z
        total += w * (t.gather(z) if z.ndim else z)
    return total


@pytest.fixture(params=[1, 20, 10**6])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "CHUNK_CPU", request.param)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forms_are_sums_over_terms(dtype: torch.dtype) -> None:
    # Sums over one parameter are taken in float32 where it is no finer; 4 units are for the cascades of a sum.
    precision = 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps

    @settings(max_examples=15, deadline=None)
    @given(blocks())
    def check(made: list[Block]) -> None:
        a, b = random(0, dtype), random(1, dtype)
        forms = Forms(made, a)
        measured = forms([(a, a), (a, b), (b, a)])
        value, scale, _ = forms.charges(a)
        assert measured.shape == (3, sum(x.size for x in made))
        assert measured.dtype == torch.float64
        for block, rows in zip(made, forms.slices, strict=True):
            for row, (x, y) in zip(measured, [(a, a), (a, b), (b, a)], strict=True):
                error = (row[rows] - plainly(block, x, y)).abs()
                assert (error <= precision * plainly(block, x, y, absolute=True)).all()
            size = plainly(block, a, a, absolute=True)
            assert ((value[rows] - plainly(block, a, a)).abs() <= precision * size).all()
            assert ((scale[rows] - size).abs() <= precision * size).all()

    check()


def test_charges_are_those_of_the_symmetries() -> None:
    case = normed()
    forms = Forms([Block.of(s) for s in case.symmetries], case.params)
    value, *_ = forms.charges(case.params)
    for s, rows in zip(case.symmetries, forms.slices, strict=True):
        torch.testing.assert_close(value[rows], s.charge(case.params), rtol=1e-14, atol=1e-14)


def test_what_a_mapping_lacks_counts_as_zero() -> None:
    a, b = random(0, torch.float32), random(1, torch.float32)
    made = [Block(4, False, (Term("conv", 0, 1), Term("bias", 0, 1))), Block(4, True, (Term("bias", 0, 1),))]
    forms = Forms(made, a)
    some = {"conv": b["conv"]}
    assert torch.equal(forms([(some, a)]), forms([(some | {"bias": torch.zeros(4)}, a)]))
    assert not forms([({}, a)]).any()


def test_layout_in_memory_does_not_matter() -> None:
    a = random(0, torch.float64)
    made = [Block(4, False, (Term("conv", 0, 1), Term("square", 1, -1))), Block(3, True, (Term("conv", 1, 1),))]
    other = a | {"conv": a["conv"].to(memory_format=torch.channels_last), "square": a["square"].to_sparse()}
    forms = Forms(made, a)
    torch.testing.assert_close(forms([(other, a)]), forms([(a, a)]), rtol=1e-14, atol=1e-14)


def test_no_blocks_measure_nothing() -> None:
    forms = Forms([], {})
    assert forms([({}, {})]).shape == (1, 0)
    assert [x.shape for x in forms.charges({})[:2]] == [(0,), (0,)]


class Watch(TorchDispatchMode):
    """Counts kernels, and fails on what would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_measuring_neither_waits_for_the_device_nor_multiplies_kernels() -> None:
    """More families over the same axes cost no more passes over the parameters."""
    a = random(0, torch.float64)
    axes = [Block(4, False, (Term("conv", 0, 1),)), Block(3, False, (Term("conv", 1, 1), Term("conv", 1, 2)))]
    counts = []
    for made in (axes, [*axes, Block(4, False, (Term("conv", 0, 3), Term("conv", 0, -1)))]):
        forms = Forms(made, a)
        with Watch() as watch:
            forms([(a, a)])
        counts.append(watch.calls)
    assert counts[0] == counts[1]
