"""A fault on one rank stops all of them, in the same step; a sharded model is watched like any other."""

import tempfile
from pathlib import Path

import pytest
import torch
from groups import together
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech.monitor import Fault

pytestmark = pytest.mark.slow
AT = 6


def work(rank: int, world: int, folder: str, sharded: bool, faulty: bool, stops: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    wrapped: nn.Module = model
    if sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    else:
        wrapped = nn.parallel.DistributedDataParallel(model)
    faults: list[Fault] = []
    monitor = neuromech.instrument(wrapped, strict=True).monitor("raise" if stops else faults.append)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=5e-2, momentum=0.9)
    torch.manual_seed(rank)
    ended = "finished"
    try:
        for k in range(1, 13):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(torch.randn(8, 8)), torch.randint(0, 4, (8,))).backward()
            if faulty and rank == 1 and k == AT:
                with torch.no_grad():
                    next(iter(model.parameters())).mul_(1.5)
            optimizer.step()
    except neuromech.FaultError as error:
        ended = f"{k} {error}"
    text = f"{monitor.step}\n{len(faults)}\n{ended}"
    Path(folder, f"rank{rank}").write_text(text)


def ranks(sharded: bool, faulty: bool, stops: bool) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as directory:
        together(work, 2, directory, sharded, faulty, stops)
        return [Path(directory, f"rank{r}").read_text().splitlines() for r in range(2)]


@pytest.mark.parametrize("sharded", [False, True])
def test_all_ranks_stop_in_the_same_step(sharded: bool) -> None:
    first, second = ranks(sharded, True, True)
    assert first[2].startswith(f"{AT} rank 1 has found a fault")
    assert second[2].startswith(f"{AT} step {AT}: weights were changed")


def test_an_edit_on_one_rank_is_told_there_and_nothing_more() -> None:
    """A law of sharded parameters is one of sums: if one rank starts over, all have to."""
    first, second = ranks(sharded=True, faulty=True, stops=False)
    assert first[1:] == ["0", "finished"]
    assert second[1:] == ["1", "finished"]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_healthy_run_goes_on(sharded: bool) -> None:
    assert ranks(sharded, False, True) == [["12", "0", "finished"]] * 2


def test_a_healthy_sharded_run_has_no_fault() -> None:
    assert ranks(True, False, False) == [["12", "0", "finished"]] * 2
