"""Windows of trajectories, for a DataLoader."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from neuromech.errors import PhysicsError
from neuromech.physics.energy.data import Trajectories


class Windows(Dataset[dict[str, Tensor]]):
    """All stretches of `length` states, `stride` apart: each a dictionary of t [length], u [length, ...], and, where
    the trajectories have them, inputs [length - 1, k] and condition."""

    def __init__(self, trajectories: Trajectories, length: int, stride: int = 1) -> None:
        steps = trajectories.u.shape[1]
        if not 2 <= length <= steps or stride < 1:
            raise PhysicsError(
                f"windows of {length} states, {stride} apart, in {steps}: expected 2 to {steps}, 1 or more"
            )
        self.trajectories, self.length = trajectories, length
        self.starts = range(0, steps - length + 1, stride)

    def __len__(self) -> int:
        return len(self.trajectories) * len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row, k = divmod(index % len(self), len(self.starts))
        these = self.trajectories
        part = slice(self.starts[k], self.starts[k] + self.length)
        times: Tensor = these.t if these.t.ndim == 1 else these.t[row]
        item = {"t": times[part], "u": these.u[row, part]}
        if these.inputs is not None:
            item["inputs"] = these.inputs[row, part.start : part.stop - 1]
        if these.condition is not None:
            item["condition"] = torch.as_tensor(these.condition[row])
        return item
