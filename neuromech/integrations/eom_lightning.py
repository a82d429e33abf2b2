"""`EoMOptimizer` under Lightning's automatic optimization with accumulated batches.

Without accumulation nothing is needed: Lightning hands its closure to the step. In manual optimization write
`optimizer.accumulate(closure)` for all batches but the last, and `optimizer.step(closure)` for that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from neuromech.errors import EoMError
from neuromech.integrations.eom_accelerate import follower_in


class EoMAccumulation(Callback):
    """The batches that Lightning accumulates become closures of the next step, which follows the flow of their mean.

    Raises `EoMError` where gradients would be clipped, as Lightning clips inside of the last closure only.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember a batch that Lightning accumulates; before the one that it steps on, forget what it has summed."""
        followers = [f for f in map(follower_in, trainer.optimizers) if f is not None]
        every = trainer.accumulate_grad_batches
        if not pl_module.automatic_optimization or not followers or every == 1:
            return
        if trainer.gradient_clip_val:
            raise EoMError(
                "gradient_clip_val and accumulate_grad_batches do not go together with EoMOptimizer: clipped steps "
                "follow no flow. Set gradient_clip_val=None, and lower the learning rate if need be"
            )
        (follower,) = followers
        if (batch_idx + 1) % every and not trainer.is_last_batch:

            def closure() -> Tensor:
                output: Any = trainer.strategy.training_step(batch, batch_idx)
                loss = output["loss"] if isinstance(output, Mapping) else output
                if loss is None:
                    raise EoMError("training_step returned None: a batch that is accumulated has to have a loss")
                trainer.strategy.backward(loss / every, None)
                mean: Tensor = (loss / every).detach()
                return mean

            follower.accumulate(closure, 1.0)  # the loss is divided by their number, as Lightning's last is
        elif follower.pending:
            for group in follower.param_groups:
                for p in group["params"]:
                    p.grad = None
