"""Two processes that share a batch go where one goes that has all of it: FSDP2 and DDP, on the CPU."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from groups import together
from torch import nn

from neuromech import EoMError, EoMOptimizer

HOW = [
    ({"order": 0}, {}),
    ({"order": 1, "backend": "hvp"}, {}),
    ({"order": 1, "hvp": "difference"}, {"momentum": 0.5}),
    ({"order": 1, "backend": "gradients"}, {"weight_decay": 0.01}),
    ({"order": 2, "backend": "gradients"}, {"momentum": 0.5}),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def trained(model: nn.Module, x, y, how, options) -> nn.Module:
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05, **options), **how)
    for _ in range(4):
        optimizer.step(lambda: (model(x) - y).square().mean())
    return model


def shared(rank: int, world: int, folder: str, kind: str) -> None:
    x, y = torch.randn(8, 4).double(), torch.randn(8, 3).double()
    for t in (x, y):
        dist.broadcast(t, 0)

    def sharded(model: nn.Module) -> nn.Module:
        if kind == "DDP":
            return nn.parallel.DistributedDataParallel(model)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for part in (model[0], model):
            fully_shard(part, mesh=mesh)
        return model

    half = x.chunk(2)[rank], y.chunk(2)[rank]
    for how, options in HOW:
        whole = trained(net(), x, y, how, options)
        model = trained(sharded(net()), *half, how, options)
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            mine = p.full_tensor() if hasattr(p, "full_tensor") else p
            torch.testing.assert_close(mine, q, rtol=0, atol=1e-11)
    ends = [trained(sharded(net()), *half, how, {}) for how in ({"order": 1}, {"order": 1, "backend": "gradients"})]
    for p, q in zip(*(model.parameters() for model in ends), strict=True):  # what is chosen where nobody says
        assert torch.equal(*(t.to_local() if hasattr(t, "to_local") else t for t in (p, q)))
    with pytest.raises(EoMError, match="FSDP2 and DDP"):
        trained(sharded(net()), *half, {"order": 1, "hvp": "reverse"}, {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FSDP2", "DDP"])
def test_two_processes_go_where_one_goes(kind: str, tmp_path: Path) -> None:
    together(shared, 2, str(tmp_path), kind)
