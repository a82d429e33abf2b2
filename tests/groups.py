"""A process group of one, inside the process of the tests."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist


def alone(folder: Path, body: Callable[[], None]) -> None:
    """Calls `body` in a gloo group of one process, and ends the group after everything that `body` made is gone.

    A DistributedDataParallel that outlives its group ends it while Python's lock is held. If gloo's own thread then
    waits for this lock, to free the tensors of the last broadcast, neither goes on: the process hangs for ever.
    """
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
    try:
        body()
    finally:
        gc.collect()
        dist.destroy_process_group()
