"""A transformer in parts along two axes of processes: tensor and sequence parallel within, `fully_shard` across."""

import tempfile

import pytest
import torch
import torch.distributed as dist
from groups import together
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech

pytestmark = pytest.mark.slow


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape  # of heads each process has its own, so their number is not said
        q, k, v = (f(x).view(b, t, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o(y.transpose(1, 2).reshape(b, t, -1))
        return out


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.attention = nn.RMSNorm(width), Attention(width, heads)
        self.between, self.mlp = nn.RMSNorm(width), Gated(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        out: Tensor = x + self.mlp(self.between(x))
        return out


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(32, 16), Block(16, 4), nn.RMSNorm(16), nn.Linear(16, 32, bias=False))


def spread(m: nn.Sequential) -> nn.Sequential:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    whole, parts = Replicate(), Shard(1)
    gather = PrepareModuleInput(input_layouts=(parts,), desired_input_layouts=(whole,))
    columns, rows, sequence = ColwiseParallel(), RowwiseParallel(output_layouts=parts), SequenceParallel()
    plan = {
        "0": RowwiseParallel(input_layouts=whole, output_layouts=parts),
        **{f"1.attention.{name}": columns for name in "qkv"},
        **{f"1.mlp.{name}": columns for name in ("gate", "up")},
        "1.attention.o": rows, "1.mlp.down": rows, "1.attention": gather, "1.mlp": gather,
        "1.before": sequence, "1.between": sequence, "2": sequence,
        "3": ColwiseParallel(input_layouts=parts, output_layouts=whole),
    }  # fmt: skip
    parallelize_module(m, mesh["tp"], plan)
    for part in (m[1], m):
        fully_shard(part, mesh=mesh["dp"])
    return m


def train(m: nn.Module, part: slice) -> None:
    tokens = torch.randint(0, 32, (4, 9), generator=torch.Generator().manual_seed(1))[part]
    optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(m(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()


def charges(probe: neuromech.Probe) -> dict[str, float]:
    h = probe.history
    h = h[(h["member"] == -1) & (h["step"] == h["step"].max())]
    assert (h["residual"] < 2e-6).all()
    return dict(zip(h["name"], h["observed"], strict=True))


def work(rank: int, world: int, folder: str) -> None:
    bare, watched = spread(net()), spread(net())
    probe = neuromech.instrument(watched)
    probe.monitor()
    for m in (bare, watched):
        train(m, slice(rank // 2, None, 2))
    pairs = zip(bare.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(p.to_local(), q.to_local()) for p, q in pairs)  # type: ignore[operator]
    assert probe.faults.empty
    torch.save(charges(probe), f"{folder}/{rank}.pt")
    dist.barrier()


def test_a_transformer_along_two_axes_has_the_charges_of_a_single_process() -> None:
    alone = net()
    probe = neuromech.instrument(alone)
    train(alone, slice(None))
    # Matrix families of what is sharded are not followed.
    expected = {name: c for name, c in charges(probe).items() if ".view(" not in name}
    with tempfile.TemporaryDirectory() as folder:
        together(work, 4, folder)
        found = torch.load(f"{folder}/0.pt")
    assert found.keys() == expected.keys()
    assert len(found) > 5
    assert all(found[name] == pytest.approx(c, rel=1e-4, abs=1e-6) for name, c in expected.items())
