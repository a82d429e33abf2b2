from .eom_accelerate import accumulate as accumulate
from .eom_lightning import EoMAccumulation as EoMAccumulation
from .eom_trainer import EoMTrainer as EoMTrainer
