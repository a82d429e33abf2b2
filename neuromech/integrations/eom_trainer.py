"""`EoMOptimizer` in Hugging Face's Trainer, whose loop runs backward itself and calls step() without a closure."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from neuromech.errors import EoMError
from neuromech.integrations.eom_accelerate import accumulate, follower_in


class EoMTrainer(Trainer):
    """A Trainer whose optimizer may be an `EoMOptimizer`: each micro-batch becomes a closure of its next step.

    The loss of a micro-batch is evaluated once more, for the log. Raises `EoMError` for max_grad_norm > 0, as steps
    that are clipped follow no flow, and for fp16.
    """

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As `Trainer.training_step`; without backward."""
        follower = follower_in(self.optimizer)
        if follower is None:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        if self.args.max_grad_norm:
            raise EoMError(
                f"max_grad_norm is {self.args.max_grad_norm}: clipped steps follow no flow, and EoMOptimizer takes its "
                "own gradients. Set max_grad_norm=0 in TrainingArguments, and lower the learning rate if need be"
            )
        model.train()
        batch = self._prepare_inputs(inputs)
        share = 1.0 if self._divides_itself(num_items_in_batch) else 1.0 / self.current_gradient_accumulation_steps

        def closure() -> Tensor:
            with self.compute_loss_context_manager():
                loss: Any = self.compute_loss(model, dict(batch), num_items_in_batch=num_items_in_batch)
            value: Tensor = loss.mean() * share
            return value

        # accelerator.backward() divides by these too, whatever the loss has been divided by already.
        accumulate(self.optimizer, closure, 1.0 / self.accelerator.gradient_accumulation_steps)
        return follower.evaluate(closure)

    def _divides_itself(self, num_items_in_batch: Any) -> bool:
        told = getattr(self, "loss_is_scaled_for_ga", None)
        if told is not None:
            return bool(told)
        counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(counted or self.compute_loss_func is not None)
