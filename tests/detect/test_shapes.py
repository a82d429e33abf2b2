"""What operators make on the meta device, remembered, against what torch itself says anew every time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromech.compat import TorchDispatchMode, storage_id, tree_leaves
from neuromech.detect.capture import record
from neuromech.detect.constant_folding import Replay
from neuromech.detect.shapes import RememberedShapes


class Remembering(TorchDispatchMode):
    """Sends every operator through `RememberedShapes`, and counts what is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes, self.asked = RememberedShapes(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self.shapes._known)
        out = self.shapes.call(func, args, kwargs or {})
        self.asked += len(self.shapes._known) - before
        return out


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def look(t: Tensor) -> tuple[object, ...]:
    return tuple(t.shape), t.stride(), t.dtype, t.storage_offset(), t.is_meta


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "linear": lambda x, w: F.linear(x, w),
    "product": lambda x, w: x @ w.T,
    "times a number": lambda x, w: x * 2,
    "times a fraction": lambda x, w: x * 0.5,
    "of integers": lambda x, w: x.long() + 1,
    "of integers with a fraction": lambda x, w: x.long() + 1.5,
    "transposed": lambda x, w: (x.transpose(0, 1) * 2, x.transpose(0, 1).exp()),
    "joined": lambda x, w: torch.cat([x, x * 2], dim=1),
    "largest with places": lambda x, w: x.max(dim=1),
    "layer norm": lambda x, w: F.layer_norm(x, (6,), w[0]),
    "softmax, in float64": lambda x, w: x.softmax(-1, dtype=torch.float64),
    "attention": lambda x, w: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "dropout of nothing": lambda x, w: F.dropout(x, 0.5, training=False),
    "dropout": lambda x, w: F.dropout(x, 0.5, training=True),
    "views": lambda x, w: (x.view(2, 12), x[1:], x.unbind(0)),
    "in place": lambda x, w: (x * 2).add_(1),
}


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "grad"])
@pytest.mark.parametrize("name", CALLS)
def test_results_look_as_torch_makes_them(name: str, grad: bool) -> None:
    """The same call three times in one process of remembering: shapes, strides, types, and who shares memory."""
    x, w = meta(4, 6).requires_grad_(grad), meta(5, 6)
    with torch.inference_mode(not grad):
        expected = tree_leaves(CALLS[name](x, w))
        with Remembering():
            for _ in range(3):
                made = tree_leaves(CALLS[name](x, w))
                assert [look(t) for t in made] == [look(t) for t in expected]
                assert [storage_id(t) == storage_id(x) for t in made] == [
                    storage_id(t) == storage_id(x) for t in expected
                ]
                assert [t.requires_grad for t in made] == [t.requires_grad for t in expected]


def test_every_result_has_memory_of_its_own() -> None:
    x = meta(4, 6)
    with Remembering() as mode, torch.inference_mode():
        made = [x * 2 for _ in range(4)]
    assert len({storage_id(t) for t in made}) == 4
    assert mode.asked == 1


def test_numbers_are_computed() -> None:
    x = torch.arange(6.0)
    with Remembering() as mode, torch.inference_mode():
        assert (x * 2).equal(torch.tensor([0.0, 2, 4, 6, 8, 10]))
        assert (x[:3] * 3).equal(torch.tensor([0.0, 3, 6]))
    assert mode.asked == 0


def test_an_option_makes_another_call() -> None:
    x = meta(4, 6)
    with Remembering(), torch.inference_mode():
        assert [tuple(x.sum(d).shape) for d in (0, 1, 0)] == [(6,), (4,), (6,)]
        assert [(x * k).dtype for k in (2, 2.0)] == [torch.float32] * 2
        assert [(x.long() * k).dtype for k in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]


def layers(n: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8)) for _ in range(n)))


def test_a_model_without_numbers_is_recorded_as_one_with_numbers_is() -> None:
    real, x = layers(3), torch.randn(5, 8)
    graphs = [record(real, (x,)), record(layers(3).to("meta"), (x.to("meta"),))]
    written = [[(n.op, n.module, [v.shape for v in n.outputs], [v.names for v in n.inputs]) for n in g.nodes]
               for g in graphs]  # fmt: skip
    assert written[0] == written[1]


def test_autograd_reaches_what_it_reaches() -> None:
    model, x = layers(4).to("meta"), meta(5, 8)
    with Replay([], {}):
        out = model(x).sum()
    out.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
