"""What people rightly do, and a monitor that looks at single steps could take for a fault. Nothing here is one."""

from experiments.silent_bugs.practice import PRACTICES as PRACTICES
from experiments.silent_bugs.practices import backwards as backwards
from experiments.silent_bugs.practices import computation as computation
from experiments.silent_bugs.practices import games as games
from experiments.silent_bugs.practices import learning as learning
from experiments.silent_bugs.practices import losses as losses
from experiments.silent_bugs.practices import models as models
from experiments.silent_bugs.practices import optimizers as optimizers
from experiments.silent_bugs.practices import schedules as schedules
from experiments.silent_bugs.practices import weights as weights
