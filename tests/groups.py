"""Process groups over gloo for tests, of one process and of several, which end without hanging.

A wrapped model that outlives its group ends it while Python's lock is held. If gloo's own thread then waits for this
lock, to free the tensors of the last collective, neither goes on. If the interpreter is on its way out, that thread
takes the process with it. So a group ends after all that was made in it.
"""

import gc
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = timedelta(minutes=10)


def leave() -> None:
    """Ends the group of this process, after what nobody holds any more."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def alone(folder: Path, body: Callable[[], None]) -> None:
    """Calls `body` in a group of one."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
    try:
        body()
    finally:
        leave()


def member(rank: int, world: int, folder: str, patience: timedelta, body: Callable[..., None], args: Any) -> None:
    """One process of `together`."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting_of_{world}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=patience)
    body(rank, world, folder, *args)
    leave()


def begun(
    body: Callable[..., None], world: int, folder: str, *args: Any, patience: timedelta = PATIENCE
) -> mp.ProcessContext:
    """So many processes that call `body(rank, world, folder, *args)`; not waited for."""
    all_of_them = (world, folder, patience, body, args)
    context = mp.start_processes(member, all_of_them, nprocs=world, join=False, start_method="spawn")
    assert context is not None
    return context


def together(body: Callable[..., None], world: int, folder: str, *args: Any) -> None:
    """The same, waited for. Raises what one of them raises."""
    context = begun(body, world, folder, *args)
    while not context.join():
        pass
