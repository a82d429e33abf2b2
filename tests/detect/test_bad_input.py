"""What real code does to a model: each case is understood, blocked and listed, or refused with words that help."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import alone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from zoo import Net

from neuromech.detect import Findings, find_symmetries
from neuromech.errors import CaptureError, DetectionError

RESCALE = "a.weight[i], a.bias[i] / b.weight[:, i]"


def two_layers() -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, 3), "b": nn.Linear(3, 2)}


def plain(m: Net, x: Tensor) -> Tensor:
    return m.b(F.relu(m.a(x)))


def x(*shape: int) -> Tensor:
    return torch.randn(shape or (5, 4), generator=torch.Generator().manual_seed(0))


def names(found: Findings) -> list[str]:
    assert not found.rejected
    return [s.name for s in found]


def of(forward: Callable[..., Any], example: Any = None, **options: Any) -> Findings:
    return find_symmetries(Net(forward, **two_layers()), x() if example is None else example, **options)


# -- understood: the same families as without -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.b(checkpoint(lambda h: F.relu(m.a(h)), x, use_reentrant=False)),
        lambda m, x: m.b(checkpoint(lambda h: F.relu(m.a(h)), x.requires_grad_(), use_reentrant=True)),
        lambda m, x: m.b(checkpoint_sequential(nn.Sequential(m.a, nn.ReLU()), 2, x, use_reentrant=False)),
        lambda m, x: checkpoint(lambda h: m.b(checkpoint(lambda g: F.relu(m.a(g)), h, use_reentrant=False)), x,
                                use_reentrant=False),
        lambda m, x: torch.autocast("cpu", dtype=torch.bfloat16)(plain)(m, x),
        lambda m, x: m.b(F.relu(m.a(x)).to("cpu").to(torch.float64).float()),
        lambda m, x: m.b(m.a(x).mul_(2).relu_()),
        lambda m, x: m.b(F.relu(m.a(x)).view(5, 3, 1).transpose(0, 1).squeeze(-1).T.contiguous()),
        lambda m, x: {"y": plain(m, x), "step": 3, "text": "x", "none": None},
    ],
)  # fmt: skip
def test_understood(forward: Callable[..., Any]) -> None:
    found = of(forward)
    assert names(found) == [RESCALE]
    assert not found.opaque
    assert not found.inactive


def test_checkpoints_still_work_afterwards() -> None:
    runs = []

    def body(m: Net, h: Tensor) -> Tensor:
        runs.append(1)
        return F.relu(m.a(h))

    model = Net(lambda m, x: m.b(checkpoint(lambda h: body(m, h), x, use_reentrant=False)), **two_layers())
    find_symmetries(model, x())
    runs.clear()
    model(x()).sum().backward()
    assert len(runs) == 2  # forward, and once more in the backward
    assert model.a.weight.grad is not None


def test_a_failure_inside_a_checkpoint_names_the_module() -> None:
    model = Net(lambda m, x: checkpoint(lambda h: m.b(h), x, use_reentrant=False), **two_layers())
    with pytest.raises(CaptureError, match=r"in module 'b': RuntimeError: mat1 and mat2"):
        find_symmetries(model, x())


WRAPPED = "module.a.weight[i], module.a.bias[i] / module.b.weight[:, i]"


def test_data_parallel_models_keep_the_names_of_their_parameters() -> None:
    model = nn.DataParallel(Net(plain, **two_layers()))
    found = find_symmetries(model, x())
    assert names(found) == [WRAPPED]
    found[0].check(dict(model.named_parameters()))
    inside = nn.Sequential(nn.DataParallel(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    assert names(find_symmetries(inside, x())) == ["0.module.weight[i], 0.module.bias[i] / 2.weight[:, i]"]


def test_distributed_models_are_detected_and_train_on(tmp_path: Path) -> None:
    def body() -> None:
        model = nn.parallel.DistributedDataParallel(Net(plain, **two_layers()))
        assert names(find_symmetries(model, x())) == [WRAPPED]
        assert names(find_symmetries(nn.Sequential(model, nn.ReLU()), x()))
        for _ in range(2):
            model(x()).sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    alone(tmp_path, body)


def test_autocast_around_and_a_warm_cache() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = Net(plain, **two_layers())
        model(x())
        assert names(find_symmetries(model, x())) == [RESCALE]


def test_a_cache_of_parametrizations_does_not_hide_its_leaves() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    fresh = find_symmetries(model, x())
    with parametrize.cached():
        model(x())
        assert names(find_symmetries(model, x())) == names(fresh)


def test_hooks_count_and_grad_hooks_do_not() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model[1].register_forward_hook(lambda m, args, out: out.tanh())
    assert names(find_symmetries(model, x())) == []


def test_exported_and_symbolically_traced_models() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for other in (torch.fx.symbolic_trace(model), torch.export.export(model, (x(),)).module()):
        assert names(find_symmetries(other, x())) == ["0.weight[i], 0.bias[i] / 2.weight[:, i]"]


# -- blocked and listed -----------------------------------------------------------------------------------------------


@torch.library.custom_op("neuromech_tests::kernel", mutates_args=())
def kernel(h: Tensor) -> Tensor:
    return h.clamp(min=0)


kernel.register_autograd(
    lambda ctx, g: g * ctx.mask, setup_context=lambda ctx, inputs, output: setattr(ctx, "mask", inputs[0] > 0)
)


def with_other_data(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    h.data = h.data * 2
    return m.b(F.relu(h))


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda m, x: m.b(F.relu(m.a(x))) if m.a(x).sum() > 1 else m.b(m.a(x)), "the content of a tensor leaves"),
        (lambda m, x: m.b(kernel(m.a(x))), "there is no rule"),
        (lambda m, x: m.b(F.relu(m.a(x)).to_mkldnn().to_dense()), "there is no rule"),
        (with_other_data, "there is no rule"),
        (lambda m, x: plain(m, x) * float(m.a(x).detach().numpy().std()), "the content of a tensor leaves"),
    ],
)
def test_blocked_and_listed(forward: Callable[..., Any], why: str) -> None:
    """Without a look at the numbers, so that verification cannot help."""
    found = of(forward, verify=False)
    assert names(found) == []
    assert any(why in o.why for o in found.opaque)
    assert any("a.weight" in o.blocks for o in found.opaque)


def test_a_branch_taken_by_the_input_alone_blocks_nothing() -> None:
    assert names(of(lambda m, x: plain(m, x) if x.sum() > -1e9 else m.a(x))) == [RESCALE]


def test_what_is_never_read_is_called_that() -> None:
    model = Net(lambda m, x: m.b(x) + m.a(x).detach(), a=nn.Linear(4, 3), b=nn.Linear(4, 3), c=nn.Linear(2, 2))
    found = find_symmetries(model, torch.randn(5, 4))
    assert found.inactive == ("a.weight", "a.bias", "c.weight", "c.bias")
    assert found.never_read == ("c.weight", "c.bias")
    assert "never read by the forward: c.weight, c.bias" in str(found)
    assert "inactive: a.weight, a.bias do not reach the result" in str(found)


def test_what_is_not_reached_is_inactive() -> None:
    found = find_symmetries(Net(plain, **two_layers(), c=(3,)), x())
    assert (names(found), found.inactive) == ([RESCALE], ("c",))
    found = of(lambda m, x: m.b(F.relu(F.linear(x, m.a.weight.data, m.a.bias))))
    assert (names(found), found.inactive) == ([], ("a.weight",))
    assert of(plain, loss=lambda y: y.sum().detach()).inactive == ("a.weight", "a.bias", "b.weight", "b.bias")


def test_sparse_inputs_are_constants_like_others() -> None:
    assert names(of(lambda m, x: m.b(F.relu(m.a(x.to_dense()))), x().to_sparse())) == [RESCALE]


def test_what_is_quantised_is_a_constant() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves its quantisation elsewhere
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear}, torch.qint8)
        with pytest.raises(DetectionError, match="what is quantised holds numbers, but no parameters"):
            find_symmetries(dynamic, x())
        found = find_symmetries(nn.Sequential(dynamic, nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)), x())
    assert names(found) == ["2.weight[i], 2.bias[i] / 4.weight[:, i]"]


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (torch.zeros(5, 7), r"in module 'a': RuntimeError: mat1 and mat2 shapes cannot be multiplied.*Check that"),
        ("hello", r"argument 'input' \(position 1\) must be Tensor, not str"),
        (x().numpy(), "must be Tensor, not numpy.ndarray"),
        ((x(), x()), "takes 2 positional arguments but 3 were given"),
        ({"y": x()}, "unexpected keyword argument 'y'"),
        (x().half(), "must have the same dtype"),
        (x().to("meta"), "lie on cpu and meta, and tensors on the meta device have no values.*move everything"),
        (torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged), "nested tensor.*pad"),
    ],
)
def test_wrong_examples_are_refused(example: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        of(plain, example)


@pytest.mark.parametrize("part", ["a", "b"])
def test_models_on_mixed_devices_are_refused(part: str) -> None:
    model = Net(plain, **two_layers())
    model.get_submodule(part).to("meta")
    with pytest.raises(CaptureError, match="lie on cpu and meta"):
        find_symmetries(model, x())


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda y: True, "holds no floating-point tensor"),
        (lambda y: y.argmax(), "holds no floating-point tensor"),
        (lambda y: y.sum().item(), "holds no floating-point tensor"),
        (lambda y: y.sum().reshape(1), r"one number, it returned tensors of shape \(1,\)"),
        ("mse", "the loss is 'mse': pass a function"),
    ],
)
def test_wrong_losses_are_refused(loss: Any, words: str) -> None:
    with pytest.raises((CaptureError, DetectionError), match=words):
        of(plain, loss=loss)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(DetectionError, match=r"expected a torch\.nn\.Module, got function"):
        find_symmetries(plain, x())


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.autograd.grad(plain(m, x.requires_grad_()).sum(), x, create_graph=True)[0],
        lambda m, x: torch.func.jacrev(lambda x: plain(m, x))(x),
    ],
)
def test_forwards_that_differentiate_are_refused(forward: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError, match="A forward that differentiates by itself cannot be recorded"):
        of(forward)


def test_operators_that_take_functions_are_refused() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: plain(m, x), lambda x: m.b(m.a(x)), (x,))

    import torch._dynamo  # `cond` would import it too late to be told to leave the forward as it is

    with pytest.raises(CaptureError, match="cond, an operator that takes functions"):
        of(forward)


def test_a_forward_that_makes_parameters_is_refused_and_makes_none() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "b"):
                self.b = nn.Linear(3, 2)
            return self.b(F.relu(self.a(x)))

    model = Late()
    with pytest.raises(CaptureError, match=r"made new parameters \(b\.weight, b\.bias\): call the model once"):
        find_symmetries(model, x())
    assert not hasattr(model, "b")
    model(x())
    assert names(find_symmetries(model, x())) == [RESCALE]


def test_random_numbers_are_not_taken_for_what_they_happen_to_be() -> None:
    """A permutation of channels that is drawn anew leaves them one common factor; one that stays, a factor each."""
    order = torch.tensor([2, 0, 1])
    forward: Callable[..., Any] = lambda m, x: m.b(m.a(x)[:, torch.randperm(3)])  # noqa: E731
    assert of(forward, verify=False).dimension["scaling"] <= 1
    assert of(lambda m, x: m.b(m.a(x)[:, order]), verify=False).dimension["scaling"] == 3


@pytest.mark.parametrize("example", [torch.zeros(5, 4), torch.ones(5, 4), -1e9 * torch.ones(5, 4)])
def test_the_numbers_of_the_example_do_not_matter(example: Tensor) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.relu(torch.cat([m.a(x), x], 1))) * x.sum() + x[:, :2]

    model = Net(forward, a=nn.Linear(4, 3), b=nn.Linear(7, 2))
    assert names(find_symmetries(model, example, verify=False)) == names(find_symmetries(model, x(), verify=False))


def test_the_numbers_of_the_target_do_not_matter() -> None:
    def loss(y: Tensor, target: Tensor) -> Tensor:
        return (y * target).sum()

    for target in (torch.zeros(5, 2), torch.ones(5, 2)):
        assert names(of(plain, loss=loss, target=target, verify=False)) == [RESCALE]


def test_running_statistics_may_change() -> None:
    """As they start, means of zero would let everything before batch norm scale in evaluation mode."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    fresh = names(find_symmetries(model, x(), verify=False))
    model[1].running_mean.normal_()
    assert names(find_symmetries(model, x(), verify=False)) == fresh
