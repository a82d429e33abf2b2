"""Single operators between two linear layers: zeros in every form, writes to parts, scatter; groups behind seams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from architectures.base import ARCHITECTURES, Architecture, real

PAD = torch.tensor([[False, False, True]])[..., None]
PLACES = torch.tensor([0, 1, 0])
ORDER = torch.tensor([2, 0, 1, 4, 3])
PAIRS = torch.tensor([0, 1, 0, 1, 2])
APART = torch.tensor([2, 0, 1])
FIXED = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))


def _assigned(write: Callable[[Tensor], None]) -> Callable[[Tensor], Tensor]:
    def forward(h: Tensor) -> Tensor:
        h = F.relu(h).clone()
        write(h)
        return h

    return forward


def _first(h: Tensor) -> None:
    h[:, 0] = 0


def _every_other(h: Tensor) -> None:
    h[:, ::2] = 0


def _channel(h: Tensor) -> None:
    h[:, :, 0] += h[:, :, 1]


def _one(h: Tensor) -> None:
    h[0, 1, 2] = 0


def _swapped(h: Tensor) -> None:
    h[:, :, [0, 1]] = h[:, :, [1, 0]]


def _smoothed(h: Tensor) -> None:
    h[:, 1:] = 0.5 * h[:, 1:] + 0.5 * h[:, :-1]


def _doubled(h: Tensor) -> None:
    h[:, :, :3] *= 2


def _masked(h: Tensor) -> None:
    h[PAD[..., 0].expand(2, 3)] = 0.0


def _by_time(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    for t in range(3):
        out[:, t] = F.relu(h[:, t])
    return out


def _padded(h: Tensor) -> Tensor:
    out = h.new_zeros(2, 4, 5)
    out[:, 1:4] = F.relu(h)
    return out


def _index(h: Tensor, places: Tensor = PLACES) -> Tensor:
    return places[None, :, None].expand(2, 3, h.shape[-1])


def _read_at_the_largest(h: Tensor) -> Tensor:
    h = F.relu(h) + F.relu(-2 * h)
    values, places = h.max(1, keepdim=True)
    return values + h.square().sqrt().gather(1, places)


def _read_at_the_two_largest(h: Tensor) -> Tensor:
    values, places = F.relu(h).topk(2, dim=1)
    return values + F.leaky_relu(h).gather(1, places)


def _read_in_order(h: Tensor) -> Tensor:
    values, places = F.relu(h).sort(1, descending=True)
    return values.cumsum(1) + F.leaky_relu(h).take_along_dim(places, 1)


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "zero_masked_fill": lambda h: F.relu(h).masked_fill(PAD, 0.0),
    "zero_masked_fill_in_place": lambda h: F.relu(h).clone().masked_fill_(PAD.expand(2, 3, 5), 0.0),
    "zero_where": lambda h: torch.where(PAD, 0.0, F.relu(h)),
    "zero_where_sign": lambda h: torch.where(h > 0, h, 0.0),
    "zero_maximum": lambda h: torch.maximum(h, torch.tensor(0.0)),
    "zero_minimum": lambda h: torch.minimum(h, torch.zeros(1)),
    "zero_added": lambda h: F.relu(h) + torch.tensor(0.0),
    "zero_added_to_half": lambda h: torch.cat([F.relu(h[..., :2]) + torch.zeros(1), F.relu(h[..., 2:])], -1),
    "zero_clamp": lambda h: h.clamp(min=torch.tensor(0.0)),
    "clamp_by_tensors": lambda h: F.relu(h).clamp(max=0.9 * F.relu(h).mean(1, keepdim=True)),
    "write_row": _assigned(_first),
    "write_rows": _assigned(_every_other),
    "write_channel": _assigned(_channel),
    "write_one": _assigned(_one),
    "write_swapped": _assigned(_swapped),
    "write_smoothed": _assigned(_smoothed),
    "write_doubled": _assigned(_doubled),
    "write_masked": _assigned(_masked),
    "write_by_time": _by_time,
    "write_padded": _padded,
    "index_add_to_zeros": lambda h: h.new_zeros(2, 2, 5).index_add(1, PLACES, F.relu(h)),
    "scatter_add": lambda h: h.new_zeros(2, 2, 5).scatter_add(1, _index(h), F.relu(h)),
    "scatter_add_to_others": lambda h: F.relu(h)[:, :2].scatter_add(1, _index(h), F.relu(h)),
    "scatter_mean": lambda h: h.new_zeros(2, 2, 5).scatter_reduce(1, _index(h), F.relu(h), "mean", include_self=False),
    "scatter_max": lambda h: h.new_zeros(2, 2, 5).scatter_reduce(1, _index(h), F.relu(h), "amax", include_self=False),
    "scatter_apart": lambda h: h.new_zeros(2, 4, 5).scatter(1, _index(h, APART), F.relu(h)),
    "index_copy": lambda h: h.new_zeros(2, 4, 5).index_copy(1, APART, F.relu(h)),
    "index_fill_zero": lambda h: F.relu(h).index_fill(1, torch.tensor([2]), 0.0),
    "index_put": lambda h: F.relu(h).index_put((torch.tensor([0, 1]), torch.tensor([1, 2])), F.relu(h)[:, 0]),
    "masked_select": lambda h: F.relu(h).masked_select(PAD.expand(2, 3, 5)).reshape(2, 5),
    "masked_scatter": lambda h: F.relu(h).masked_scatter(PAD, F.relu(h)[:, :1]),
    "scatter_over_channels": lambda h: h.new_zeros(2, 3, 5).scatter(2, ORDER.expand(2, 3, 5), F.relu(h)),
    "scatter_add_over_channels": lambda h: F.relu(h).scatter_add(2, PAIRS.expand(2, 3, 5), F.relu(h)),
    "select_scatter": lambda h: F.relu(h).select_scatter(torch.zeros(2, 5), 1, 1),
    "slice_scatter": lambda h: F.relu(h).slice_scatter(F.relu(h)[:, :2], 1, 1, 3),
    "both_ends": lambda h: torch.stack(list(F.relu(h).aminmax(dim=1)), 1),
    "largest_with_places": _read_at_the_largest,
    "two_largest_with_places": _read_at_the_two_largest,
    "sorted_with_places": _read_in_order,
    "kth_value": lambda h: F.relu(h).kthvalue(2, 1).values,
    "median_over_time": lambda h: F.relu(h).median(1).values,
    "running_maximum": lambda h: F.relu(h).cummax(1).values,
    "windows": lambda h: F.relu(h).unfold(1, 2, 1).mean(-1),
    "hstack_and_ravel": lambda h: torch.hstack([F.relu(h), F.relu(h).square().sqrt()]).ravel().reshape(2, 6, 5),
    "fliplr_and_diff": lambda h: torch.fliplr(F.relu(h)).diff(dim=1),
    "einsum_between": lambda h: torch.einsum("btc,cd->btd", F.relu(h), FIXED.to(h.dtype)),
}  # fmt: skip


def _group_norm(a: int, b: int, groups: int, transposed: bool | None = None) -> nn.Module:
    """Two branches side by side, and what reads their channels in groups."""
    n = a + b
    reader = nn.ConvTranspose2d if transposed else nn.Conv2d
    read = nn.GroupNorm(groups, n) if transposed is None else reader(n, n, 2, groups=groups)
    act = F.silu if transposed is None else F.relu

    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.cat([m.up(x), m.skip(x)], 1)
        return m.out(act(m.read(h if transposed is None else F.relu(h))))

    return Net(forward, up=nn.Conv2d(2, a, 1), skip=nn.Conv2d(2, b, 1), read=read, out=nn.Conv2d(n, 2, 1))


def _enter(name: str, build: Callable[[], nn.Module], *shape: int) -> None:
    ARCHITECTURES[name] = Architecture(name, "operators", build, (real(*shape),), "output")


def _two_layers(f: Callable[[Tensor], Tensor]) -> nn.Module:
    return Net(lambda m, x: m.b(f(m.a(x))), a=nn.Linear(4, 5), b=nn.Linear(5, 2))


for _name, _f in BETWEEN.items():
    _enter(_name, lambda f=_f: _two_layers(f), 2, 3, 4)
for _a, _b, _groups in ((4, 4, 2), (4, 2, 3), (6, 2, 4), (3, 5, 2)):
    _enter(f"group_norm_behind_{_a}_and_{_b}_in_{_groups}", lambda s=(_a, _b, _groups): _group_norm(*s), 3, 2, 2, 2)
for _transposed in (False, True):
    _name = f"grouped_{'transposed_' if _transposed else ''}convolution_behind_a_seam"
    _enter(_name, lambda t=_transposed: _group_norm(4, 2, 3, t), 3, 2, 3, 3)
