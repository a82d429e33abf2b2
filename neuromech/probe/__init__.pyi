from .probe import Probe as Probe
from .probe import instrument as instrument
