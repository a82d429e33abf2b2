"""What people rightly do is no fault: every practice of `experiments.silent_bugs.practices`, once."""

import pytest

from experiments.silent_bugs.practices import PRACTICES

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")


@pytest.mark.parametrize("name", PRACTICES)
def test_no_fault(name: str) -> None:
    watched = PRACTICES[name](0)
    assert [str(fault) for _, fault in watched.faults] == []
    events = watched.probe.events
    assert "failed" not in set(events.get("kind", ()))
