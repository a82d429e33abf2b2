"""Models in parts on two processes, in the order in which people set them up: no alarm, and the charges of one process.

In each, something is held by both processes alike beside what is sharded, or the parameters that the monitor met are
others by the first step.
"""

import tempfile
from collections.abc import Callable
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
Instrument = Callable[[nn.Module], None]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.RMSNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.relu(self.up(self.norm(x))))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), Block(), Block(), nn.RMSNorm(8), nn.Linear(8, 4))


def parallel_blocks(m: nn.Sequential) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    for block in (m[1], m[2]):
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(block, init_device_mesh("cpu", (2,)), plan)


def sharded_blocks(m: nn.Sequential) -> None:
    from torch.distributed.fsdp import fully_shard

    for block in (m[1], m[2]):
        fully_shard(block)


def sharded(m: nn.Sequential) -> None:
    from torch.distributed.fsdp import fully_shard

    sharded_blocks(m)
    fully_shard(m)


def tensor_parallel(m: nn.Sequential, instrument: Instrument) -> None:
    parallel_blocks(m)
    instrument(m)


def instrumented_ahead_of_tensor_parallel(m: nn.Sequential, instrument: Instrument) -> None:
    instrument(m)
    parallel_blocks(m)


def instrumented_ahead_of_sharding(m: nn.Sequential, instrument: Instrument) -> None:
    instrument(m)
    sharded(m)


def compiled_and_sharded(m: nn.Sequential, instrument: Instrument) -> None:
    for block in (m[1], m[2]):
        block.compile(backend="aot_eager")
    sharded(m)
    instrument(m)


def the_rest_added_up_by_hand(m: nn.Sequential, instrument: Instrument) -> None:
    sharded_blocks(m)
    instrument(m)


def wrong_backward(m: nn.Sequential, instrument: Instrument) -> None:
    parallel_blocks(m)
    m[1].norm.weight.register_hook(lambda g: 2 * g)
    instrument(m)


KINDS = {
    f.__name__: f
    for f in (
        tensor_parallel,
        instrumented_ahead_of_tensor_parallel,
        instrumented_ahead_of_sharding,
        compiled_and_sharded,
        the_rest_added_up_by_hand,
        wrong_backward,
    )
}
Trained = tuple[list[torch.Tensor], dict[str, float], list[str], str]


def train(kind: str, watched: bool, rank: int, world: int) -> Trained:
    probes: list[neuromech.Probe] = []

    def instrument(m: nn.Module) -> None:
        if watched:
            probes.append(neuromech.instrument(m))
            probes[0].monitor(on_fault=lambda fault: None)

    m = net()
    KINDS[kind](m, instrument) if world > 1 else instrument(m)
    optimizer = torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 8, generator=g), torch.randint(0, 4, (8,), generator=g)
    if world > 1 and kind in ("instrumented_ahead_of_sharding", "compiled_and_sharded", "the_rest_added_up_by_hand"):
        x, y = x[rank::world], y[rank::world]
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(m(x), y).backward()
        for p in m.parameters():
            if kind == "the_rest_added_up_by_hand" and not hasattr(p, "full_tensor"):
                dist.all_reduce(p.grad)
                p.grad /= world
        optimizer.step()
    whole = [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in m.parameters()]
    if not probes:
        return whole, {}, [], ""
    (probe,) = probes
    h = probe.history
    h = h[(h["member"] == -1) & (h["step"] == STEPS)] if not h.empty else h
    charges = dict(zip(h["name"], h["observed"], strict=True)) if not h.empty else {}
    faults, said = list(probe.faults["cause"]) if len(probe.faults) else [], repr(probe)
    probe.remove()
    return whole, charges, faults, said


def work(rank: int, world: int, folder: str) -> None:
    """All kinds in one set of processes: their start is what takes the time."""
    out = {kind: (train(kind, False, rank, world), train(kind, True, rank, world)) for kind in KINDS}
    torch.save(out, f"{folder}/{rank}.pt")
    dist.barrier()


@pytest.fixture(scope="module")
def results() -> list[dict[str, tuple[Trained, Trained]]]:
    with tempfile.TemporaryDirectory() as folder:
        together(work, 2, folder)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    return train("", True, 0, 1)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_parts_has_the_charges_of_one_process_and_no_alarm(
    kind: str, results: list[dict[str, tuple[Trained, Trained]]], expected: dict[str, float]
) -> None:
    for of in results:
        (weights, *_), (same, charges, faults, said) = of[kind]
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True)), said
        if kind == "wrong_backward":
            assert faults
            continue
        assert not faults
        assert charges.keys() == expected.keys(), said
        for name, observed in charges.items():
            assert observed == pytest.approx(expected[name], rel=1e-5, abs=1e-6)
