"""What a loss does not see, from its gradient alone: invariant losses are recognised, others never."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.detect.capture import record
from neuromech.detect.find import find_symmetries, find_under
from neuromech.detect.interpret import Invariance
from neuromech.detect.recognition import in_words, recognise, seen_of

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def recognised(y: Tensor, loss: Callable[[Tensor], Tensor]) -> Invariance:
    y = y.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(y), y)
    return recognise(y, g)


def labels(n: int, c: int) -> Tensor:
    return torch.randint(c, (n,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [
    {}, {"reduction": "sum"}, {"label_smoothing": 0.1}, {"ignore_index": 2}, {"weight": "random"},
])  # fmt: skip
@pytest.mark.parametrize("c", [3, 10, 1000])
def test_softmax_cross_entropy(dtype: torch.dtype, options: dict, c: int) -> None:
    if "weight" in options:
        options = {"weight": (torch.rand(c) + 0.5).to(dtype)}
    y = torch.randn(32, c).to(dtype)
    found = recognised(y, lambda y: F.cross_entropy(y, labels(32, c), **options))
    assert found == Invariance(shift=(1,))


def test_the_class_axis_is_found_wherever_it_is() -> None:
    y = torch.randn(4, 5, 6)
    assert recognised(y, lambda y: F.cross_entropy(y, torch.randint(5, (4, 6)))).shift == (1,)
    assert recognised(y, lambda y: F.cross_entropy(y.flatten(0, 1), labels(20, 6))).shift == (2,)
    assert recognised(y, lambda y: F.log_softmax(y, 2)[..., 0].sum()).shift == (2,)
    assert recognised(torch.randn(8, 4), lambda y: F.cross_entropy(y.unflatten(1, (2, 2)), torch.ones(8, 2).long())
                      ).shift == (1,)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_that_ignore_the_length(dtype: torch.dtype) -> None:
    y, direction = torch.randn(64, 20).to(dtype), torch.randn(64, 20).to(dtype)
    assert recognised(y, lambda y: F.cosine_similarity(y, direction).sum()) == Invariance(scale=True)
    both = recognised(y, lambda y: F.cosine_similarity(y - y.mean(1, keepdim=True), direction).sum())
    assert both == Invariance(shift=(1,), scale=True)


@pytest.mark.parametrize("dtype", DTYPES)
@given(n=st.integers(1, 9), c=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_losses_that_see_everything_are_not_mistaken(dtype: torch.dtype, n: int, c: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    y, target = (torch.randn(n, c, generator=g).to(dtype) for _ in range(2))
    for loss in (F.mse_loss, F.l1_loss, lambda y, t: F.binary_cross_entropy_with_logits(y, (t > 0).to(dtype))):
        assert recognised(y, lambda y, loss=loss: loss(y, target)) == Invariance()


def test_nearly_invariant_is_not_invariant() -> None:
    y, t = torch.randn(16, 10), labels(16, 10)
    found = recognised(y, lambda y: F.cross_entropy(y, t) + 1e-3 * y.logsumexp(1).square().mean())
    assert found == Invariance()


def test_fitted_samples_do_not_hide_the_invariance() -> None:
    """Their gradients are rounding errors, which need not cancel."""
    y = torch.randn(8, 10)
    y[:4] *= 20
    t = y.argmax(1)
    t[5] = (t[5] + 1) % 10
    assert recognised(y, lambda y: F.cross_entropy(y, t)).shift == (1,)


def test_outputs_that_sum_to_zero_prove_nothing() -> None:
    """With centred targets the gradient sums to zero, but the loss would see a shift."""
    y, target = (v - v.mean(1, keepdim=True) for v in (torch.randn(8, 10), torch.randn(8, 10)))
    assert recognised(y, lambda y: F.mse_loss(y, target)) == Invariance()


def test_a_head_of_zeros_is_no_obstacle() -> None:
    assert recognised(torch.zeros(8, 10), lambda y: F.cross_entropy(y, labels(8, 10))).shift == (1,)


@pytest.mark.parametrize("shape", [(), (5,), (5, 1), (5, 1, 1)])
def test_shapes_without_an_axis_to_shift_along(shape: tuple[int, ...]) -> None:
    assert recognised(torch.randn(shape), lambda y: y.square().sum()) == Invariance()


def test_one_sample_is_enough_in_single_precision_and_too_little_in_half() -> None:
    y = torch.randn(1, 10)
    assert recognised(y, lambda y: F.cross_entropy(y, labels(1, 10))).shift == (1,)
    assert recognised(y.bfloat16(), lambda y: F.cross_entropy(y, labels(1, 10))).shift == ()


def test_gradients_that_say_nothing() -> None:
    y = torch.randn(4, 3)
    for g in (torch.zeros(4, 3), torch.full((4, 3), torch.nan), torch.full((4, 3), torch.inf)):
        assert recognise(y, g) == Invariance()
    assert recognise(torch.randn(0, 3), torch.randn(0, 3)) == Invariance()


def test_what_is_seen_is_left_by_what_is_not() -> None:
    y = torch.randn(4, 3, 2)
    free = Invariance(shift=(1,), scale=True)
    moved = 3.0 * (y + torch.randn(4, 1, 2))
    assert torch.allclose(seen_of(moved, free), seen_of(y, free), atol=1e-6)
    assert not torch.allclose(seen_of(moved, Invariance(scale=True)), seen_of(y, Invariance(scale=True)))


def test_in_words() -> None:
    assert "sees the whole output" in in_words(Invariance())
    assert "a common shift of the output along axis 1" in in_words(Invariance(shift=(1,)))
    assert "the length of the output" in in_words(Invariance(scale=True))


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss])
def test_an_unseen_loss_gives_the_families_of_the_knownone(loss: Callable[..., Tensor]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 5))
    x = torch.randn(8, 4)
    target = labels(8, 5) if loss is F.cross_entropy else torch.randn(8, 5)
    y = model(x)
    (g,) = torch.autograd.grad(loss(y, target), y)
    unseen = find_under(model, (x,), {}, record(model, (x,)), [recognise(y, g)])
    known = find_symmetries(model, x, loss, target)
    assert [s.name for s in unseen] == [s.name for s in known]
    assert unseen.dimension == known.dimension
    assert not unseen.rejected
    assert all(s.defect < 1e-12 or s.broken_by for s in unseen)


def test_a_loss_that_ignores_the_length_frees_the_last_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 5, bias=False))
    x = torch.randn(8, 4)
    found = find_under(model, (x,), {}, record(model, (x,)), [Invariance(scale=True)])
    assert [(s.kind, s.name) for s in found] == [
        ("rescale", "0.weight[i], 0.bias[i] / 2.weight[:, i]"),
        ("scale", "2.weight"),
    ]
    assert not found.rejected
    assert "the length of the output" in found.notes[0]
