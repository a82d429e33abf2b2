"""What people rightly do is no fault: every practice of `experiments.silent_bugs.practices`, once."""

import pytest

from experiments.silent_bugs.practices import PRACTICES
from tests.families import fast

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")


@pytest.mark.parametrize("name", fast(PRACTICES, list(PRACTICES)[::8]))
def test_no_fault(name: str) -> None:
    watched = PRACTICES[name](0)
    assert [str(fault) for _, fault in watched.faults] == []
    events = watched.probe.events
    assert "failed" not in set(events.get("kind", ()))
