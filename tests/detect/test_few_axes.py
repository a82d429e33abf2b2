"""Operators on inputs with fewer axes than usual: without a batch, as vectors, with masks that lack leading axes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from neuromech.detect import find_symmetries

CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
MASKS = {
    "none": None,
    "causal": CAUSAL,
    "added": torch.zeros(5, 5, dtype=torch.float64),
    "with a head": CAUSAL[None],
    "one row": torch.ones(1, 5, dtype=torch.bool),
    "of keys": torch.tensor([True, True, True, True, False]),
    "a number": torch.zeros((), dtype=torch.float64),
}
AHEAD = {"tokens": (), "a batch": (1,), "batch and heads": (1, 1)}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("ahead", AHEAD)
def test_attention_takes_masks_of_any_shape(mask: str, ahead: str) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (f(x).expand(*AHEAD[ahead], 5, 4) for f in (m.q, m.k, m.v))
        return m.o(F.scaled_dot_product_attention(q, k, v, attn_mask=MASKS[mask]))

    model = Net(forward, q=nn.Linear(3, 4), k=nn.Linear(3, 4), v=nn.Linear(3, 4), o=nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    try:
        model(x)
    except (IndexError, RuntimeError):
        pytest.skip("torch does not take it")
    found = find_symmetries(model, x)
    assert {"k.bias", "v.weight"} <= {name for s in found for name in s.parameters}
    assert not found.opaque


VECTORS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "addmv": (lambda m, x: torch.addmv(m.c, m.b, F.relu(m.a @ x)), (6,)),
    "addr": (lambda m, x: torch.addr(m.d, m.b[:, 0], F.relu(m.a @ x)), (6,)),
    "mv": (lambda m, x: torch.mv(m.b, F.relu(torch.mv(m.a, x))), (6,)),
    "linear": (lambda m, x: F.linear(F.relu(F.linear(x, m.a)), m.b, m.c), (6,)),
    "scaled": (lambda m, x: torch.addmv(m.c, m.b, F.relu(m.a @ x), beta=0.5, alpha=2), (6,)),
    "unread": (lambda m, x: torch.addmv(m.c, m.b, F.relu(m.a @ x), beta=0), (6,)),
    "softmax": (lambda m, x: m.b @ torch.softmax(m.a @ x, 0), (6,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_are_followed_as_matrices_are(name: str) -> None:
    forward, shape = VECTORS[name]
    torch.manual_seed(0)
    model = Net(forward, a=(4, 6), b=(3, 4), c=(3,), d=(3, 4)).double()
    found = find_symmetries(model, torch.randn(shape, dtype=torch.float64))
    assert not found.opaque
    assert str(found.complete()).startswith("complete")
