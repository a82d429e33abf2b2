"""Dividing charges into parts, and carrying states from one division to another."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromech.dynamics import Drift, Motion, Settings
from neuromech.dynamics.splits import Division, Label, Layout, Part, divide, label, plan, regroup
from neuromech.symmetry import Symmetry, Term

A, B, NEW = Label(False, 0), Label(False, 1), Label(True, 2)


def test_divide_puts_what_cannot_be_seen_last() -> None:
    assert divide([A, A, A]) == ((0, 1, 2),)
    assert divide([None, None]) == ((0, 1),)
    assert divide([None, NEW, B, A, B]) == ((3,), (2, 4), (1,), (0,))
    assert divide([A, B, None]) == ((0,), (1,), (2,))


def test_labels_are_equal_where_motions_are() -> None:
    """Two groups with equal settings are one motion, whatever objects hold them; a first step is another motion."""
    buffer = torch.zeros(1)
    motions = {
        "a": Motion(Settings(0.1, 0.9), buffer),
        "b": Motion(Settings(0.1, 0.9), buffer),
        "c": Motion(Settings(0.1, 0.9), None),
        "d": Motion(Settings(0.1), None),
        "e": Motion(Settings(0.1), buffer),
        "f": Motion(Drift(0.9), None),
    }
    (a, b, c, d, e, f, g), known = label("abcdefg", motions)
    assert a == b != c
    assert c is not None
    assert c.first
    assert d == e not in (a, c)
    assert f not in (a, c, d, None)
    assert g is None
    assert {x: known[x] for x in (a, c, d, f) if x} == {
        a: Settings(0.1, 0.9),
        c: Settings(0.1, 0.9),
        d: Settings(0.1),
        f: Drift(0.9),
    }


SYMMETRIES = [
    Symmetry("rescale", 2, (Term("a", 0, 1), Term("b", 0, 1), Term("c", 1, -1), Term("d", 0, -1)), broken_by=("eps",)),
    Symmetry("translation", 3, (Term("c", 0, 1), Term("e", 0, 2), Term("f", 0, 1))),
    Symmetry("scale", 1, (Term("e", None, 1),)),
]
PARAMS = {name: torch.zeros(n, dtype=torch.float64) for name, n in (("a", 2), ("b", 2), ("d", 2), ("e", 3), ("f", 3))}
PARAMS["c"] = torch.zeros(3, 2, dtype=torch.float64)


def divisions() -> st.SearchStrategy[list[Division]]:
    labels = st.sampled_from([A, B, NEW, None])
    return st.tuples(
        *(st.lists(labels, min_size=len(s.terms), max_size=len(s.terms)).map(divide) for s in SYMMETRIES)
    ).map(list)


@settings(max_examples=50, deadline=None)
@given(divisions(), divisions(), st.integers(0, 10**6))
def test_regroup_keeps_every_charge(before: list[Division], after: list[Division], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    old, new = Layout(SYMMETRIES, before, PARAMS), Layout(SYMMETRIES, after, PARAMS)
    state = torch.randn(4, sum(old.forms.rows), generator=g, dtype=torch.float64)
    read = torch.randn(4, sum(new.forms.rows), generator=g, dtype=torch.float64)
    out = regroup(state, old, new, read)
    torch.testing.assert_close(new.total(out), old.total(state), rtol=1e-13, atol=1e-13)
    for part, rows in new.rows.items():
        if part in old.rows:
            assert torch.equal(out[:, rows], state[:, old.rows[part]])
    assert torch.equal(regroup(state, old, old, state + 1), state)


def test_layout_says_whose_torque_enters() -> None:
    together = [divide([A] * len(s.terms)) for s in SYMMETRIES]
    whole = Layout(SYMMETRIES, together, PARAMS)
    assert whole.split == frozenset()
    assert whole.measures == (True, True)
    # The broken rescale and the translation, which comes last; not the exact scale.
    assert whole.torque.tolist() == [[True, True, False, True, True, True], [False] * 6]
    split = Layout(SYMMETRIES, [together[0], divide([A, A, None]), together[2]], PARAMS)
    assert split.split == {1}
    assert split.measures == (True, True)
    assert split.torque_known.tolist() == [True, True, False, True, True, True]
    assert split.torque[1].tolist() == [False] * 3 + [True] * 6


def test_plan_moves_the_rows_of_each_label() -> None:
    labels = {"a": A, "b": A, "c": None, "d": B, "e": B, "f": B}
    made = plan(SYMMETRIES, labels, PARAMS, [])
    parts = dict(made.layout.rows)
    assert set(parts) == {Part(0, (0, 1)), Part(0, (3,)), Part(0, (2,)), Part(1, (0,)), Part(1, (1, 2)), Part(2, (0,))}
    moves = {(move.label, move.kind): move.rows for move in made.moves}
    assert set(moves) == {(A, 0), (B, 0), (B, 1)}
    found = moves[A, 0]
    assert found is not None
    assert found.tolist() == list(range(parts[Part(0, (0, 1))].start, parts[Part(0, (0, 1))].stop))
    assert plan(SYMMETRIES, labels, PARAMS, [made.layout]).layout is made.layout
