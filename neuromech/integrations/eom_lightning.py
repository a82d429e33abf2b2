"""`EoMOptimizer` under Lightning's automatic optimization with accumulated batches.

Without accumulation nothing is needed: Lightning hands its closure to the step. In manual optimization write
`optimizer.accumulate(closure)` for all batches but the last, and `optimizer.step(closure)` for that one.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from neuromech.errors import EoMError
from neuromech.integrations.eom_accelerate import follower_in


class EoMAccumulation(Callback):
    """The batches that Lightning accumulates become closures of the next step, which follows the flow of their mean.

    Raises `EoMError` where gradients would be clipped, as Lightning clips inside of the last closure only.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stand between the loop and the closures that it makes."""
        loop: Any = trainer.fit_loop.epoch_loop.automatic_optimization
        followers = [f for f in map(follower_in, trainer.optimizers) if f is not None]
        if not pl_module.automatic_optimization or not followers:
            return
        make, follower = type(loop)._make_closure, followers[0]

        def made(kwargs: Any, optimizer: Any, batch_idx: int) -> Any:
            closure = make(loop, kwargs, optimizer, batch_idx)
            if trainer.fit_loop._should_accumulate():
                if trainer.gradient_clip_val:
                    raise EoMError(
                        "gradient_clip_val and accumulate_grad_batches do not go together with EoMOptimizer: clipped "
                        "steps follow no flow. Set gradient_clip_val=None, and lower the learning rate if need be"
                    )
                follower.accumulate(closure, 1.0)  # Lightning has divided its loss by their number
            elif follower.pending:
                # What the batches before have left is evaluated again: it does not wait for anything.
                for group in follower.param_groups:
                    for p in group["params"]:
                        p.grad = None
            return closure

        loop._make_closure = made

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the loop as it was."""
        trainer.fit_loop.epoch_loop.automatic_optimization.__dict__.pop("_make_closure", None)
