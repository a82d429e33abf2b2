"""The instrument as a callback of Lightning."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuromech.errors import InstrumentError
from neuromech.integrations.shim import Shim, Watch, Which
from neuromech.probe import Probe

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch import Callback
else:
    # Lightning goes by two names, whose classes do not know each other.
    old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    try:
        Callback = import_module("pytorch_lightning" if old else "lightning.pytorch").Callback
    except ImportError as error:
        raise InstrumentError("LightningCallback needs Lightning: pip install 'neuromech[lightning]'") from error


class LightningCallback(Callback):
    """`Trainer(callbacks=[LightningCallback(run="runs/a")])`: instruments the module that is fitted.

    `model`: what to instrument of it, as "net" or a function of the module; None: all of it, whichever parts
    `training_step` calls. `monitor`: True, what to do at a fault ("warn", "raise", a function of it), or a mapping of
    the arguments of `probe.monitor()`. `log`: send `probe.scalars()` to the loggers of the trainer, every
    `log_every_n_steps`. `options`: those of `neuromech.instrument`. Its state is part of Lightning's checkpoints:
    `fit(ckpt_path=...)` goes on exactly. `probe`: the probe, from the start of the training.

    Raises what `instrument` raises.
    """

    def __init__(self, model: Which = None, *, monitor: Watch = False, log: bool = True, **options: Any) -> None:
        self._shim, self._log = Shim(model, monitor, options), log

    @property
    def probe(self) -> Probe | None:
        return self._shim.probe

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Weights, optimizers and the states of callbacks have been loaded by now, and wrappers are in place."""
        self._shim.begin(pl_module, resumed=trainer.global_step > 0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        every = getattr(trainer, "log_every_n_steps", 0)
        if self._log and trainer.loggers and every and (trainer.fit_loop.total_batch_idx + 1) % every == 0:
            numbers = self._shim.numbers()
            for logger in trainer.loggers if numbers else ():
                logger.log_metrics(numbers, step=trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._shim.end(exception)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._shim.end()

    def state_dict(self) -> dict[str, Any]:
        return self._shim.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes ahead of the weights: kept until they are in place."""
        self._shim.saved = state_dict or None
