"""Numbers as a person reads them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromech.report.words import apart, level, listing, many, number, power_of_ten, share, unbroken


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (0, "0"),
        (3.04e-13, "3×10⁻¹³"),
        (-2.44e-4, "-2.4×10⁻⁴"),
        (0.001, "0.001"),
        (0.0999, "0.1"),
        (1, "1"),
        (99.6, "100"),
        (-12.34, "-12"),
        (54321, "54,000"),
        (9.96e4, "1×10⁵"),
        (1e-5, "1×10⁻⁵"),
        (math.nan, "–"),
        (None, "–"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_number(x: float | None, said: str) -> None:
    assert number(x) == said


def test_a_loss_does_not_end_a_sentence_on_a_number() -> None:
    assert [level(x) for x in (1.0049, 0.99996, 12.02, 235.2)] == ["1.00", "1.00", "12.0", "235"]
    assert [level(x) for x in (2.0, 0.5, 1.152, -3.0, 0.0, 1e-5, 6.53e35)] == [
        "2", "0.5", "1.15", "-3", "0", "1×10⁻⁵", "6.53×10³⁵",
    ]  # fmt: skip
    assert (level(math.nan), level(math.inf)) == ("not a number", "∞")


@given(st.floats(-1e308, 1e308))
def test_number_is_right_to_two_digits(x: float) -> None:
    plain = number(x).replace(",", "").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    mantissa, _, exponent = plain.partition("×10")
    back = float(f"{mantissa}e{exponent or 0}")
    assert back == pytest.approx(x, rel=0.051)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5, unique=True))
def test_numbers_beside_each_other_are_right_and_differ(values: list[float]) -> None:
    texts = apart(values)
    for x, text in zip(values, texts, strict=True):
        plain = text.replace(",", "").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        mantissa, _, exponent = plain.partition("×10")
        assert float(f"{mantissa}e{exponent or 0}") == pytest.approx(x, rel=0.051)
    scale = max(map(abs, values))
    if all(abs(a - b) > 1e-6 * scale for a, b in itertools.combinations(values, 2)):
        assert len(set(texts)) == len(values)


def test_numbers_get_as_few_digits_as_tell_them_apart() -> None:
    assert apart([1.0, 2.0]) == ["1", "2"]
    assert apart([10.01, 10.02, 10.03]) == ["10.01", "10.02", "10.03"]
    assert apart([3.0, 3.0]) == ["3", "3"]
    assert apart([1.01e-7, 1.02e-7]) == ["1.01×10⁻⁷", "1.02×10⁻⁷"]
    assert apart([100_100.0, 100_200.0]) == ["1.001×10⁵", "1.002×10⁵"]


def test_share() -> None:
    assert [share(x) for x in (0.0312, 0.5, 2.0, 1e-4, 9e-5, 40)] == [
        "3.1 %",
        "50 %",
        "200 %",
        "0.01 %",
        "9×10⁻⁵",
        "40 times",
    ]


def test_lists_and_counts() -> None:
    assert [listing(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert [many(n, "law") for n in (0, 1, 1500)] == ["no laws", "1 law", "1,500 laws"]
    assert many(2, "family", "families") == "2 families"
    assert power_of_ten(-12) == "10⁻¹²"
    assert unbroken("a b[:, i], c[0, :]") == "a b[:,\N{NO-BREAK SPACE}i], c[0,\N{NO-BREAK SPACE}:]"
