from .instrumenting import instrument as instrument
from .probe import Probe as Probe
