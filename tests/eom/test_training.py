"""EoMOptimizer where people train: micro-batches, waiting gradients, closures with backward, compiled models."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromech import EoMError, EoMOptimizer, NeuromechWarning
from tests.families import fast

WAYS = [{"order": 1}, {"order": 2}, {"order": 1, "backend": "hvp"}, {"order": 2, "backend": "gradients"}, {"order": 0}]


def setting(dtype=torch.float64, lr=0.05, groups=False, momentum=0.5, **how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    x, y = torch.randn(12, 4, dtype=dtype), torch.randn(12, 3, dtype=dtype)
    parts = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters()}]
    base = torch.optim.SGD(parts if groups else model.parameters(), lr=lr, momentum=momentum)
    return model, EoMOptimizer(base, **how), x, y


def loss_of(model, x, y, own_backward=False, share=1.0):
    def closure():
        loss = (model(x) - y).square().mean() * share
        if own_backward:
            loss.backward()
        return loss

    return closure


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# -- micro-batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("groups", fast([False, True], [True]))
@pytest.mark.parametrize("own_backward", [False, True])
def test_micro_batches_are_one_large_batch(how, dtype, tolerance, groups, own_backward) -> None:
    if own_backward and how.get("backend") == "hvp":
        return  # differences of gradients are no exact backend
    whole, reference, x, y = setting(dtype, groups=groups, **(how | ({"backend": "gradients"} if own_backward else {})))
    if how.get("backend") is None and not own_backward:  # accumulated parts are taken apart: by gradients
        reference.backend = "gradients"
    model, optimizer, _, _ = setting(dtype, groups=groups, **how)
    for _ in range(5):
        reference.step(loss_of(whole, x, y))
        optimizer.accumulate(loss_of(model, x[:4], y[:4], own_backward))
        optimizer.accumulate([loss_of(model, *part, own_backward) for part in ((x[4:8], y[4:8]), (x[8:], y[8:]))])
        optimizer.step()
    assert (weights(model) - weights(whole)).norm() < tolerance * weights(whole).norm()


def test_parts_of_unequal_size_are_weighted() -> None:
    whole, reference, x, y = setting(order=1, backend="hvp")
    model, optimizer, _, _ = setting(order=1, backend="hvp")
    for _ in range(4):
        reference.step(loss_of(whole, x, y))
        optimizer.accumulate([loss_of(model, x[:9], y[:9]), loss_of(model, x[9:], y[9:])], weights=[9 / 12, 3 / 12])
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(whole), rtol=0, atol=1e-14)


def test_the_last_part_may_come_with_the_step() -> None:
    whole, reference, x, y = setting(order=1)
    model, optimizer, _, _ = setting(order=1, backend="gradients")
    reference.backend = "gradients"
    reference.step(loss_of(whole, x, y))
    optimizer.accumulate(loss_of(model, x[:6], y[:6]))
    optimizer.step(loss_of(model, x[6:], y[6:]))
    torch.testing.assert_close(weights(model), weights(whole), rtol=0, atol=1e-14)


def test_bad_parts_are_refused() -> None:
    model, optimizer, x, y = setting()
    closure = loss_of(model, x, y)
    for closures, more, message in (
        ([], None, "at least one"),
        ([1.0], None, "functions that return the loss"),
        ([closure], [0.5, 0.5], "2 weights"),
        ([closure], [-1.0], "positive"),
    ):
        with pytest.raises(EoMError, match=message):
            optimizer.accumulate(closures, more)
    optimizer.accumulate(closure, 0.5)
    optimizer.accumulate(closure)
    with pytest.raises(EoMError, match="to all or none"):
        optimizer.step()
    optimizer.accumulate([closure, loss_of(model, x, y, own_backward=True)])
    with pytest.raises(EoMError, match="all have to be alike"):
        optimizer.step()


# -- what waits in .grad -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "hvp", "gradients"])
def test_a_batch_that_was_accumulated_is_never_dropped(backend) -> None:
    """Also later than at the steps which are looked at closely."""
    model, optimizer, x, y = setting(backend=backend)
    for _ in range(4):
        optimizer.zero_grad()
        optimizer.step(loss_of(model, x, y))
    before = weights(model)
    optimizer.zero_grad()
    loss_of(model, x[:6], y[:6], own_backward=True)()
    waits = model[0].weight.grad.clone()
    with pytest.raises(EoMError, match="accumulate"):
        optimizer.step(loss_of(model, x[6:], y[6:]))
    assert torch.equal(weights(model), before)
    assert torch.equal(model[0].weight.grad, waits)


@pytest.mark.parametrize("backend", ["auto", "hvp", "gradients"])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_match_may_wait(backend, set_to_none) -> None:
    ends = []
    for waits in (False, True):
        model, optimizer, x, y = setting(torch.float32, backend=backend)
        for _ in range(5):
            if waits:
                optimizer.zero_grad(set_to_none)
                loss_of(model, x, y, own_backward=True)()
            optimizer.step(loss_of(model, x, y))
        ends.append(weights(model))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_a_gradient_added_to_the_one_that_a_step_has_left_is_noticed() -> None:
    model, optimizer, x, y = setting()
    optimizer.step(loss_of(model, x, y))
    loss_of(model, x, y, own_backward=True)()
    with pytest.raises(EoMError, match="zero_grad"):
        optimizer.step(loss_of(model, x, y))


def test_clipped_gradients_that_wait_are_not_passed_over() -> None:
    model, optimizer, x, y = setting()
    loss_of(model, x, y, own_backward=True)()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    with pytest.raises(EoMError, match="lower lr"):
        optimizer.step(loss_of(model, x, y))


# -- closures that run backward ----------------------------------------------------------------------------------------


def test_gradients_are_chosen_where_the_closure_runs_backward() -> None:
    ends = []
    for own_backward in (True, False):
        model, optimizer, x, y = setting(torch.float32, backend="gradients" if not own_backward else "auto")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(5):
                optimizer.step(loss_of(model, x, y, own_backward))
        assert optimizer.described()["backend"] == "gradients"
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_a_poor_estimate_is_an_error_with_the_way_out() -> None:
    """A loss that turns within the reach of differences in float32."""
    for backend in ("hvp", "auto"):
        model, optimizer, x, _ = setting(torch.float32, backend=backend, lr=1e-4)

        def closure(model=model, optimizer=optimizer, x=x):
            optimizer.zero_grad()
            loss = (100.0 * model(x)).sin().mean()
            loss.backward()
            return loss

        if backend == "hvp":
            with pytest.raises(EoMError, match="backend='gradients'"):
                optimizer.step(closure)
        else:
            optimizer.step(closure)


def test_clipping_inside_of_the_closure_is_said() -> None:
    model, optimizer, x, y = setting()

    def clipped():
        optimizer.zero_grad()
        loss = loss_of(model, x, y, own_backward=True)()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        return loss

    with pytest.warns(NeuromechWarning, match="clips or scales"):
        optimizer.step(clipped)


def test_another_loss_than_is_differentiated_is_said() -> None:
    model, optimizer, x, y = setting()

    def other():
        optimizer.zero_grad()
        loss = loss_of(model, x, y, own_backward=True)()
        return loss.detach() + 3.0 * sum(p.detach().square().sum() for p in model.parameters())

    with pytest.warns(NeuromechWarning, match="another loss"):
        optimizer.step(other)


# -- compiled models ---------------------------------------------------------------------------------------------------


def compiled_runs(make, backend, order=1):
    """The end of five steps, and of the same with the model as it is written."""
    ends = []
    for compiling in (True, False):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        x, y = torch.randn(12, 4), torch.randn(12, 3)
        chosen = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5), order, backend=backend)
        forward = make(model) if compiling else model
        for _ in range(6):
            chosen.step(lambda forward=forward, x=x, y=y: F.mse_loss(forward(x), y))
        ends.append(torch.cat([weights(model), model[1].running_mean, model[1].running_var]))
        assert int(model[1].num_batches_tracked) == 6
    return ends


def in_place(model):
    model.compile(backend="aot_eager")
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", fast(["hvp", "gradients"], ["hvp"]))
@pytest.mark.parametrize(
    "make",
    [
        lambda m: torch.compile(m, backend="aot_eager", fullgraph=True),
        lambda m: torch.compile(m, backend="eager"),
        in_place,
        lambda m: torch.compile(lambda x: m(x), backend="aot_eager"),
    ],
    ids=["module", "eager", "in place", "function"],
)
def test_compiled_models(make, backend) -> None:
    torch.testing.assert_close(*compiled_runs(make, backend), rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_trained_by_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    compiled, x = torch.compile(model, backend="aot_eager"), torch.randn(5, 4)
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(3):
        optimizer.step(lambda: compiled(x).square().mean())
    assert optimizer.described()["backend"] == "gradients"
