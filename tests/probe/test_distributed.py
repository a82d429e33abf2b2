"""Several processes (gloo): the same bits as without the instrument, and the charges of a single process."""

import os
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

import neuromech

pytestmark = pytest.mark.slow
STEPS = 5


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(8, 8, generator=g), torch.randint(0, 4, (8,), generator=g)


def spread(kind: str, m: nn.Sequential, world: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh

    if kind in ("ddp", "zero", "no_sync"):
        return nn.parallel.DistributedDataParallel(m)
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(m, use_orig_params=True, device_id=torch.device("cpu"))
    mesh = init_device_mesh("cpu", (world,))
    if kind == "tp":
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        return parallelize_module(m, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    from torch.distributed.fsdp import fully_shard

    for part in m:
        if isinstance(part, nn.Linear):
            fully_shard(part, mesh=mesh)
    fully_shard(m, mesh=mesh)
    return m


def whole(kind: str, m: nn.Module) -> list[torch.Tensor]:
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(m):
            return [p.detach().clone() for p in m.parameters()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in m.parameters()]


def charges(probe: neuromech.Probe) -> dict[str, tuple[float, float]]:
    h = probe.history
    if h.empty:
        return {}
    h = h[(h["member"] == -1) & (h["step"] == h["step"].max())]
    return {r.name: (r.observed, r.residual) for r in h[["name", "observed", "residual"]].itertuples(index=False)}


def train(m: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, halves: bool) -> None:
    for _ in range(STEPS):
        optimizer.zero_grad()
        if halves:
            with m.no_sync():
                (F.cross_entropy(m(x[::2]), y[::2]) / 2).backward()
            (F.cross_entropy(m(x[1::2]), y[1::2]) / 2).backward()
        else:
            F.cross_entropy(m(x), y).backward()
        optimizer.step()


def work(rank: int, world: int, kind: str, instrumented: bool, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    m = spread(kind, net(), world)
    probe = neuromech.instrument(m, run=f"{folder}/run") if instrumented else None
    if kind == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    x, y = batch()
    if kind != "tp":
        x, y = x[rank::world], y[rank::world]
    train(m, optimizer, x, y, halves=kind == "no_sync")
    said = repr(probe)
    torch.save((whole(kind, m), charges(probe) if probe else {}, said), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(
    kind: str, instrumented: bool, world: int
) -> list[tuple[list[torch.Tensor], dict[str, tuple[float, float]], str]]:
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (world, kind, instrumented, folder), nprocs=world, start_method="spawn")
        if instrumented and kind != "fsdp1":
            assert neuromech.open_run(Path(folder) / "run").history["step"].max() == STEPS  # that of rank 0
        return [torch.load(f"{folder}/{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["ddp", "no_sync", "zero", "fsdp2", "tp"])
def test_charges_of_all_processes_are_those_of_one(kind: str, world: int) -> None:
    alone = net()
    probe = neuromech.instrument(alone)
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9), *batch(), halves=False)
    expected = charges(probe)
    bare, watched = run(kind, False, world), run(kind, True, world)
    for (weights, _, _), (same, found, said) in zip(bare, watched, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
        assert found.keys() == expected.keys(), said
        for name, (observed, residual) in found.items():
            assert observed == pytest.approx(expected[name][0], rel=1e-5, abs=1e-6)
            assert residual < 2e-6


def test_what_is_not_served_trains_and_says_so() -> None:
    bare, watched = run("fsdp1", False, 2), run("fsdp1", True, 2)
    for (weights, _, _), (same, found, said) in zip(bare, watched, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
        assert not found
        assert "fully_shard" in said


def alone_of_two(rank: int, world: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    from datetime import timedelta

    from neuromech.hooks import ranks

    ranks.PATIENCE = timedelta(seconds=3)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    m = spread("fsdp2", net(), world)
    probe = neuromech.instrument(m) if rank == 0 else None
    train(m, torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), *batch(), halves=False)
    assert probe is None or "not every process has instrumented it" in repr(probe)
    dist.barrier()
    dist.destroy_process_group()


def test_one_of_two_processes_instruments_a_sharded_model() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(alone_of_two, (2, folder), nprocs=2, start_method="spawn")
