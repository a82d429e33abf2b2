"""Several processes (gloo): the same bits as without the instrument, and the charges of a single process."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from groups import together
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
    both = kind in TWO_AXES
    mesh = init_device_mesh("cpu", (2, world // 2) if both else (world,), mesh_dim_names=("dp", "tp") if both else None)
    if "tp" in kind:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        m = parallelize_module(m, mesh["tp"] if both else mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if kind in ("tp", "tp twice"):
        return m
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    how = {"mesh": mesh["dp"] if both else mesh}
    if kind == "fsdp2 in bf16":
        how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if kind == "fsdp2 offloaded":
        how["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
    for part in m:
        if isinstance(part, nn.Linear):
            fully_shard(part, **how)
    fully_shard(m, **how)
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


KINDS = ["ddp", "no_sync", "zero", "fsdp2", "fsdp2 offloaded", "fsdp2 in bf16", "tp", "tp twice", "fsdp2 x tp", "fsdp1"]
TWO_AXES = ("tp twice", "fsdp2 x tp")  # of four processes: two groups that hold the same, each in parts, or parts of it
REFUSED = {"fsdp1": "fully_shard"}  # and in which words
Trained = tuple[list[torch.Tensor], dict[str, tuple[float, float]], str]


def one(kind: str, rank: int, world: int, run: str | None) -> Trained:
    """Trained weights, charges and what the probe says of itself, if `run` is where to record; else bare."""
    m = spread(kind, net(), world)
    probe = neuromech.instrument(m, run=run) if run else None
    if kind == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    x, y = batch()
    if kind == "fsdp2 x tp":
        x, y = x[rank // (world // 2) :: 2], y[rank // (world // 2) :: 2]
    elif kind not in ("tp", "tp twice"):
        x, y = x[rank::world], y[rank::world]
    train(m, optimizer, x, y, halves=kind == "no_sync")
    return whole(kind, m), charges(probe) if probe else {}, repr(probe)


def work(rank: int, world: int, folder: str) -> None:
    """All kinds in one set of processes: their start is what takes the time."""
    out: dict[str, tuple[Trained, Trained]] = {}
    for kind in KINDS:
        if kind not in TWO_AXES or world == 4:
            out[kind] = one(kind, rank, world, None), one(kind, rank, world, f"{folder}/{kind}")
            dist.barrier()
    torch.save(out, f"{folder}/{rank}.pt")
    dist.barrier()


@pytest.fixture(scope="module", params=[2, 4], ids=["2 processes", "4 processes"])
def results(request: pytest.FixtureRequest) -> Iterator[tuple[Path, list[dict[str, tuple[Trained, Trained]]]]]:
    world = request.param
    with tempfile.TemporaryDirectory() as folder:
        together(work, world, folder)
        yield Path(folder), [torch.load(f"{folder}/{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[float, float]]:
    alone = net()
    probe = neuromech.instrument(alone)
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9), *batch(), halves=False)
    return charges(probe)


@pytest.mark.parametrize("kind", KINDS)
def test_charges_of_all_processes_are_those_of_one(
    kind: str,
    results: tuple[Path, list[dict[str, tuple[Trained, Trained]]]],
    expected: dict[str, tuple[float, float]],
) -> None:
    folder, ranks = results
    if kind not in ranks[0]:
        pytest.skip("needs four processes")
    for of in ranks:
        (weights, _, _), (same, found, said) = of[kind]
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
        if kind in REFUSED:
            assert not found
            assert REFUSED[kind] in said
            continue
        if "bf16" in kind:  # gradients of the outputs are too coarse to know a softmax by
            assert found
            assert found.keys() <= expected.keys()
        else:
            assert found.keys() == expected.keys(), said
        for name, (observed, residual) in found.items():
            near = {"rel": 0.05, "abs": 0.05} if "bf16" in kind else {"rel": 1e-5, "abs": 1e-6}
            assert observed == pytest.approx(expected[name][0], **near)
            assert residual < (5e-3 if "bf16" in kind else 2e-6)
    if kind not in REFUSED:
        assert neuromech.open_run(folder / kind).history["step"].max() == STEPS  # only the first process writes


def alone_of_two(rank: int, world: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from datetime import timedelta

    from neuromech.hooks import ranks

    ranks.PATIENCE = timedelta(seconds=3)
    m = spread("fsdp2", net(), world)
    probe = neuromech.instrument(m) if rank == 0 else None
    train(m, torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), *batch(), halves=False)
    assert probe is None or "not every process has instrumented it" in repr(probe)
    dist.barrier()


def test_one_of_two_processes_instruments_a_sharded_model() -> None:
    with tempfile.TemporaryDirectory() as folder:
        together(alone_of_two, 2, folder)


def half(rank: int, world: int, folder: str, goes_on: bool) -> None:
    """Train a sharded model; save it with its probe after STEPS steps, or load both and go on for as many."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    from neuromech.integrations import ProbeState

    m = spread("fsdp2", net(), world)
    optimizer = torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    probe = neuromech.instrument(m, run=f"{folder}/run", resume=goes_on)
    x, y = batch()
    if goes_on:
        weights, moments = get_state_dict(m, optimizer)
        state = {"model": weights, "optimizer": moments, "probe": ProbeState(probe)}
        dcp.load(state, checkpoint_id=f"{folder}/saved")
        set_state_dict(m, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        dist.barrier()
    train(m, optimizer, x[rank::world], y[rank::world], halves=False)
    if not goes_on:
        weights, moments = get_state_dict(m, optimizer)
        dcp.save({"model": weights, "optimizer": moments, "probe": ProbeState(probe)}, checkpoint_id=f"{folder}/saved")
    probe.remove()
    dist.barrier()


def test_a_checkpoint_goes_on_in_another_number_of_processes() -> None:
    alone = net()
    probe, optimizer = neuromech.instrument(alone), torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        train(alone, optimizer, *batch(), halves=False)
    rows = probe.history
    expected = rows[rows["member"] == -1].set_index(["step", "name"])
    with tempfile.TemporaryDirectory() as folder:
        together(half, 2, folder, False)
        together(half, 4, folder, True)
        run = neuromech.open_run(Path(folder) / "run")
        found = run.history[run.history["member"] == -1].set_index(["step", "name"])
        assert not (run.events["kind"] == "changed").any()
    assert set(found.index) == set(expected.index)
    for column in ("observed", "exact", "ideal", "flow"):
        off = (found[column] - expected[column].reindex(found.index)).abs() / expected["scale"].reindex(found.index)
        assert off.max() < 1e-5
    assert found["residual"].max() < 2e-6
