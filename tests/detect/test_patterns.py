"""Names said once: templates, ranges, groups; and pages that stay short."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neuromech.detect import Findings, find_symmetries
from neuromech.detect.interpret import Opaque
from neuromech.detect.patterns import compressed, grouped, merged, parse, prose, ranges
from neuromech.symmetry import SymmetrySet


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("layers.0.mlp.weight[i]", (0,)),
        ("layers.3.experts.17.w.weight", (3, 17)),
        ("0.weight[i], 0.bias[i] / 2.weight[:, i]", (0, 0, 2)),
        ("positive factors pass through ReLU 1", (1,)),
        ("fc.weight.view(10, 64, 16)[:, i]^2", ()),
        ("eps = 1e-05 of batch norm layer1.0.bn2", (0,)),
        ("eps = 0.001 of bn", ()),
        ("conv1.weight", ()),
        ("blocks.0", (0,)),
        ("", ()),
    ],
)
def test_numbers_of_modules_and_no_others(text: str, numbers: tuple[int, ...]) -> None:
    template, found = parse(text)
    assert found == numbers
    assert template.filled(found) == text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({3}, "3"), ({0, 1}, "0,1"), (range(32), "0-31"), ({0, 2, 5}, "0,2,5"), (range(0, 31, 2), "0,2..30"),
        ({0, 1, 2, 4, 5, 6}, "0-2,4-6"), ({7, 1}, "1,7"),
    ],
)  # fmt: skip
def test_ranges(values, words: str) -> None:
    assert ranges(values) == words


def test_columns_that_move_together() -> None:
    table = [(layer, 1, layer + 1) for layer in range(4)]
    assert [g.columns for g in grouped(table)] == [("0-3", "1", "1-4")]


def test_every_combination_or_more_groups() -> None:
    full = [(layer, expert) for layer in range(3) for expert in range(4)]
    assert [g.columns for g in grouped(full)] == [("0-2", "0-3")]
    assert len(grouped(full[:-1])) == 2  # the last layer lacks an expert


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12, unique=True)
)
def test_groups_say_what_the_rows_say(table: list[tuple[int, ...]]) -> None:
    """Every row is in one group, and a group writes the values that its rows have."""
    groups = grouped(table)
    assert sorted(r for g in groups for r in g.rows) == list(range(len(table)))
    for g in groups:
        for c, words in enumerate(g.columns):
            assert words == ranges({table[r][c] for r in g.rows})


def test_enumerations_are_compressed() -> None:
    names = [f"layers.{i}.{part}.weight" for i in range(5) for part in ("o", "down")]
    assert compressed(["embed.weight", *names]) == [
        "embed.weight", "layers.0-4.o.weight", "layers.0-4.down.weight"
    ]  # fmt: skip
    assert compressed(["a.0.w", "a.1.w"]) == ["a.0.w", "a.1.w"]  # too few to be worth it
    listed = ", ".join(f"norm layers.{i}.ln divides" for i in range(7)) + " and norm layers.7.ln divides; so be it"
    assert prose(listed) == "norm layers.0-7.ln divides; so be it"
    assert prose("as it was, and is") == "as it was, and is"


def test_rows_of_one_form_are_one() -> None:
    rows = [(6, (f"{2 * i}.weight / {2 * i + 2}.weight", f"ReLU {2 * i + 1}")) for i in range(5)]
    assert merged([*rows, (7, ("10.weight / 12.weight", "ReLU 11"))]) == [
        ([0, 1, 2, 3, 4], ("0,2..8.weight / 2,4..10.weight", "ReLU 1,3..9")),
        ([5], ("10.weight / 12.weight", "ReLU 11")),
    ]


def deep() -> Findings:
    layers = [m for _ in range(12) for m in (nn.Linear(4, 4), nn.ReLU())]
    return find_symmetries(nn.Sequential(*layers, nn.Linear(4, 2)), torch.randn(3, 4), verify=False)


def test_a_deep_model_has_a_short_page() -> None:
    page = str(deep())
    assert len(deep()) == 12
    assert "12 x 4  0,2..22.weight[i], 0,2..22.bias[i] /" in page
    assert len(page.splitlines()) < 10


def test_the_largest_defect_stands_for_a_group() -> None:
    found = deep()
    measured = SymmetrySet(replace(s, defect=10.0 ** (i - 20)) for i, s in enumerate(found))
    page = str(replace(found, symmetries=measured))
    assert re.search(r"12 x 4 .* 1e-09  ", page)


def test_lists_of_modules_and_parameters_are_short() -> None:
    opaque = tuple(Opaque("odd", f"layers.{i}.f", "there is no rule for it", (f"layers.{i}.w",)) for i in range(40))
    names = tuple(f"spare.{i}.weight" for i in range(40))
    page = str(replace(deep(), opaque=opaque, inactive=names))
    assert "odd in layers.0-39.f: there is no rule for it; it shuts in layers.0-39.w" in page
    assert "inactive: spare.0-39.weight do not reach the result" in page
