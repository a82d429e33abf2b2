"""torch.compile, wherever it is said: the same bits, no graph break and no recompilation added, laws as ever."""

import copy
from collections.abc import Callable

import pytest
import torch
from probe.test_harmless import X, Y, plain
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from tests.families import fast

Model = Callable[[Tensor], Tensor]


def made() -> type[nn.Module]:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Net


Net = made()


def before(model: nn.Module, watch: Callable[[nn.Module], object], **how: object) -> Model:
    compiled = torch.compile(model, **how)
    watch(model)
    return compiled


def after(model: nn.Module, watch: Callable[[nn.Module], object], **how: object) -> Model:
    watch(model)
    return torch.compile(model, **how)


def of_the_compiled(model: nn.Module, watch: Callable[[nn.Module], object], **how: object) -> Model:
    compiled = torch.compile(model, **how)
    watch(compiled)
    return compiled


def in_place(model: nn.Module, watch: Callable[[nn.Module], object], **how: object) -> Model:
    watch(model)
    model.compile(**how)
    return model


def in_place_before(model: nn.Module, watch: Callable[[nn.Module], object], **how: object) -> Model:
    model.compile(**how)
    watch(model)
    return model


def inside_of_a_function(model: nn.Module, watch: Callable[[nn.Module], object], **how: object) -> Model:
    watch(model)
    return torch.compile(lambda x: 2 * model(x + 1), **how)


# Dynamo meets warnings of torch about itself on its way, and takes them for failures where they are errors.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning:torch", "UserWarning:contextlib")
]
WAYS = [before, after, of_the_compiled, in_place, in_place_before, inside_of_a_function]


def trained(way: Callable[..., Model], instrumented: bool, step: bool = False, kind=None, **how: object):
    from torch._dynamo.utils import counters

    if kind is None:
        torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model, probes = (kind or Net)(), []
    forward = way(model, (lambda m: probes.append(neuromech.instrument(m))) if instrumented else lambda m: None, **how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    advance = torch.compile(optimizer.step, backend=how.get("backend", "inductor")) if step else optimizer.step
    for i in range(4):
        optimizer.zero_grad()
        n = 6 if not how.get("dynamic") else 3 + i
        F.cross_entropy(forward(X[:n]), Y[:n]).backward()
        advance()
    stats = counters["stats"].get("unique_graphs"), sum(counters["graph_break"].values())
    return [*model.state_dict().values()], probes[0] if probes else None, stats


def check(way: Callable[..., Model], **how: object) -> neuromech.Probe:
    bare, _, plainly = trained(way, False, **how)
    watched, probe, stats = trained(way, True, **how)
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))
    assert stats == plainly  # graphs and graph breaks
    assert probe.history["step"].max() == 4
    assert probe.history["residual"].max() < 2e-5
    return probe


@pytest.mark.parametrize("way", fast(WAYS, list(WAYS)[::3]), ids=lambda f: f.__name__)
def test_compiled_models_train_alike(way: Callable[..., Model]) -> None:
    probe = check(way, backend="aot_eager", fullgraph=True)
    assert [s.name for s in probe.symmetries if s.kind == "rescale"] == [
        "net.0.weight[i], net.0.bias[i] / net.2.weight[:, i]"
    ]


@pytest.mark.parametrize("way", fast(WAYS, list(WAYS)[::3]), ids=lambda f: f.__name__)
def test_code_that_was_compiled_for_another_model_of_the_class_is_not_taken(way: Callable[..., Model]) -> None:
    """Dynamo would run it for this one too, without our hooks: as where a run is made again in one notebook."""
    torch._dynamo.reset()
    kind = made()
    bare, _, _ = trained(way, False, kind=kind, backend="aot_eager")
    for _ in range(3):
        weights, probe, _ = trained(way, True, kind=kind, backend="aot_eager")
        assert all(torch.equal(a, b) for a, b in zip(bare, weights, strict=True))
        assert probe.history["step"].max() == 4
        assert copy.deepcopy(probe._model).forward.__self__ is not probe._model
        probe.remove()
        assert "forward" not in vars(probe._model)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"backend": "inductor"}, {"backend": "aot_eager", "dynamic": True}], ids=str)
@pytest.mark.parametrize("way", fast(WAYS, list(WAYS)[::2]), ids=lambda f: f.__name__)
def test_with_inductor_and_dynamic_shapes(way: Callable[..., Model], how: dict[str, object]) -> None:
    check(way, fullgraph=True, **how)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_optimizer_step(backend: str) -> None:
    check(before, backend=backend, step=True)


def test_a_part_is_compiled() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Linear(8, 8), torch.compile(plain(), backend="aot_eager")

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.first(x))

    from probe.test_harmless import measures, same

    torch._dynamo.reset()
    measures(same(Partly), 2)
