"""Small models with linear pairs of every form."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Queries of `heads` heads, keys and values of `kv`; `fused`: one projection for all, and how it is cut."""

    def __init__(self, heads: int = 3, kv: int = 3, fused: str = "", sdpa: bool = True, last: bool = False) -> None:
        super().__init__()
        d, self.heads, self.kv, self.fused, self.sdpa, self.last = 2 * heads, heads, kv, fused, sdpa, last
        if fused:
            self.qkv = nn.Linear(d, 3 * d, bias=False)
        else:
            self.q, self.k, self.v = nn.Linear(d, d, False), nn.Linear(d, 2 * kv, False), nn.Linear(d, 2 * kv, False)
        self.o = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        if self.fused == "unbind":
            q, k, v = self.qkv(x).view(b, t, 3, self.heads, 2).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            parts = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
            q, k, v = (y.view(b, t, -1, 2).transpose(1, 2) for y in parts)
        if self.last:  # only the last token asks
            q, t = q[:, :, -1:], 1
        if self.kv != self.heads and not self.sdpa:
            k, v = (y.repeat_interleave(self.heads // self.kv, 1) for y in (k, v))
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv != self.heads)
        else:
            y = (q @ k.transpose(-1, -2) / 2**0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, d))


class LoRA(nn.Module):
    def __init__(self, merged: bool) -> None:
        super().__init__()
        self.w, self.merged = nn.Linear(4, 3), merged
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return F.linear(x, self.w.weight + 2 * self.b @ self.a, self.w.bias)
        return self.w(x) + 2 * (x @ self.a.T) @ self.b.T


class Tied(nn.Module):
    """An index read by the transpose of what wrote it: rotations only."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) @ self.a.weight


class LinearRecurrence(nn.Module):
    """h <- W h + U x: one matrix on rows of U and W, its inverse on columns of W and C."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w, self.c = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.u(x)
        for _ in range(2):
            h = self.w(h) + self.u(x)
        return self.c(h)


class Branches(nn.Module):
    """Two writers and two readers of one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) + self.b(x.tanh())
        return self.c(h).sigmoid() * self.d(h)


class Factorised(nn.Module):
    """Tokens through a narrow table, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.norm = nn.Embedding(5, 2), nn.Linear(2, 4), nn.LayerNorm(4)

    def forward(self, i: Tensor) -> Tensor:
        return self.norm(self.up(self.table(i)))


class Mixed(nn.Module):
    """Heads that talk to each other: one matrix for all, not one a head; and another that mixes the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.talk, self.c = (
            nn.Linear(3, 6, bias=False),
            nn.Linear(3, 3, bias=False),
            nn.Linear(6, 2, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).view(-1, 3, 2)
        return self.c((self.talk(h.transpose(1, 2)).transpose(1, 2) + h).reshape(-1, 6))


class Between(nn.Module):
    """Something between two linear layers."""

    def __init__(self, what: nn.Module) -> None:
        super().__init__()
        self.a, self.between, self.c = nn.Linear(4, 3), what, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.between(self.a(x)))


class TwoTowers(nn.Module):
    """Two encoders whose outputs only meet in inner products (CLIP)."""

    def __init__(self, product) -> None:
        super().__init__()
        self.a, self.b, self.product = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False), product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.a(x), self.b(x.tanh()))


class Stream(nn.Module):
    """A transformer whose norms have no gains: one rotation of all that writes and reads its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(5, 4), nn.Parameter(torch.randn(3, 4))
        self.qkv, self.o, self.up, self.down = (
            nn.Linear(n, m, bias=False) for n, m in [(4, 12), (4, 4), (4, 3), (3, 4)]
        )

    def forward(self, i: Tensor) -> Tensor:
        x = self.table(i) + self.positions
        q, k, v = (y.view(2, 3, 2, 2).transpose(1, 2) for y in self.qkv(F.rms_norm(x, (4,))).chunk(3, -1))
        q, k = (F.rms_norm(y, (2,)) for y in (q, k))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 3, 4))
        x = x + self.down(F.relu(self.up(F.rms_norm(x, (4,)))))
        return F.rms_norm(x, (4,)) @ self.table.weight.T


class Do(nn.Module):
    def __init__(self, f) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def attended(**options) -> tuple[nn.Module, Tensor]:
    model = Attention(**options)
    return model, torch.randn(2, 4, 2 * model.heads)


# name -> (model, input), expected families, independent directions beyond the diagonal
CASES = {
    "linear": (
        lambda: (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(6, 3)),
        ["3 0.weight[m], 0.bias[m] / 1.weight[:, m]", "6 1.weight[m], 1.bias[m] / 2.weight[:, m]"],
        2 + 6,
    ),
    "attention": (
        lambda: attended(sdpa=False),
        [
            "9 q.weight.view(3, 2, 6)[i, m] / k.weight.view(3, 2, 6)[i, m]",
            "9 v.weight.view(3, 2, 6)[i, m] / o.weight.view(6, 3, 2)[:, i, m]",
        ],
        12,
    ),
    "attention, fused kernel": (
        attended,
        [
            "9 q.weight.view(3, 2, 6)[i, m] / k.weight.view(3, 2, 6)[i, m]",
            "9 v.weight.view(3, 2, 6)[i, m] / o.weight.view(6, 3, 2)[:, i, m]",
        ],
        12,
    ),
    "attention, fused projection": (
        lambda: attended(fused="chunk"),
        [
            "9 qkv.weight.view(3, 3, 2, 6)[0, i, m] / qkv.weight.view(3, 3, 2, 6)[1, i, m]",
            "9 qkv.weight.view(3, 3, 2, 6)[2, i, m] / o.weight.view(6, 3, 2)[:, i, m]",
        ],
        12,
    ),
    "attention, fused and unbound": (
        lambda: attended(fused="unbind"),
        [
            "9 qkv.weight.view(3, 3, 2, 6)[0, i, m] / qkv.weight.view(3, 3, 2, 6)[1, i, m]",
            "9 qkv.weight.view(3, 3, 2, 6)[2, i, m] / o.weight.view(6, 3, 2)[:, i, m]",
        ],
        12,
    ),
    "attention of the last token": (
        lambda: attended(fused="unbind", last=True),
        [
            "9 qkv.weight.view(3, 3, 2, 6)[0, i, m] / qkv.weight.view(3, 3, 2, 6)[1, i, m]",
            "9 qkv.weight.view(3, 3, 2, 6)[2, i, m] / o.weight.view(6, 3, 2)[:, i, m]",
        ],
        12,
    ),
    "grouped queries": (
        lambda: attended(heads=4, kv=2),
        [
            "6 q.weight.view(2, 2, 2, 8)[i, :, m] / k.weight.view(2, 2, 8)[i, m]",
            "6 v.weight.view(2, 2, 8)[i, m] / o.weight.view(8, 2, 2, 2)[:, i, :, m]",
        ],
        8,
    ),
    "grouped queries, repeated": (
        lambda: attended(heads=4, kv=1, sdpa=False),
        [
            "3 q.weight.view(4, 2, 8)[:, m] / k.weight[m]",
            "3 v.weight[m] / o.weight.view(8, 4, 2)[:, :, m]",
        ],
        4,
    ),
    "lora": (lambda: (LoRA(False), torch.randn(5, 4)), ["3 a[m] / b[:, m]"], 2),
    "merged lora": (lambda: (LoRA(True), torch.randn(5, 4)), ["3 a[m] / b[:, m]"], 2),
    "tied": (lambda: (Tied(), torch.randn(5, 4)), ["3 rotation of a.weight[m]"], 3),
    "recurrence": (
        lambda: (LinearRecurrence(), torch.randn(5, 3)),
        ["6 u.weight[m], w.weight[m] / w.weight[:, m], c.weight[:, m]"],
        6,
    ),
    "branches": (
        lambda: (Branches(), torch.randn(5, 4)),
        ["6 a.weight[m], a.bias[m], b.weight[m], b.bias[m] / c.weight[:, m], d.weight[:, m]"],
        6,
    ),
    "factorised embedding": (
        lambda: (Factorised(), torch.tensor([[0, 1, 2], [3, 4, 1]])),
        ["3 table.weight[:, m] / up.weight[:, m]"],
        2,
    ),
    "heads that mix": (
        lambda: (Mixed(), torch.randn(5, 3)),
        [
            "6 a.weight.view(3, 2, 3)[m], talk.weight[m] / talk.weight[:, m], c.weight.view(2, 3, 2)[:, m]",
            "3 a.weight.view(3, 2, 3)[:, m] / c.weight.view(2, 3, 2)[:, :, m]",
        ],
        6 + 2,
    ),
    "convolutions": (
        lambda: (
            nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 1), nn.AvgPool2d(2), nn.Flatten(),
                          nn.Linear(8, 2)),
            torch.randn(2, 2, 4, 4),
        ),
        ["6 0.weight[m], 0.bias[m] / 1.weight[:, m]", "3 1.weight[m], 1.bias[m] / 4.weight.view(2, 2, 4)[:, m]"],
        6 + 2,
    ),
    "up and down again": (
        lambda: (nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Conv1d(3, 2, 2)), torch.randn(2, 2, 5)),
        ["6 0.weight[:, m], 0.bias[m] / 1.weight[:, m]"],
        6,
    ),
}  # fmt: skip

# What must forbid a matrix, though factors or nothing at all may pass.
CLOSED = {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "layer norm": nn.LayerNorm(3),
    "batch norm": nn.BatchNorm1d(3),
    "dropout": nn.Dropout(0.3),
    "gain": Do(lambda x: x * torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)),
    "constant": Do(lambda x: x + 1),
    "sum": Do(lambda x: x + x.sum(-1, keepdim=True)),
    "maximum": Do(lambda x: torch.maximum(x, -x)),
    "flip": Do(lambda x: x.flip(-1)),
    "roll": Do(lambda x: x.roll(1, -1)),
    "two of three": Do(lambda x: torch.cat([x[..., :2], x[..., 2:]], -1)),
    "one by one": Do(lambda x: torch.stack([x[..., i] for i in range(3)], -1)),
    "cumulative": Do(lambda x: x.cumsum(-1)),
    "norm of order one": Do(lambda x: F.normalize(x, p=1, dim=-1)),
    "norm over the batch": Do(lambda x: F.normalize(x, dim=0)),
    "RMS norm with gains": nn.RMSNorm(3),
    "sum of weighed squares": Do(lambda x: x * (x.square() * torch.tensor([1.0, 2.0, 3.0]).to(x)).sum(-1, True)),
    "squares read twice": Do(lambda x: (lambda s: s.sum(-1, keepdim=True) * x + s)(x.square())),
    "repeated and added to": Do(lambda x: x * (x.square().sum(-1, keepdim=True).expand_as(x) + x)),
    "softmax": nn.Softmax(-1),
    "a number in between": Do(lambda x: x * float(x.detach().sum())),
    "sorted": Do(lambda x: x.sort(-1).values),
    "in place": Do(lambda x: x.clone().mul_(torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype))),
    "half of it in place": Do(lambda x: half_in_place(x)),
    "outer": Do(lambda x: (x.unsqueeze(-1) * x.unsqueeze(-2)).sum(-1)),
}
OPEN = {
    "nothing": nn.Identity(),
    "twice": Do(lambda x: 2 * x - x / 3),
    "dropout in evaluation": nn.Dropout(0.3).eval(),
    "another place": Do(lambda x: x.unsqueeze(0).transpose(0, 1).reshape(-1, 3)),
    "over the batch": Do(lambda x: x - x.mean(0, keepdim=True)),
    "shuffled batch": Do(lambda x: torch.cat([x[2:], x[:2]])),
    "a number each": Do(lambda x: x * torch.arange(6, dtype=x.dtype).unsqueeze(1)),
}


# What leaves rotations alone: the index is seen through its length.
TURNED = {
    "RMS norm": Do(lambda x: F.rms_norm(x, (3,))),
    "normalize": Do(lambda x: F.normalize(x, dim=-1)),
    "over the norm": Do(lambda x: x / x.norm(dim=-1, keepdim=True)),
    "RMS norm by hand, large eps": Do(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.5)),
    "squares by hand": Do(lambda x: x / (x * x).sum(-1, keepdim=True).expand(-1, 3)),
    "gate of its length": Do(lambda x: x * torch.linalg.vector_norm(x, dim=1, keepdim=True).tanh()),
}


def half_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[..., 0] = y[..., 0] * 2
    return y
