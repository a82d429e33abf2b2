"""EoMOptimizer as an optimizer: nothing that works with the base stops working with the wrapper."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import EoMError, EoMOptimizer, NeuromechWarning
from tests.families import fast

VARIANTS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.5},
    {"momentum": 0.5, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.5, "nesterov": True},
    {"maximize": True, "weight_decay": 0.1},
]


def make(order=1, lr=0.05, seed=0, dtype=torch.float64, **options):
    wrapper = {k: options.pop(k) for k in ("backend", "follow", "hvp") if k in options}
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    x, y = torch.randn(9, 4, dtype=dtype), torch.randn(9, 3, dtype=dtype)
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=lr, **options), order, **wrapper)
    return model, optimizer, lambda: (model(x) - y).square().mean()


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def walk(optimizer, closure, steps):
    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.parametrize("options", VARIANTS)
def test_order_zero_is_the_base_bit_for_bit(options) -> None:
    model, optimizer, closure = make(0, **options)
    walk(optimizer, closure, 5)
    other, wrapper, loss = make(0, **options)
    base = wrapper.base
    for _ in range(5):
        base.zero_grad()
        loss().backward()
        base.step()
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("order", fast([1, 2], [2]))
def test_forms_and_backends_go_the_same_way(order, options) -> None:
    """Forward and reverse agree to rounding, differences to their error, gradients alone to the order of the method."""
    ends = {}
    for form in ("reverse", "forward", "difference", "gradients"):
        how = {"backend": "gradients"} if form == "gradients" else {"hvp": form}
        model, optimizer, closure = make(order, lr=0.01, **how, **options)
        walk(optimizer, closure, 6)
        ends[form] = weights(model)
    plain, optimizer, closure = make(0, lr=0.01, **options)
    walk(optimizer, closure, 6)
    moved = (ends["reverse"] - weights(plain)).norm()
    assert (ends["forward"] - ends["reverse"]).norm() < 1e-13
    assert (ends["difference"] - ends["reverse"]).norm() < 1e-5 * moved
    assert (ends["gradients"] - ends["reverse"]).norm() < 0.3 * moved


def test_one_step_is_the_formula() -> None:
    model, optimizer, closure = make(1, lr=0.1)
    params = list(model.parameters())
    g = torch.autograd.grad(closure(), params, create_graph=True)
    hg = torch.autograd.grad(g, params, [x.detach() for x in g])
    wanted = [p.detach() - 0.1 * (a.detach() - 0.05 * b) for p, a, b in zip(params, g, hg, strict=True)]
    loss = optimizer.step(closure)
    assert loss.ndim == 0
    assert not loss.requires_grad
    for p, q, a in zip(params, wanted, g, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=0, atol=1e-15)
        torch.testing.assert_close(p.grad, a.detach(), rtol=0, atol=0)


def test_following_descent_has_the_other_sign() -> None:
    ends = {}
    for follow in ("flow", "descent"):
        model, optimizer, closure = make(1, lr=0.01, follow=follow)
        optimizer.step(closure)
        ends[follow] = weights(model)
    model, optimizer, closure = make(0, lr=0.01)
    optimizer.step(closure)
    torch.testing.assert_close(ends["flow"] - weights(model), weights(model) - ends["descent"], rtol=1e-10, atol=1e-15)
    grads, optimizer, closure = make(2, lr=0.01, follow="descent", backend="gradients")
    optimizer.step(closure)
    hvp, optimizer, closure = make(2, lr=0.01, follow="descent")
    optimizer.step(closure)
    assert (weights(grads) - weights(hvp)).norm() < 0.05 * (weights(hvp) - weights(model)).norm()


def test_groups_with_their_own_lr_follow_the_flow_of_their_own_clocks() -> None:
    """Group lr r times larger is the flow of a loss in coordinates scaled by sqrt(r): the same steps, transformed."""
    model, _, closure = make()
    first, second = list(model[0].parameters()), list(model[2].parameters())
    start = copy.deepcopy(model.state_dict())
    groups = [{"params": first, "lr": 0.04}, {"params": second, "lr": 0.01}]
    walk(EoMOptimizer(torch.optim.SGD(groups, lr=0.1, momentum=0.3), 2), closure, 4)
    wanted = weights(model)
    model.load_state_dict(start)
    scaled = {n: p.detach().clone() / (2.0 if n.startswith("0") else 1.0) for n, p in model.named_parameters()}
    live = {n: t.requires_grad_() for n, t in scaled.items()}
    x, y = closure.__closure__[1].cell_contents, closure.__closure__[2].cell_contents

    def loss():
        real = {n: t * (2.0 if n.startswith("0") else 1.0) for n, t in live.items()}
        return F.mse_loss(torch.func.functional_call(model, real, (x,)), y)

    walk(EoMOptimizer(torch.optim.SGD(live.values(), lr=0.01, momentum=0.3), 2), loss, 4)
    got = torch.cat([(t * (2.0 if n.startswith("0") else 1.0)).detach().reshape(-1) for n, t in live.items()])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)


# -- what a loop does with an optimizer --------------------------------------------------------------------------------


def test_state_is_the_base_s() -> None:
    model, optimizer, closure = make(momentum=0.5)
    assert isinstance(optimizer, torch.optim.Optimizer)
    walk(optimizer, closure, 2)
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    assert optimizer.defaults is optimizer.base.defaults
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert "EoMOptimizer(order=1" in repr(optimizer)
    assert "momentum: 0.5" in repr(optimizer)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize(
    "how", ["state_dict", pytest.param("fresh process", marks=pytest.mark.slow), "deepcopy", "pickle"]
)
def test_going_on_is_exact(options, how, tmp_path) -> None:
    model, optimizer, closure = make(2, **options)
    walk(optimizer, closure, 3)
    if how == "deepcopy":
        other, copied = copy.deepcopy((model, optimizer))
        _rebind(other, copied, closure, model, optimizer)
        return
    if how == "pickle":
        other, copied = pickle.loads(pickle.dumps((model, optimizer)))
        _rebind(other, copied, closure, model, optimizer)
        return
    file = tmp_path / "state.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    walk(optimizer, closure, 3)
    if how == "fresh process" and options == VARIANTS[3]:
        code = f"""
            import torch, sys
            sys.path.insert(0, {str(__file__.rsplit("/tests/", 1)[0])!r})
            from tests.eom.test_optimizer import make, walk, weights
            model, optimizer, closure = make(2, **{options!r})
            saved = torch.load({str(file)!r}, weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            walk(optimizer, closure, 3)
            torch.save(weights(model), {str(tmp_path / "end.pt")!r})
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
        assert torch.equal(torch.load(tmp_path / "end.pt", weights_only=True), weights(model))
        return
    other, resumed, again = make(2, **options)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.steps == 3
    assert resumed.param_groups is resumed.base.param_groups
    walk(resumed, again, 3)
    assert torch.equal(weights(other), weights(model))


def _rebind(other, copied, closure, model, optimizer) -> None:
    x, y = closure.__closure__[1].cell_contents, closure.__closure__[2].cell_contents
    assert copied.base is not optimizer.base
    assert copied.param_groups is copied.base.param_groups
    walk(copied, lambda: (other(x) - y).square().mean(), 3)
    walk(optimizer, closure, 3)
    assert torch.equal(weights(other), weights(model))


def test_state_of_another_order_is_refused() -> None:
    _, optimizer, _ = make(2)
    _, other, _ = make(1)
    with pytest.raises(EoMError, match="order=2"):
        other.load_state_dict(optimizer.state_dict())


def test_a_run_of_plain_sgd_can_be_taken_over() -> None:
    model, wrapper, closure = make(1, momentum=0.5)
    base = wrapper.base
    for _ in range(3):
        base.zero_grad()
        closure().backward()
        base.step()
    saved = copy.deepcopy(base.state_dict())
    wrapper.load_state_dict(saved)
    before = weights(model)
    wrapper.step(closure)
    assert (weights(model) - before).norm() > 0


def test_schedulers_drive_it() -> None:
    model, optimizer, closure = make(momentum=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6, cycle_momentum=False)
    seen = []
    for _ in range(5):
        optimizer.step(closure)
        seen.append(optimizer.base.param_groups[0]["lr"])
        schedule.step()
    assert len(set(seen)) == 5
    assert torch.isfinite(weights(model)).all()


def test_warm_up_from_zero_lr() -> None:
    model, optimizer, closure = make(2, momentum=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: k / 3)
    before = weights(model)
    optimizer.step(closure)
    assert torch.equal(weights(model), before)
    for _ in range(3):
        schedule.step()
        optimizer.step(closure)
    assert torch.isfinite(weights(model)).all()
    assert not torch.equal(weights(model), before)


def test_lr_may_be_a_tensor() -> None:
    ends = []
    for lr in (0.05, torch.tensor(0.05, dtype=torch.float64)):
        model, optimizer, closure = make(lr=lr)
        walk(optimizer, closure, 2)
        ends.append(weights(model))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-15)


def test_step_hooks_run() -> None:
    _, optimizer, closure = make()
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.step(closure)
    assert called == ["before", "after"]
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"mine": 1})
    assert optimizer.state_dict()["mine"] == 1


def test_groups_can_be_added() -> None:
    model, _, closure = make()
    optimizer = EoMOptimizer(torch.optim.SGD(model[0].parameters(), lr=0.05))
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
    assert len(optimizer.base.param_groups) == 2
    before = weights(model[2])
    optimizer.step(closure)
    assert not torch.equal(weights(model[2]), before)


@pytest.mark.parametrize("backend", ["hvp", "gradients"])
def test_frozen_and_unused_parameters_stay(backend) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "frozen": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    for p in model["frozen"].parameters():
        p.requires_grad_(False)
    x = torch.randn(5, 3)
    optimizer = EoMOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.1), 2, backend=backend
    )
    before = copy.deepcopy(model)
    for _ in range(3):
        optimizer.step(lambda: model["frozen"](model["used"](x).tanh()).square().mean())
    for kind in ("frozen", "unused"):
        assert torch.equal(weights(model[kind]), weights(before[kind]))
    assert not torch.equal(weights(model["used"]), weights(before["used"]))
    assert model["unused"].weight.grad is None
    assert not any(p in optimizer.state and optimizer.state[p] for p in model["unused"].parameters())


def test_closures_that_run_backward_work_too() -> None:
    for order, how in ((1, {"backend": "hvp"}), (2, {"backend": "gradients"})):
        model, optimizer, closure = make(order, lr=0.01, **how)
        other, reference, loss = make(order, lr=0.01, **how)

        def standard(optimizer=optimizer, closure=closure):
            optimizer.zero_grad()
            value = closure()
            value.backward()
            return value

        for _ in range(4):
            optimizer.step(standard)
            reference.step(loss)
        assert (weights(model) - weights(other)).norm() < 1e-9


def test_grad_scaler() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(9, 4), torch.randn(9, 3)
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def loss():
        with torch.autocast("cpu", torch.bfloat16):
            return F.mse_loss(model(x).float(), y)

    optimizer.closure = loss
    first = loss().item()
    for _ in range(10):
        optimizer.zero_grad()
        scaler.scale(loss()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert loss().item() < 0.9 * first
    before, steps = weights(model), optimizer.steps
    scaler.scale(loss()).backward()
    model[0].weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    assert torch.equal(weights(model), before)
    assert optimizer.steps == steps


def test_a_scaled_loss_in_the_closure_is_refused() -> None:
    """Gradients that GradScaler has unscaled wait in .grad; those of the closure have to be as large."""
    for scaled in (False, True):
        model, optimizer, closure = make()
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        optimizer.closure = (lambda: scaler.scale(closure())) if scaled else closure  # noqa: B023
        scaler.scale(closure()).backward()
        with pytest.raises(EoMError, match="256 times") if scaled else contextlib.nullcontext():
            scaler.step(optimizer)
        assert model[0].weight.grad is not None


def test_a_loss_that_is_not_a_number_is_passed_on() -> None:
    _, optimizer, closure = make()
    assert torch.isnan(optimizer.step(lambda: closure() * float("nan")))


def test_fused_and_foreach_bases() -> None:
    ends = []
    for options in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        model, optimizer, closure = make(1, momentum=0.5, **options)
        walk(optimizer, closure, 3)
        ends.append(weights(model))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-15)


# -- bad input ---------------------------------------------------------------------------------------------------------


def refuse(message, closure=None, **options):
    _, optimizer, good = make(**options)
    with pytest.raises(EoMError, match=message):
        optimizer.step(closure(optimizer, good) if closure else None)


def test_bad_closures_are_refused() -> None:
    refuse("evaluates the loss itself")
    refuse(r"shape \(9, 3\)", lambda o, good: lambda: good().expand(9, 3))
    refuse("got float", lambda o, good: lambda: good().item())
    refuse("none of the parameters", lambda o, good: lambda: good().detach())
    refuse("none of the parameters", lambda o, good: lambda: torch.ones((), requires_grad=True) * 2)
    refuse("has to be a real", lambda o, good: lambda: torch.ones((), dtype=torch.complex64, requires_grad=True))


@pytest.mark.parametrize("backend", ["hvp", "gradients"])
def test_new_batches_are_detected(backend) -> None:
    model, optimizer, _ = make(backend=backend)
    batches = iter(torch.randn(20, 9, 4).double())
    before = weights(model)
    with pytest.raises(EoMError, match="draws a new batch"):
        optimizer.step(lambda: model(next(batches)).square().mean())
    assert torch.equal(weights(model), before)


def test_batches_drawn_from_seeded_generators_are_the_same_again() -> None:
    import random

    import numpy as np

    model, optimizer, _ = make(backend="gradients")
    x = torch.randn(50, 4).double()
    for draw in (
        lambda: torch.randint(0, 50, (9,)),
        lambda: torch.tensor(np.random.randint(0, 50, 9)),
        lambda: torch.tensor(random.sample(range(50), 9)),
    ):
        optimizer.steps = 0
        optimizer.step(lambda draw=draw: model(x[draw()]).square().mean())


def test_parameters_changed_by_the_closure_are_noticed() -> None:
    def clips(optimizer, good):
        def closure():
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].clamp_(-0.1, 0.1)
            return good()

        return closure

    refuse("closure changed parameter 0 of group 0 in place", clips)


def test_wrong_options_and_bases_are_refused() -> None:
    p = [nn.Parameter(torch.ones(2))]
    sgd = torch.optim.SGD(p, lr=0.1)
    for order in (-1, 7, 1.5, True):
        with pytest.raises(EoMError, match="whole number"):
            EoMOptimizer(sgd, order)
    for options, message in (
        ({"follow": "gradient"}, "follow is 'gradient'"),
        ({"backend": "jvp"}, "backend is 'jvp'"),
        ({"hvp": "exact"}, "hvp is 'exact'"),
        ({"backend": "gradients", "hvp": "reverse"}, "leave it out"),
    ):
        with pytest.raises(EoMError, match=message):
            EoMOptimizer(sgd, **options)
    for base in (torch.optim.Adam(p), torch.optim.RMSprop(p), torch.optim.LBFGS(p), torch.optim.Adagrad(p)):
        with pytest.raises(EoMError, match="linear in the gradient"):
            EoMOptimizer(base)
    with pytest.raises(EoMError, match="corrects twice"):
        EoMOptimizer(EoMOptimizer(sgd))
    with pytest.raises(EoMError, match="has to be a torch optimizer"):
        EoMOptimizer(p)
    with pytest.raises(EoMError, match="has no momentum"):
        EoMOptimizer(torch.optim.SGD(p, lr=0.1, momentum=0.9), follow="descent")


def test_a_subclass_of_sgd_with_its_own_step_is_refused() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    with pytest.raises(EoMError, match="Own cannot be put on a flow"):
        EoMOptimizer(Own([nn.Parameter(torch.ones(2))], lr=0.1))


def test_sparse_and_complex_are_refused() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = EoMOptimizer(torch.optim.SGD(table.parameters(), lr=0.1))
    with pytest.raises(EoMError, match="make it dense"):
        optimizer.step(lambda: table(torch.tensor([1, 2])).square().mean())
    z = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = EoMOptimizer(torch.optim.SGD([z], lr=0.1))
    with pytest.raises(EoMError, match="complex64"):
        optimizer.step(lambda: z.abs().square().sum())


def test_corrections_larger_than_the_gradient_are_announced_once() -> None:
    _, optimizer, closure = make(1, lr=0.1, momentum=0.9)
    with pytest.warns(NeuromechWarning, match="larger than the gradient"):
        walk(optimizer, closure, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk(optimizer, closure, 2)


def test_public_name() -> None:
    assert neuromech.EoMOptimizer is EoMOptimizer


def test_an_error_in_the_closure_leaves_everything_in_place() -> None:
    model, optimizer, closure = make(backend="gradients")
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return closure()

    before = weights(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fails)
    assert torch.equal(weights(model), before)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)


def test_the_order_that_kinks_leave_is_said() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    for act, order, said in ((nn.ReLU(), 2, True), (nn.ReLU(), 1, False), (nn.SiLU(), 2, False)):
        model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 1))
        optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=1e-3), order)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step(lambda model=model: model(x).square().mean())
        assert any("has kinks (Relu)" in str(w.message) for w in caught) == said
