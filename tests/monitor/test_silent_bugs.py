"""Public silent bugs are found within one step and their cause is named first; their healthy twins are left alone."""

import pytest

from experiments.silent_bugs.bugs import BUGS
from tests.families import fast

pytestmark = [
    pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning"),
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),  # one of the bugs
]


@pytest.mark.parametrize("name", fast(BUGS, list(BUGS)[::5]))
def test_faulty(name: str) -> None:
    bug = BUGS[name]
    iteration, fault = bug.run(True).faults[0]
    assert fault.cause == bug.cause, str(fault)
    assert bug.at - 1 <= iteration <= bug.at + 1


@pytest.mark.slow  # test_practice.py is the fast watch for false alarms
@pytest.mark.parametrize("name", BUGS)
def test_healthy(name: str) -> None:
    assert [str(fault) for _, fault in BUGS[name].run(False).faults] == []
