"""Capture: the model is left as found, and what cannot be followed is refused or blocked, never guessed."""

import copy
import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from neuromech.detect import Findings, find_symmetries
from neuromech.detect.capture import record, tensors_of
from neuromech.errors import CaptureError, DetectionError, NeuromechWarning


def two_layers() -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, 3), "b": nn.Linear(3, 2)}


def plain(m: Net, x: Tensor) -> Tensor:
    return m.b(F.relu(m.a(x)))


RESCALE = "a.weight[i], a.bias[i] / b.weight[:, i]"


def names(found: Findings) -> list[str]:
    return [s.name for s in found]


def x(*shape: int) -> Tensor:
    return torch.randn(shape or (5, 4), generator=torch.Generator().manual_seed(0))


# -- left as found --------------------------------------------------------------------------------------------------


def everything(model: nn.Module) -> dict[str, Any]:
    state = {k: (v.clone(), v._version) for k, v in [*model.named_parameters(), *model.named_buffers()]}
    flags = {k: (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for k, m in model.named_modules()}
    return {"state": state, "flags": flags, "grads": {k: p.grad for k, p in model.named_parameters()}}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    return all(map(same, a, b)) if isinstance(a, tuple) else a == b


def test_everything_is_left_as_found() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2)
    )
    model[1].eval()
    image, y = x(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    before = everything(model)
    outputs = {"loss": F.cross_entropy(model(image), y)}  # a graph that is alive while we detect
    after_forward = everything(model)
    given = image.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    hooks = len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)

    find_symmetries(model, image, loss=F.cross_entropy, target=y)

    assert same(everything(model), after_forward)
    assert torch.equal(image, given)
    assert torch.equal(image, image + 0)
    assert same((torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()), states)
    assert hooks == (len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks))
    assert before["flags"] == after_forward["flags"]
    outputs["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_every_source_of_random_numbers_goes_on_as_if_nothing_happened() -> None:
    def noisy(m: Net, x: Tensor) -> Tensor:
        return plain(m, x) * (1 + np.random.rand() + random.random()) + torch.rand(())

    model = Net(noisy, **two_layers())
    draws = []
    for detect in (False, True):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        if detect:
            find_symmetries(model, x())
        draws.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]


def test_a_hidden_state_kept_between_calls_survives() -> None:
    """Assigned inside inference mode, it would be refused by autograd at the next real forward."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.state, self.calls, self.log = nn.Linear(4, 4), torch.zeros(5, 4), 0, []

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.log.append(self.calls)
            self.state = F.relu(self.cell(x) + self.state.detach())
            return self.state

    model = Recurrent()
    state = model.state
    find_symmetries(model, x())
    assert model.state is state
    assert model.calls == 0
    assert model.log == []
    for _ in range(2):
        model(x()).sum().backward()


def test_inputs_written_in_place_are_ours_alone() -> None:
    given = x()
    find_symmetries(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), given)
    assert torch.equal(given, x())


def test_a_failing_forward_leaves_no_hooks_and_names_the_module() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    before = everything(model)
    with pytest.raises(CaptureError, match=r"module '1.1': RuntimeError: mat1 and mat2.*Check that example"):
        find_symmetries(model, x())
    assert same(everything(model), before)
    assert not nn.modules.module._global_forward_hooks


def test_a_failure_that_the_model_survives_does_not_shift_the_module_paths() -> None:
    def careful(m: Net, x: Tensor) -> Tensor:
        try:
            m.wrong(x)
        except RuntimeError:
            x = m.a(x)
        return m.b(x.cumprod(1))

    model = Net(careful, wrong=nn.Sequential(nn.Linear(7, 7)), **two_layers())
    found = find_symmetries(model, x())
    assert [(o.op, o.module) for o in found.opaque] == [("cumprod", "")]
    assert found.inactive == ("wrong.0.weight", "wrong.0.bias")


# -- ways to call, things to return ---------------------------------------------------------------------------------


def test_example_as_tensor_tuple_or_keywords() -> None:
    model = Net(lambda m, x, scale=None: plain(m, x if scale is None else x * scale), **two_layers())
    for example in (x(), (x(),), [x()], (x(), torch.ones(4)), {"x": x()}, {"scale": torch.ones(4), "x": x()}):
        assert names(find_symmetries(model, example)) == [RESCALE]


Pair = namedtuple("Pair", "first rest")


@dataclass
class Output:
    logits: Tensor
    extra: list[Tensor]


class LanguageModelOutput(dict[str, Any]):
    """As Hugging Face returns it: a mapping with attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda y: (y, None, 3),
        lambda y: [y, "text"],
        lambda y: {"logits": y, "mask": y > 0},
        lambda y: Pair(y, {"deep": [y]}),
        lambda y: Output(y, [y * 2]),
        lambda y: LanguageModelOutput(logits=y),
        lambda y: LanguageModelOutput(loss=y.square().mean(), logits=y),
    ],
)
def test_structured_outputs(wrapped: Any) -> None:
    model = Net(lambda m, x: wrapped(plain(m, x)), **two_layers())
    assert names(find_symmetries(model, x())) == [RESCALE]


def test_the_loss_of_an_output_is_all_that_counts() -> None:
    def with_loss(m: Net, x: Tensor) -> LanguageModelOutput:
        logits = plain(m, x)
        return LanguageModelOutput(loss=F.cross_entropy(logits, torch.zeros(5, dtype=torch.long)), logits=logits)

    found = find_symmetries(Net(with_loss, **two_layers()), x())
    assert names(found) == [RESCALE, "b.weight[:, i]", "b.bias"]
    assert [t.shape for t in tensors_of(with_loss(Net(plain, **two_layers()), x()))] == [()]


# -- ties, aliases, writes ------------------------------------------------------------------------------------------


def test_tied_parameters_are_one() -> None:
    """Tied by object, or by memory alone: each is listed once, under its first name."""
    for tie in ("object", "memory"):
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
        shared = model[0].weight if tie == "object" else nn.Parameter(model[0].weight.detach())
        assert tie == "object" or shared.data_ptr() == model[0].weight.data_ptr()
        model[2].weight = shared
        graph = record(model, (x(),))
        assert [v.names for v in graph.parameters] == [("0.weight", "2.weight")]
        found = find_symmetries(model, x())
        assert not found.rejected
        assert names(found) == []  # untied, four rescalings


def test_writes_through_views_are_seen() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        h[:, 0] = 1.0  # pins channel 0, and so must not leave all three free
        return m.b(h)

    found = find_symmetries(Net(forward, **two_layers()), x())
    assert not found.rejected
    assert not found.opaque
    moved = {t.parameter: t.spread(torch.ones(s.size), two_layers()[t.parameter[0]].weight.shape) for s in found
             for t in s.terms if t.parameter.endswith("weight")}  # fmt: skip
    assert not moved["b.weight"][:, 0].any()
    assert bool(moved["b.weight"][:, 1:].all())


def test_a_write_to_nothing_is_no_path() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x).clone()
        h[:, h.shape[1] :].mul_(m.p)
        return m.b(F.relu(h))

    found = find_symmetries(Net(forward, **two_layers(), p=nn.Parameter(torch.ones(()))), x())
    assert names(found)[0] == RESCALE


def test_a_write_to_all_of_a_tensor_through_a_view_is_a_new_version() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        h.view(5, 3).mul_(2.0)
        return m.b(F.relu(h))

    assert names(find_symmetries(Net(forward, **two_layers()), x())) == [RESCALE]


def test_a_forward_that_writes_to_its_parameters_is_refused() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.a.weight.clamp_(-1, 1)
        return plain(m, x)

    model = Net(forward, **two_layers())
    model.a.weight.data.mul_(10)
    before = model.a.weight.clone()
    with pytest.raises(CaptureError, match=r"writes to its own parameter a\.weight"):
        find_symmetries(model, x())
    assert torch.equal(model.a.weight, before)


def test_a_view_of_a_parameter_kept_aside_is_refused() -> None:
    model = Net(lambda m, x: m.b(F.relu(x @ m.kept)), **two_layers())
    model.kept = model.a.weight.T
    with pytest.raises(CaptureError, match=r"a\.weight reach the result on a path that the recording did not see"):
        find_symmetries(model, x())


# -- what the dispatcher does not see -------------------------------------------------------------------------------


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class ThroughNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.abs(x.numpy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def test_a_custom_function_blocks_what_passes_through_it_and_is_named() -> None:
    """Its gradient is of its own making, so that what its forward does proves nothing."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.d(F.relu(m.c(Straight.apply(m.b(F.relu(m.a(x)))))))

    model = Net(forward, **two_layers(), c=nn.Linear(2, 3), d=nn.Linear(3, 2))
    found = find_symmetries(model, x())
    assert names(found) == [RESCALE, RESCALE.replace("b.", "d.").replace("a.", "c.")]
    assert [(o.op, o.why) for o in found.opaque] == [("sign", "it is part of the custom autograd function Straight")]
    assert not found.inactive


def test_a_custom_function_that_leaves_torch_is_refused_by_name() -> None:
    model = Net(lambda m, x: m.b(ThroughNumpy.apply(m.a(x))), **two_layers())
    with pytest.raises(CaptureError, match="is it the custom autograd function ThroughNumpy"):
        find_symmetries(model, x())


def test_a_custom_function_beside_the_path_blocks_what_it_touches() -> None:
    model = Net(lambda m, x: plain(m, x) + Straight.apply(m.a(x)).sum(), **two_layers())
    found = find_symmetries(model, x(), verify=False)
    assert names(found) == []


@pytest.mark.parametrize(
    "read",
    [
        lambda h: h.abs().mean().item(),
        lambda h: float(h.detach().abs().mean()),
        lambda h: 2.0 if (h > 1).any() else 1.0,
        lambda h: h.abs().sum().tolist(),
        lambda h: float(h.detach().numpy().std()),
        lambda h: float(np.asarray(h.detach()).std()),
        lambda h: h.abs().mean().detach(),
        lambda h: h.data.abs().mean(),
        lambda h: torch.from_numpy(h.detach().numpy() ** 2).mean(),
        lambda h: h.round().double().mean().item(),
    ],
)
def test_content_that_leaves_the_graph_pins_what_it_was_made_of(read: Any) -> None:
    """Claimed without a look at the numbers, so that verification cannot help."""
    model = Net(lambda m, x: plain(m, x) * read(m.a(x)), **two_layers())
    found = find_symmetries(model, x(), verify=False)
    assert names(found) == []
    assert found.opaque


def test_parameters_behind_a_stop_are_inactive() -> None:
    model = Net(lambda m, x: m.b(m.a(x).detach()), **two_layers())
    assert find_symmetries(model, x()).inactive == ("a.weight", "a.bias")


def test_unknown_operators_and_unknown_options_block_and_are_listed() -> None:
    model = Net(lambda m, x: m.b(F.relu(m.a(x)).cumprod(1)), **two_layers())
    found = find_symmetries(model, x())
    assert [(o.op, o.why, o.blocks) for o in found.opaque] == [
        ("cumprod", "there is no rule for it", ("a.weight", "a.bias"))
    ]
    found = find_symmetries(Net(lambda m, x: m.b(m.a(x).view(torch.float32)), **two_layers()), x())
    assert [o.why for o in found.opaque] == ["it reads the bits as numbers of another type"]
    assert "view in the model itself" in str(found)
    counts = Net(lambda m, x: m.b(m.a(x).norm(p=0, dim=1, keepdim=True) * m.a(x)), **two_layers())
    found = find_symmetries(counts, x())
    assert [(o.op, o.why) for o in found.opaque] == [("linalg_vector_norm", "the norm of order 0 counts entries")]
    assert names(found) == []


# -- odd models -----------------------------------------------------------------------------------------------------


def test_no_parameters() -> None:
    with pytest.raises(DetectionError, match="ReLU has no parameters"):
        find_symmetries(nn.ReLU(), x())
    with pytest.raises(DetectionError, match="Linear has no trainable parameters"):
        find_symmetries(nn.Linear(4, 2).requires_grad_(False), x())


def test_losses_that_are_no_scalar() -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(DetectionError, match=r"one number, it returned tensors of shape \(5, 2\)"):
        find_symmetries(model, x(), loss=nn.MSELoss(reduction="none"), target=x(5, 2))
    with pytest.raises(CaptureError, match="the loss of Linear holds no floating-point tensor"):
        find_symmetries(model, x(), loss=lambda y: 3.0)
    with pytest.raises(DetectionError, match="pass target="):
        find_symmetries(model, x(), loss=F.mse_loss)
    with pytest.raises(DetectionError, match="pass loss="):
        find_symmetries(model, x(), target=x(5, 2))
    with pytest.raises(CaptureError, match=r"the loss failed on the output of Linear.*size"):
        find_symmetries(model, x(), loss=F.cross_entropy, target=torch.zeros(3, dtype=torch.long))


def test_an_output_without_numbers() -> None:
    with pytest.raises(CaptureError, match="the output of Net holds no floating-point tensor"):
        find_symmetries(Net(lambda m, x: m.a(x).argmax(1), **two_layers()), x())
    with pytest.raises(CaptureError, match="complex"):
        find_symmetries(Net(lambda m, x: m.a(x) * 1j, **two_layers()), x())


def test_scripted_models_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.warns((DeprecationWarning, FutureWarning), match="script"):  # FutureWarning from torch 2.14 on
        scripted = torch.jit.script(model)
    with pytest.raises(CaptureError, match=r"compiled by torch\.jit"):
        find_symmetries(scripted, x())


def test_compiled_models_stay_compiled() -> None:
    runs = {"compiled": 0, "calls": 0}

    def backend(graph: Any, _: Any) -> Any:
        runs["compiled"] += 1

        def run(*args: Any) -> Any:
            runs["calls"] += 1
            return graph(*args)

        return run

    model = torch.compile(Net(plain, **two_layers()), backend=backend)
    with torch.no_grad():
        model(x())
    found = find_symmetries(model, x())
    assert names(found) == [RESCALE.replace("a.", "_orig_mod.a.").replace("b.weight", "_orig_mod.b.weight")]
    assert runs == {"compiled": 1, "calls": 1}
    with torch.no_grad():
        model(x())
    assert runs == {"compiled": 1, "calls": 2}


def test_forwards_that_differentiate_by_themselves() -> None:
    def energy(m: Net, x: Tensor) -> Tensor:
        return torch.autograd.grad(m.a(x.requires_grad_()).square().sum(), x, create_graph=True)[0]

    with pytest.raises(CaptureError, match="A forward that differentiates by itself"):
        find_symmetries(Net(energy, **two_layers()), x())


def test_lazy_sparse_and_quantised() -> None:
    with pytest.raises(CaptureError, match=r"0\.weight is not initialised yet.*call the model once"):
        find_symmetries(nn.Sequential(nn.LazyLinear(3)), x())
    model = Net(lambda m, x: torch.sparse.mm(m.w, x.T), **two_layers())
    model.w = nn.Parameter(torch.eye(4).to_sparse())
    with pytest.raises(CaptureError, match="w is stored as sparse_coo"):
        find_symmetries(model, x())


def test_complex_and_empty_parameters_are_passed_over_and_named() -> None:
    model = Net(lambda m, x: plain(m, x) + (m.w.abs() * m.w.imag).sum() + m.e.sum(), e=(0, 3), **two_layers())
    model.w = nn.Parameter(torch.randn(2, dtype=torch.complex64))
    found = find_symmetries(model, x())
    assert names(found) == [RESCALE]
    assert any(n.startswith("nothing is claimed about e, w") for n in found.notes)
    assert not found.inactive


def test_half_precision_and_casts_are_judged_in_float64() -> None:
    model = Net(lambda m, x: m.b(F.relu(m.a(x)).float().to(torch.bfloat16)), **two_layers()).bfloat16()
    found = find_symmetries(model, x().bfloat16())
    assert names(found) == [RESCALE]
    assert found[0].defect < 1e-14


def test_constants_made_on_the_way_are_widened() -> None:
    model = Net(lambda m, x: m.b(F.relu(torch.addmm(torch.ones(3), x, m.w))), w=(4, 3), b=nn.Linear(3, 2))
    assert not find_symmetries(model, x()).rejected


def test_meta_device() -> None:
    model = Net(plain, **two_layers()).to("meta")
    found = find_symmetries(model, x().to("meta"))
    assert names(found) == [RESCALE]
    assert np.isnan(found[0].defect)
    assert any("meta device" in n for n in found.notes)


def test_results_that_are_not_finite_are_not_judged() -> None:
    model = Net(lambda m, x: plain(m, x) / 0.0 * 0.0, **two_layers())
    found = find_symmetries(Net(lambda m, x: plain(m, x) + torch.tensor(torch.nan), **two_layers()), x())
    assert names(found) == [RESCALE]
    assert any("not finite" in n for n in found.notes)
    assert find_symmetries(model, x()).opaque  # x / 0 is not even interpreted


def test_models_that_do_not_run_in_float64_are_not_judged() -> None:
    def picky(m: Net, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return plain(m, x)

    found = find_symmetries(Net(picky, **two_layers()), x())
    assert names(found) == [RESCALE]
    assert any("does not run in float64 (AssertionError" in n for n in found.notes)


def test_many_families_in_one_parameter_and_long_weights_are_still_judged() -> None:
    def product(m: Net, x: Tensor) -> Tensor:
        for w in m.parameters():
            x = x * w
        return x

    found = find_symmetries(Net(product, **{f"w{i}": (4,) for i in range(60)}), x())
    assert found.dimension["scaling"] == 59 * 4
    weighted = Net(lambda m, x: (1e-6 * (x @ m.a) + x @ m.b) + 3e5 * (x @ m.c), a=(4, 2), b=(4, 2), c=(4, 2))
    found = find_symmetries(weighted, x())
    assert found.dimension["translation"] == 16
    assert not found.rejected


def test_a_false_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuromech.detect.operator import OPERATORS, operator_of

    assert operator_of("aten.relu") is OPERATORS["relu"]
    monkeypatch.setitem(OPERATORS, "tanh", OPERATORS["relu"])
    with pytest.warns(NeuromechWarning, match="withdrawn"):
        found = find_symmetries(Net(lambda m, x: m.b(torch.tanh(m.a(x))), **two_layers()), x())
    assert names(found) == []
    assert [s.name for s in found.rejected] == [RESCALE]
    assert found.rejected[0].defect > 1e-3
    assert found.dimension == {"scaling": 0, "translation": 0, "matrix": 0}
    assert "withdrawn: claimed, but the numbers contradict it" in str(found)


def test_copies_of_a_model_are_found_alike() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    found, again = (find_symmetries(m, x(), F.cross_entropy, torch.zeros(5, dtype=torch.long)) for m in
                    (model, copy.deepcopy(model)))  # fmt: skip
    assert str(found) == str(again)
    assert str(Findings.from_dict(found.to_dict())) == str(found)


@cache
def _positions_by_function(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.get_default_dtype()) / n


def _through_a_wrapper(f: Callable[..., Any]) -> Callable[..., Any]:
    cached = cache(f)
    return wraps(f)(lambda *args: cached(*args))


class Cached(nn.Module):
    """Keeps what it has computed in caches of Python, as BEiT of transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)

    @_through_a_wrapper
    def positions(self, n: int) -> Tensor:
        return torch.arange(n).float() / n

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return h * self.positions(4) * _positions_by_function(4)


def test_nothing_of_ours_stays_in_caches_of_the_model() -> None:
    model = Cached()
    x = torch.randn(2, 3)
    find_symmetries(model, x)
    assert not _positions_by_function(4).is_inference()
    model(x).sum().backward()
    assert model.a.weight.grad is not None
    assert model.positions(4).dtype is torch.float32
