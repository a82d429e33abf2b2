from .backward import BackwardWatch as BackwardWatch
from .backward import Mark as Mark
from .backward import mark as mark
from .mode import ForwardModes as ForwardModes
from .model import Forward as Forward
from .model import ForwardWatch as ForwardWatch
from .model import StepWatch as StepWatch
from .model import held as held
