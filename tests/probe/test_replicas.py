"""Ranks that should agree, and do not: by checksum, and in real processes under DistributedDataParallel."""

import subprocess
import sys
import textwrap

import pytest
import torch

from neuromech.monitor.checks.replicas import disagreement


def test_majority() -> None:
    names = ["a", "b", "c"]
    assert disagreement("gradient", names, torch.tensor([[1, 2, 3]] * 4)) is None
    odd = disagreement("gradient", names, torch.tensor([[1, 2, 3], [1, 5, 3], [1, 2, 3]]))
    assert odd is not None
    assert (odd.ranks, odd.world, odd.names) == ((1,), 3, ("b",))
    none = disagreement("weight", names, torch.tensor([[1, 2, 3], [1, 2, 4]]))
    assert none is not None
    assert (none.ranks, none.names) == ((), ("c",))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "no_sync"])
def test_two_processes(tmp_path, fault: str) -> None:
    """Gloo, two ranks, batches of their own; from step 4 on the last layer of rank 1 is reduced no more."""
    script = """
        import sys, torch, neuromech
        import torch.distributed as dist
        from torch import nn
        from torch.nn import functional as F
        rank, fault, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        monitor = neuromech.instrument(wrapped).monitor(print, replicas=True)
        torch.manual_seed(rank)
        for step in range(1, 9):
            x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
            optimizer.zero_grad()
            if fault == "no_sync" and step >= 4:
                with wrapped.no_sync():
                    F.cross_entropy(wrapped(x), y).backward()
            else:
                F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
        print("steps", monitor.step)
        dist.destroy_process_group()
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ranks = [
        subprocess.Popen([*command, str(r), fault, str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    said = [p.communicate(timeout=300)[0] for p in ranks]
    assert all("steps 8" in s for s in said)
    for s in said:
        assert ("step 4: a rank steps with gradients that were not reduced" in s) == (fault == "no_sync")
        assert ("step 1:" in s or "step 2:" in s) is False
