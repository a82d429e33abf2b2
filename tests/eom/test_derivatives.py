"""Points: all forms of derivatives of all operators agree; a missing one is named; nothing is left behind."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech import EoMError, EoMOptimizer
from neuromech.eom import Point, as_function
from neuromech.eom.terms import directional
from neuromech.params import Params, combine, norm

from .cases import NETWORKS, distance, problem, squares


def wavy(out: Tensor) -> Tensor:
    return (out.sin() * torch.linspace(0, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()


def behind(layer: nn.Module, x: Tensor) -> tuple:
    """The layer behind a linear map, so that derivatives go through what it does to its input."""
    channels = x.shape[1] if x.ndim == 4 else x.shape[-1]
    first = nn.Conv2d(channels, channels, 1) if x.ndim == 4 else nn.Linear(channels, channels)
    return as_function(nn.Sequential(first, layer).double(), wavy, x.double())


PLANE, ROWS, WORDS = (4, 4, 5, 5), (8, 4), (3, 5, 4)
LAYERS = {
    "batch norm": (lambda: nn.BatchNorm2d(4), PLANE),
    "batch norm, evaluating": (lambda: nn.BatchNorm2d(4).eval(), PLANE),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), PLANE),
    "group norm": (lambda: nn.GroupNorm(2, 4), PLANE),
    "layer norm": (lambda: nn.LayerNorm(4), ROWS),
    "rms norm": (lambda: nn.RMSNorm(4), ROWS),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", batch_first=True), WORDS),
    "gelu": (nn.GELU, ROWS),
    "silu": (nn.SiLU, ROWS),
    "softplus": (nn.Softplus, ROWS),
    "log-softmax": (lambda: nn.LogSoftmax(-1), ROWS),
    "max pool": (lambda: nn.MaxPool2d(2), PLANE),
    "upsampling": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), PLANE),
    "transposed convolution": (lambda: nn.ConvTranspose2d(4, 4, 3), PLANE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_layers_are_right(name: str) -> None:
    """Against differences of gradients, which need no second derivative. For norms torch's own third ones are wrong."""
    make, shape = LAYERS[name]
    loss, params = behind(make(), torch.randn(shape))
    exact, rough = Point(loss, params, "reverse"), Point(loss, params, "difference")
    v = combine([(1.0 / float(norm(exact.gradient)), exact.gradient)])
    for n, tolerance in ((1, 1e-6), (2, 1e-3)):
        a, b = exact.derivative(*[v] * n), rough.derivative(*[v] * n)
        assert distance(a, b) < tolerance * max(float(norm(b)), 1e-3), n


@pytest.mark.parametrize("name", NETWORKS)
def test_forms_agree(name: str) -> None:
    loss, params = problem(name)
    points = {form: Point(loss, params, form) for form in ("reverse", "forward", "difference")}
    v = points["reverse"].gradient
    w = {n: torch.randn_like(x) for n, x in v.items()}
    jvp = directional(torch.func.grad(loss), params)
    for directions in ((v,), (v, w), (w, v)):
        exact = points["reverse"].derivative(*directions)
        size = float(norm(exact))
        assert distance(points["forward"].derivative(*directions), exact) < 1e-11 * size
        assert distance(jvp(*directions), exact) < 1e-11 * size
        assert distance(points["difference"].derivative(*directions), exact) < 1e-4 * size


def test_the_error_of_differences_is_bounded() -> None:
    for dtype in (torch.float32, torch.float64):
        loss, params = problem()
        small = {n: p.to(dtype) for n, p in params.items()}

        def cast(p: Params, loss=loss) -> Tensor:
            return loss({n: x.double() for n, x in p.items()})

        rough, exact = Point(cast, small, "difference"), Point(loss, params)
        v = {n: torch.randn_like(x) for n, x in rough.gradient.items()}
        true = exact.hvp({n: x.double() for n, x in v.items()})
        error = distance({n: x.double() for n, x in rough.hvp(v).items()}, true) / float(norm(true))
        assert error < rough.difference_error(v) < 0.05


def test_auto_is_reverse() -> None:
    loss, params = problem()
    assert Point(loss, params).form == "reverse"
    with pytest.raises(EoMError, match="one of auto, reverse, forward, difference"):
        Point(loss, params, "backward")  # type: ignore[arg-type]


def test_one_product_and_no_more() -> None:
    loss, params = problem()
    once, point = Point(loss, params, once=True), Point(loss, params)
    v = point.gradient
    assert distance(once.hvp(v), point.hvp(v)) == 0.0
    with pytest.raises(EoMError, match="once=True"):
        once.hvp(v)
    with pytest.raises(EoMError, match="once=True"):
        Point(loss, params, once=True).derivative(v, v)


def test_fused_attention_has_a_product() -> None:
    """On its own torch refuses: the fused kernel has no second derivative."""
    q = torch.randn(2, 2, 8, 4)

    def loss(p: Params) -> Tensor:
        return F.scaled_dot_product_attention(p["q"], p["q"], p["q"]).square().sum()

    point = Point(loss, {"q": q})
    assert distance(point.hvp({"q": q}), Point(loss, {"q": q}, "difference").hvp({"q": q})) < 1e-2 * float(
        norm(point.gradient)
    )


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def test_an_operator_without_second_derivative_is_named() -> None:
    def loss(p: Params) -> Tensor:
        return Opaque.apply(p["x"]).sum()

    params = {"x": torch.randn(3).double()}
    with pytest.raises(EoMError, match=r"Opaque has no derivative.*hvp='difference'"):
        Point(loss, params).hvp(params)
    wanted = {"x": 6 * params["x"] ** 2}
    assert distance(Point(loss, params, "difference").hvp(params), wanted) < 1e-6
    x = nn.Parameter(torch.randn(3))
    optimizer = EoMOptimizer(torch.optim.SGD([x], lr=0.1), backend="hvp")
    with pytest.raises(EoMError, match="Opaque"):
        optimizer.step(lambda: Opaque.apply(x).sum())
    chooses = EoMOptimizer(torch.optim.SGD([x], lr=0.1))  # gradients alone do
    chooses.step(lambda: Opaque.apply(x).sum())
    assert chooses.described()["backend"] == "gradients"


def test_unused_parameters_are_told() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    for form in ("reverse", "forward", "difference"):
        point = Point(lambda p: p["a"].pow(3).sum(), params, form)
        assert point.unused == {"b"}
        torch.testing.assert_close(
            point.hvp(params), {"a": torch.full((2,), 6.0), "b": torch.zeros(2)}, rtol=1e-2, atol=0
        )


def test_a_linear_loss_has_no_curvature() -> None:
    for form in ("reverse", "forward"):
        point = Point(lambda p: p["a"].sum(), {"a": torch.ones(2)}, form)
        assert not point.hvp({"a": torch.ones(2)})["a"].any()
        assert not point.derivative({"a": torch.ones(2)}, {"a": torch.ones(2)})["a"].any()


def test_bad_losses_are_refused() -> None:
    params = {"a": torch.ones(2)}
    for loss, message in (
        (lambda p: p["a"], r"shape \(2,\)"),
        (lambda p: 1.0, "got float"),
        (lambda p: p["a"].detach().sum(), "none of the parameters"),
    ):
        with pytest.raises(EoMError, match=message):
            Point(loss, params)
    with pytest.raises(EoMError, match="no parameters"):
        Point(lambda p: torch.ones(()), {})
    with pytest.raises(EoMError, match=r"torch\.int64"):
        Point(lambda p: p["a"].sum(), {"a": torch.ones(2, dtype=torch.int64)})


def test_parameters_modified_after_the_forward_are_noticed() -> None:
    model = nn.Linear(3, 1)

    class Here:
        @property
        def here(self):
            return {n: p.detach() for n, p in model.named_parameters()}

        def look(self, params=None, tangent=None):
            from neuromech.eom.landscape import Look

            return Look(model(torch.ones(2, 3)).square().mean(), dict(model.named_parameters()))

    point = Point.on(Here())
    with torch.no_grad():
        model.weight.add_(1.0)
    with pytest.raises(EoMError, match="weight was modified in place"):
        point.hvp(point.gradient)


def test_a_function_of_a_model_is_pure() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    before = {n: b.clone() for n, b in model.named_buffers()}
    loss, params = as_function(model, squares, x, y)
    state = torch.get_rng_state()
    values = {float(loss(params)) for _ in range(3)}
    assert len(values) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())
