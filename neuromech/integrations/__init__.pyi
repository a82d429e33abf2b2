from .checkpoint import ProbeState as ProbeState
from .eom_accelerate import accumulate as accumulate
from .eom_lightning import EoMAccumulation as EoMAccumulation
from .eom_trainer import EoMTrainer as EoMTrainer
from .lightning import LightningCallback as LightningCallback
from .trainer import TrainerCallback as TrainerCallback
