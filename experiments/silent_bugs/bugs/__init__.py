"""Public silent bugs, each small and with its healthy twin: `run(faulty)` trains, and the monitor names the cause."""

from experiments.silent_bugs.bug import BUGS as BUGS
from experiments.silent_bugs.bug import Bug as Bug
from experiments.silent_bugs.bugs import delivery as delivery
from experiments.silent_bugs.bugs import models as models
from experiments.silent_bugs.bugs import steps as steps
