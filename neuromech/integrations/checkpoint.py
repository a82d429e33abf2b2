"""A probe in checkpoints of torch.distributed.checkpoint.

state = {"model": model.state_dict(), "optimizer": ..., "probe": ProbeState(probe)}
dcp.save(state, checkpoint_id=folder)       # and dcp.load(state, checkpoint_id=folder) with a fresh probe

DCP asks what is to be loaded by the keys of what is there; a fresh probe knows none of its own yet. So its state is
packed into one value, which has a place from the beginning.
"""

from __future__ import annotations

import io
from typing import Any

import torch

from neuromech.probe import Probe


class ProbeState:
    """`probe`, as DCP's `Stateful`. All processes have to save and load it, as with everything of DCP."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def state_dict(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(self._probe.state_dict(), buffer)
        return {"packed": buffer.getvalue()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `RecordError` for the state of another model, or if the probe has measured already."""
        self._probe.load_state_dict(torch.load(io.BytesIO(state_dict["packed"]), weights_only=True))
