"""Detection against the zoo: the families by name, and their span against the null space of sampled gradients.

Run with `-s` to see the table.
"""

import pytest
from zoo import CASES, Case

from detect.oracle import Score, find, scores
from tests.families import fast


@pytest.mark.parametrize("case", fast(CASES, CASES[::3]), ids=str)
def test_expected_families(case: Case) -> None:
    found = find(case)
    assert tuple(f"{s.kind} {s.size}  {s.name}" for s in found if s.kind != "matrix") == case.expected
    assert not found.rejected
    for s in found:
        assert s.defect < 1e-12 or s.broken_by
        assert s.defect < 1e-3


@pytest.mark.parametrize("case", fast(CASES, CASES[::10]), ids=str)
def test_against_the_null_space(case: Case) -> None:
    """Precision one; recall one, but for what the zoo lists as missed, with the reason."""
    found = find(case, verify=False)
    for domain, score in scores(case, found).items():
        n, _ = case.missed.get(domain, (0, ""))
        print(_row(case, domain, score))
        assert score.shared == score.claimed, "a false claim"
        assert score.true - score.shared == n
        assert found.dimension[domain] == score.claimed


def test_what_is_missed_is_what_is_listed() -> None:
    assert {c.name for c in CASES if c.missed} == {
        "branch_without_gradient",
        "read_as_a_number",
        "symmetric_weight",
        "unknown_operator",
    }


def _row(case: Case, domain: str, s: Score) -> str:
    why = f"  ({case.missed[domain][1]})" if domain in case.missed else ""
    return f"{case.name:<36} {domain:<12} precision {s.precision:.2f}  recall {s.shared}/{s.true}{why}"
