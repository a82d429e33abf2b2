"""Gradient steps that survive interruption: what `fit` and every experiment that trains stand on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError


class Descent:
    """Steps of `optimizer` on `module`, counted and kept.

    `checkpoint`: a file that `save` writes, whole or not at all; if it exists, the descent goes on from it, to the same
    numbers. `draw`: the generator that batches come from, None for torch's own. `notes`: plain data that the caller
    wants to find again.

    Raises `PhysicsError` for a file that is not a state of this training.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path | None = None,
        draw: torch.Generator | None = None,
    ) -> None:
        checkpoint = Path(checkpoint) if checkpoint else None
        self.module, self.optimizer, self.checkpoint, self.draw = module, optimizer, checkpoint, draw
        self.losses: list[float] = []
        self.notes: dict[str, Any] = {}
        if checkpoint and checkpoint.exists():
            self._resume(checkpoint)

    def step(self, loss: Callable[[], Tensor], lr: float | None = None) -> float:
        """One step down `loss()`, at the rate `lr` if there is one; its value before the step.

        Raises `PhysicsError` when that is not finite, with the parameters as they were.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] if lr is None else lr
        self.optimizer.zero_grad()
        value = loss()
        found = value.item()
        if not math.isfinite(found):
            rate = self.optimizer.param_groups[0]["lr"]
            raise PhysicsError(
                f"the loss is {found} at step {len(self.losses)}: lower lr ({rate:g}), or look at the data; the "
                "parameters are those before this step"
            )
        value.backward()
        self.optimizer.step()
        self.losses.append(found)
        return found

    def save(self) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            random = torch.get_rng_state() if self.draw is None else self.draw.get_state()
            states = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "random": random}
            write(self.checkpoint, states | {"losses": self.losses, "notes": self.notes})

    def _resume(self, path: Path) -> None:
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            (torch.set_rng_state if self.draw is None else self.draw.set_state)(state["random"])
            self.losses, self.notes = list(state["losses"]), dict(state["notes"])
        except Exception as error:  # bytes of any kind raise of any kind
            raise PhysicsError(
                f"{path} is not a state of this training ({error}): give it another file, or delete it to begin anew"
            ) from error


def write(path: Path, content: dict[str, Any]) -> None:
    """`torch.save`, whole or not at all."""
    torch.save(content, part := path.with_suffix(".part"))
    os.replace(part, path)
