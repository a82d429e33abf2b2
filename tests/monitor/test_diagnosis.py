"""Evidence -> causes: every cause can be named, the order is right, and words say what was seen."""

import pytest

from neuromech.monitor import CAUSES, Evidence, diagnose
from neuromech.monitor.evidence import Broken, Edit, GradientEdit, Replica, Setting
from neuromech.monitor.fault import Fault, Faults
from neuromech.monitor.replay import Difference
from neuromech.monitor.suspect import CERTAIN, LIKELY

SCALE = Broken(0, "1.weight[i]", ("1.weight",), "scale", 8, 8, 50.0)
PAIR = Broken(1, "1.weight[i] / 3.weight[:, i]", ("1.weight", "3.weight"), "rescale", 8, 8, 50.0)
LAST = Broken(2, "5.bias", ("5.bias",), "translation", 1, 1, 50.0)
ONE = Broken(3, "3.weight[i] / 5.weight[:, i]", ("3.weight", "5.weight"), "rescale", 8, 1, 50.0)
ONE_TOO = Broken(1, "1.weight[i] / 3.weight[:, i]", ("1.weight", "3.weight"), "rescale", 8, 1, 50.0)


def step(what: str, by: str, factor: float) -> tuple[Difference, ...]:
    return (Difference("1.weight", what, by, factor, 1.0), Difference("3.weight", what, by, factor, 1.0))


EVIDENCE = {
    "wrong backward": Evidence(torques=(PAIR,), families=3),
    "evaluation mode": Evidence(torques=(SCALE,), mode=("1",)),
    "penalty": Evidence(torques=(SCALE, PAIR), penalty=0.01),
    "other loss": Evidence(torques=(LAST,)),
    "stale gradient": Evidence(torques=(PAIR,), delayed=True),
    "not cleared": Evidence(uncleared=("1.weight",), torques=(PAIR,)),
    "repeated step": Evidence(repeated=("1.weight",)),
    "second optimizer": Evidence(shared=("1.weight",), repeated=("1.weight",)),
    "edited weights": Evidence(edits=(Edit("1.weight", "weight"),)),
    "edited state": Evidence(edits=(Edit("1.weight", "momentum_buffer"),)),
    "bit flip in weight": Evidence(edits=(Edit("1.weight", "weight", 5, False),)),
    "bit flip in gradient": Evidence(edits=(Edit("1.weight", "gradient", 5, False),), torques=(ONE, ONE_TOO)),
    "bit flip in momentum": Evidence(edits=(Edit("1.weight", "exp_avg", 5, False),)),
    "modified gradient": Evidence(gradient_edit=GradientEdit("norm", ("1.weight",), 3.0, 1.0)),
    "not finite": Evidence(infinite=("1.weight",), skipped=True),
    "frozen": Evidence(frozen=("1.weight",)),
    "detached": Evidence(silent=("1.weight",)),
    "dead gradient": Evidence(dead=("1.weight",)),
    "not held": Evidence(unheld=("1.weight",)),
    "replaced": Evidence(replaced=("1.weight",)),
    "settings": Evidence(settings=(Setting("lr", 0.1, 0.2, ("1.weight",)),)),
    "learning rate": Evidence(steps=step("weight", "step", -1.0), lr=0.1),
    "weight decay": Evidence(steps=step("weight", "weights", -0.1), lr=0.1),
    "momentum": Evidence(steps=step("momentum_buffer", "momentum", -0.1), lr=0.1),
    "wrong step": Evidence(steps=step("weight", "", float("nan")), lr=0.1),
    "momentum lost": Evidence(lost=("1.weight",)),
    "step count lost": Evidence(clock=(("1.weight", 10.0, 0.0),)),
    "schedule lost": Evidence(restarted=Setting("lr", 0.01, 0.1, ())),
    "wrong checkpoint": Evidence(edits=(Edit("1.weight", "weight"),), restored=True),
    "not reduced": Evidence(replicas=(Replica("gradient", (1,), 4, ("1.weight",)),)),
    "zeroed gradient": Evidence(zeroed=("1.weight",), zeroed_all=True),
    "dropped gradient": Evidence(dropped=("1.weight",)),
    "average": Evidence(averaged=(("AveragedModel", 0.1, 0.01),)),
    "doubled gradient": Evidence(doubled=("1.weight",)),
    "nothing moved": Evidence(still=("1.weight",)),
    "lost updates": Evidence(lost_updates=0.97, still=("1.weight",)),
    "replicas differ": Evidence(replicas=(Replica("weight", (), 2, ("1.weight",)),)),
}


@pytest.mark.parametrize("cause", EVIDENCE)
def test_the_evidence_of_a_cause_names_it_first(cause: str) -> None:
    first = diagnose(EVIDENCE[cause])[0]
    assert first.key == cause
    assert first.strength >= LIKELY
    assert first.evidence
    assert first.advice


COMPARED_OR_COUNTED = {  # bits, objects, flags, numbers of steps
    "evaluation mode", "not cleared", "repeated step", "second optimizer", "bit flip in weight", "bit flip in gradient",
    "bit flip in momentum", "not finite", "frozen", "not held", "replaced", "settings", "momentum lost",
    "step count lost", "wrong checkpoint", "not reduced", "zeroed gradient", "average", "doubled gradient",
    "nothing moved", "lost updates", "replicas differ",
}  # fmt: skip


@pytest.mark.parametrize("cause", EVIDENCE)
def test_certain_is_what_was_compared_or_counted(cause: str) -> None:
    """Not what a bound of rounding, a fit, or chance speaks for."""
    strength = {s.key: s.strength for s in diagnose(EVIDENCE[cause])}[cause]
    assert (strength == CERTAIN) == (cause in COMPARED_OR_COUNTED)


@pytest.mark.parametrize("cause", EVIDENCE)
def test_a_fault_says_what_else_it_could_be(cause: str) -> None:
    fault = Fault(3, diagnose(EVIDENCE[cause]), EVIDENCE[cause])
    assert f"{CAUSES[cause].rival}." in str(fault)
    assert CAUSES[cause].rival


def test_all_causes_are_covered() -> None:
    assert set(EVIDENCE) | {"unknown"} == set(CAUSES)


def test_nothing_found_is_no_fault() -> None:
    assert diagnose(Evidence()) == ()
    assert diagnose(Evidence(families=7, lr=0.1, since_start=True, kept="SGD")) == ()


def test_evidence_of_several_checks_is_merged() -> None:
    a = Evidence(frozen=("a",), torques=(PAIR,), penalty=0.1)
    b = Evidence(frozen=("b", "a"), torques=(PAIR, SCALE), since_start=True, kept="SGD", lr=0.1)
    both = Evidence(frozen=("a", "b"), torques=(PAIR, SCALE), penalty=0.1, since_start=True, kept="SGD", lr=0.1)
    assert a | b == both
    assert Evidence() | a == a
    assert a | Evidence() == a
    assert (a | b) | EVIDENCE["settings"] == a | (b | EVIDENCE["settings"])


def test_one_element_in_all_its_families_is_a_bit_of_a_gradient() -> None:
    found = diagnose(Evidence(torques=(ONE, ONE_TOO)))
    assert [s.key for s in found[:2]] == ["bit flip in gradient", "wrong backward"]
    assert found[0].where == ("3.weight",)


def test_a_branch_that_is_cut_shows_at_once_by_symmetry() -> None:
    found = diagnose(Evidence(torques=(PAIR,), cut=("1.weight",)))
    assert [s.key for s in found] == ["detached", "wrong backward"]


def test_a_law_that_is_left_without_reason_is_not_passed_over() -> None:
    assert diagnose(Evidence(laws=(PAIR,)))[0].key == "wrong step"
    assert [s.key for s in diagnose(Evidence(laws=(ONE,)))] == ["bit flip in weight", "wrong step"]


def test_words() -> None:
    fault = Fault(7, diagnose(EVIDENCE["settings"]), EVIDENCE["settings"])
    assert str(fault).startswith("step 7: a param group has unexpected settings (certain): lr of 1.weight is 0.2")
    assert "To do: " in str(fault)
    assert len({len(column) for column in fault.rows().values()}) == 1


class TestFaults:
    """Each fault is told once; one that goes on hides no other."""

    def test_lasting_ones_are_counted(self) -> None:
        book = Faults()
        for k in range(5):
            told = book.add(k, diagnose(EVIDENCE["wrong backward"]), EVIDENCE["wrong backward"])
            assert told is not None
            assert told[1] == (k == 0)
        (fault,) = book.all
        assert (fault.step, fault.last, fault.times) == (0, 4, 5)

    def test_bits_are_told_one_by_one(self) -> None:
        book = Faults()
        for name in "ab":
            evidence = Evidence(edits=(Edit(name, "weight", 5, False),))
            book.add(1, diagnose(evidence), evidence)
        assert len(book.all) == 2

    def test_what_goes_on_hides_nothing(self) -> None:
        book, going = Faults(), EVIDENCE["frozen"]
        book.add(1, diagnose(going), going)
        both = Evidence(frozen=("1.weight",), edits=(Edit("3.weight", "weight", 5, False),))
        told = book.add(2, diagnose(both), both)
        assert told is not None
        assert told[1]
        assert told[0].causes[0] == "bit flip in weight"
        assert "frozen" not in told[0].causes

    def test_what_is_ignored_is_none(self) -> None:
        book = Faults(("frozen",))
        assert book.add(1, diagnose(EVIDENCE["frozen"]), EVIDENCE["frozen"]) is None
        assert book.add(1, (), Evidence()) is None
        assert not book.all
        assert CERTAIN > LIKELY


def scaled(*by: float) -> str:
    how = [Difference(f"{k}.weight", "weight", "weights", f - 1, 1.0) for k, f in enumerate(by)]
    edits = tuple(Edit(h.name, "weight", how=h) for h in how)
    (said,) = [s for s in diagnose(Evidence(edits=edits)) if s.key == "edited weights"]
    return said.evidence


def test_weights_that_were_scaled_are_told_by_their_factors() -> None:
    assert scaled(0.9) == "between two steps 0.weight was multiplied by 0.9"
    assert scaled(1.1, 1.1) == "between two steps 0.weight, 1.weight were multiplied by 1.1"
    assert scaled(2.0, 0.5) == "between two steps 0.weight, 1.weight were multiplied by 0.5 to 2"
