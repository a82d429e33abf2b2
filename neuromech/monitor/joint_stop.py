"""`on_fault="raise"` in a run of several processes: all of them stop in the same step, so that none waits for another.

Every process says at every step whether it has found something: one collective, in a group of its own. Those that have
not found anything stop as well, and name the ones that have.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from neuromech.errors import FaultError, InstrumentError, warn
from neuromech.hooks import Ranks
from neuromech.monitor.fault import Fault


class JointStop:
    """Called by every process in every step, with what it has found."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ranks: Ranks | None = None
        self._alone = False  # the others are not with us: from then on each process stops by itself

    @staticmethod
    def asked() -> bool:
        """True in a run of several processes."""
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def __call__(self, fault: Fault | None) -> None:
        """Raises `FaultError` if another process has found a fault, and this one has not."""
        if self._alone:
            return
        found = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=self._device)
        found[dist.get_rank()] = float(fault is not None)
        try:
            if self._ranks is None:
                self._ranks = Ranks("a monitor that stops the run", "call monitor('raise') on all of them, or on none")
            who = self._ranks.total(found).nonzero().flatten().tolist()
        except (InstrumentError, RuntimeError) as error:
            self._alone = True
            short = "on_fault='raise' stops this process alone"
            warn(f"{short}: {error}", "stops alone", short=short)
            return
        if who and fault is None:
            names = f"rank {', '.join(map(str, who))}"
            raise FaultError(f"{names} has found a fault in this step, and stops; so does this process")
