"""Processes that die, that instrument different models, or that instrument alone: nobody waits for what never comes.

Real gloo processes, each scenario under a limit of time.
"""

import faulthandler
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from groups import begun
from probe.test_distributed import batch, net, spread
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech.record import NORMS

pytestmark = pytest.mark.slow
WORLD = 2
LIMIT = 600.0  # s, on a busy machine: without an end of its own a collective of gloo waits for half an hour
STEPS = 6


def sgd(m: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)


def step(m: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> None:
    x, y = batch()
    optimizer.zero_grad()
    F.cross_entropy(m(x[rank::WORLD]), y[rank::WORLD]).backward()
    optimizer.step()


def dies(kind: str, after: int, rank: int, folder: str) -> None:
    """The second process is gone after some steps; the first one trains on until torch says so."""
    m = spread(kind, net(), WORLD)
    optimizer, probe = sgd(m), neuromech.instrument(m, run=f"{folder}/run")
    for k in range(STEPS):
        if rank == 1 and k == after:
            os._exit(0)
        try:
            step(m, optimizer, rank)
        except RuntimeError as error:
            said = f"{k} {probe!r} {error}"
            break
    else:
        said = f"{STEPS} {probe!r}"
    probe.remove()
    Path(f"{folder}/said").write_text(said)
    sys.stdout.flush()
    os._exit(0)  # a process group that lost a member cannot be left in order


def differ(rank: int, folder: str) -> None:
    """Two sharded models are trained by both, and each process instruments another one."""
    both = [spread("fsdp2", net(), WORLD), spread("fsdp2", nn.Sequential(*net()[:3]), WORLD)]
    probe = neuromech.instrument(both[rank])
    optimizers = [sgd(m) for m in both]
    for _ in range(STEPS):
        for m, optimizer in zip(both, optimizers, strict=True):
            step(m, optimizer, rank)
    Path(f"{folder}/said{rank}").write_text(repr(probe))
    dist.barrier()


def some(kind: str, rank: int, folder: str) -> None:
    """Only the first process instruments."""
    m = spread(kind, net(), WORLD)
    probe = neuromech.instrument(m, run=f"{folder}/run") if rank == 0 else None
    optimizer = sgd(m)
    for _ in range(STEPS):
        step(m, optimizer, rank)
    if probe is not None:
        probe.remove()
        Path(f"{folder}/said").write_text(repr(probe))
    dist.barrier()


def quiet(kind: str, rank: int, folder: str) -> None:
    """What is said between processes in a step that is not recorded, in one that is, and in a bare one."""
    said = []
    for every in (None, 4):
        m = spread(kind, net(), WORLD)
        optimizer = sgd(m)
        probe = None if every is None else neuromech.instrument(m, every=every)
        each = []
        for _ in range(STEPS):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
                step(m, optimizer, rank)
            each.append(sum(e.name.startswith("gloo:") for e in seen.events()))
        said.append(each)
        if probe is not None and rank == 0:
            torch.save(probe.scalars(), f"{folder}/scalars")
    if rank == 0:
        torch.save(said, f"{folder}/said")
    dist.barrier()


def impatient(rank: int, world: int, folder: str, scenario: Callable[..., None], args: tuple[object, ...]) -> None:
    from neuromech.hooks import ranks

    faulthandler.dump_traceback_later(LIMIT / 2)
    ranks.PATIENCE = timedelta(seconds=10)
    scenario(*args, rank, folder)


def ended(scenario: Callable[..., None], *args: object) -> tempfile.TemporaryDirectory[str]:
    """The folder that two processes leave behind, which have ended by themselves."""
    folder = tempfile.TemporaryDirectory()
    context = begun(impatient, WORLD, folder.name, scenario, args, patience=timedelta(seconds=60))
    start = time.monotonic()
    while not context.join(timeout=1.0):
        if time.monotonic() - start > LIMIT:
            for p in context.processes:
                p.kill()
            pytest.fail("a process hangs")
    return folder


@pytest.mark.parametrize("after", [0, 3], ids=["ahead of the first step", "in mid-run"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_process_that_dies_takes_nothing_along(kind: str, after: int) -> None:
    with ended(dies, kind, after) as folder:
        said = (Path(folder) / "said").read_text()
        reached = int(said.split()[0])
        assert reached <= after + 1, said
        run = neuromech.open_run(Path(folder) / "run")
        if after:
            assert run.history["step"].max() >= after - 1
            assert run.history["residual"].max() < 2e-6


def test_processes_that_instrument_different_models_are_refused() -> None:
    with ended(differ) as folder:
        for rank in range(WORLD):
            said = (Path(folder) / f"said{rank}").read_text()
            assert "have found different symmetries" in said or "not every process has instrumented it" in said


def test_one_process_alone_may_instrument_what_is_not_sharded() -> None:
    with ended(some, "ddp") as folder:
        assert neuromech.open_run(Path(folder) / "run").history["step"].max() == STEPS


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_nothing_is_said_between_recorded_steps(kind: str) -> None:
    with ended(quiet, kind) as folder:
        bare, watched = torch.load(f"{folder}/said")
        extra = [b - a for a, b in zip(bare, watched, strict=True)]
        recorded = [k for k in range(1, STEPS + 1) if k % 4 == 0]
        for k, n in enumerate(extra, 1):
            if k > 1:  # the first step finds the symmetries
                assert n == (1 if k in recorded and kind == "fsdp2" else 0), extra
        scalars = torch.load(f"{folder}/scalars")
        assert scalars["loss"] > 0
        alone = net()
        probe, optimizer = neuromech.instrument(alone), sgd(alone)
        F.cross_entropy(alone(batch()[0]), batch()[1]).backward()
        optimizer.step()
        unsummed = set(NORMS) if kind == "fsdp2" else set()  # they would take a reduction of their own
        assert scalars.keys() == {tag for tag in probe.scalars() if not tag.startswith("angle")} - unsummed
        assert all(x < 2e-6 for tag, x in scalars.items() if tag.startswith("residual/"))
