"""Things that go wrong in real training, one function each: what they do to a loop, and the cause that is to be named.

Every function makes the loop and plans the fault for step `at`; all choices are drawn from the seed.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.training import Activation, Loop, Path, loop, rectifier
from neuromech.monitor.checksum import checksums

Inject = Callable[[random.Random, int, int], Loop]


@dataclass(frozen=True)
class Injection:
    """`cause`: the key of the true cause; `make(random, seed, at)`: the loop, with the fault planned."""

    name: str
    cause: str
    make: Inject
    from_the_start: bool = False


INJECTIONS: dict[str, Injection] = {}


def fault(cause: str, from_the_start: bool = False) -> Callable[[Inject], Inject]:
    def enter(make: Inject) -> Inject:
        name = make.__name__.replace("_", " ")
        INJECTIONS[name] = Injection(name, cause, make, from_the_start)
        return make

    return enter


ANY_MODEL = ("perceptron", "convolutional", "residual", "transformer", "normed")
ANY_OPTIMIZER = ("sgd", "momentum", "nesterov", "adam", "adamw")
DTYPES = (torch.float32, torch.float32, torch.float64)


def _loop(r: random.Random, seed: int, optimizers: tuple[str, ...] = ANY_OPTIMIZER, **options: Any) -> Loop:
    models = options.pop("models", ANY_MODEL)
    return loop(r.choice(models), r.choice(optimizers), r.choice(DTYPES), seed, **options)


def _weight(run: Loop, r: random.Random) -> nn.Parameter:
    return r.choice([p for p in run.model.parameters() if p.ndim > 1])


def _flip(t: Tensor, r: random.Random) -> None:
    """Flip one bit of one element, as a fault of the memory does: no operation of torch takes part."""
    kinds: dict[int, Any] = {4: "int32", 8: "int64"}
    flat = t.detach().numpy().reshape(-1).view(kinds[t.element_size()])
    flat[r.randrange(flat.size)] ^= 1 << r.randrange(8 * t.element_size() - 2)


# -- the model ---------------------------------------------------------------------------------------------------------


# ReLU whose backward lets a tenth of the gradient through where the unit is off, and one that forgets a factor.
WRONG = (rectifier(lambda g, x: torch.where(x > 0, g, 0.1 * g)), rectifier(lambda g, x: 0.9 * g * (x > 0)))


@fault("wrong backward")
def wrong_custom_backward(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    acts = [m for m in run.model.modules() if isinstance(m, Activation)]
    wrong = r.choice(WRONG)
    run.at(at, "begin", lambda: setattr(r.choice(acts), "function", wrong))
    return run


@fault("wrong backward")
def backward_hook_that_changes_a_gradient(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    act = r.choice([m for m in run.model.modules() if isinstance(m, Activation)])
    hook: Any = lambda m, into, out: (0.5 * into[0],)  # noqa: E731
    run.at(at, "begin", lambda: act.register_full_backward_hook(hook))
    return run


@fault("wrong backward", from_the_start=True)
def wrong_custom_backward_from_the_start(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed)
    act = r.choice([m for m in run.model.modules() if isinstance(m, Activation)])
    act.function = r.choice(WRONG)
    return run.watch()


@fault("detached")
def detached_branch(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    (path,) = [m for m in run.model.modules() if isinstance(m, Path)]
    run.at(at, "begin", lambda: setattr(path, "function", torch.detach))
    run.to_none = r.random() < 0.5
    return run


@fault("frozen")
def frozen_layer(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    p = _weight(run, r)

    def freeze() -> None:
        p.requires_grad_(False)
        p.grad = None

    run.at(at, "begin", freeze)
    return run


@fault("evaluation mode")
def forgotten_evaluation_mode(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, models=("convolutional", "normed")).watch()
    run.at(at, "begin", run.model.eval)
    return run


@fault("replaced")
def replaced_parameter(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    m = r.choice([m for m in run.model.modules() if isinstance(m, nn.Linear)])
    run.at(at, "begin", lambda: setattr(m, "weight", nn.Parameter(m.weight.detach().clone())))
    return run


# -- the loss ----------------------------------------------------------------------------------------------------------


def _with_loss(run: Loop, at: int, extra: Callable[[Tensor], Tensor]) -> None:
    def loss() -> Tensor:
        rows = [run.random.randrange(len(run.x)) for _ in range(run.batch)]
        output = run.model(run.x[rows])
        plain = F.cross_entropy(output, run.y[rows])
        return plain + extra(output) if run.step >= at else plain

    run.loss = loss  # type: ignore[method-assign]


@fault("penalty")
def penalty_beside_weight_decay(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    size = 10 ** r.uniform(-3, -2)
    _with_loss(run, at, lambda _: size / 2 * torch.stack([p.square().sum() for p in run.model.parameters()]).sum())
    return run


@fault("other loss")
def term_added_to_the_loss(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    _with_loss(run, at, lambda y: 0.1 * y.logsumexp(1).square().mean())
    return run


# -- gradients ---------------------------------------------------------------------------------------------------------


@fault("not cleared")
def gradients_not_cleared(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    clear = run.clear
    run.clear = lambda: clear() if run.step < at else None  # type: ignore[method-assign]
    return run


@fault("repeated step")
def step_taken_twice(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    run.at(at, "end", run.optimizer.step)
    return run


@fault("stale gradient")
def gradient_of_the_step_before(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    kept: dict[nn.Parameter, Tensor] = {}

    def exchange() -> None:
        for p in run.model.parameters():
            if p.grad is not None:
                now = p.grad.clone()
                if run.step >= at and p in kept:
                    p.grad = kept[p]
                kept[p] = now

    run.since(at - 1, "gradient", exchange)
    return run


@fault("modified gradient")
def noise_after_clipping(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, clip=1.0).watch()
    p = _weight(run, r)

    def noise() -> None:
        assert p.grad is not None
        p.grad.add_(torch.randn_like(p.grad), alpha=0.1 * float(p.grad.norm()) / p.numel() ** 0.5)

    run.since(at, "clipped", noise)
    return run


@fault("modified gradient")
def one_gradient_multiplied_after_clipping(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, clip=1.0).watch(clip_norm=1.0)
    p = _weight(run, r)
    run.since(at, "clipped", lambda: p.grad.mul_(8.0) if p.grad is not None else None)
    return run


@fault("not finite")
def non_finite_gradients_skipped(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    run.skips = True
    _with_loss(run, at, lambda y: y.sum() * float("inf") if run.step == at else y.sum() * 0)
    return run


@fault("not finite")
def non_finite_gradients_stepped(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    _with_loss(run, at, lambda y: y.sum() * float("nan") if run.step == at else y.sum() * 0)
    return run


@fault("not reduced")
def rank_without_reduction(r: random.Random, seed: int, at: int) -> Loop:
    """Two ranks in one process: the other one computes its gradients on batches of its own, and both are averaged."""
    run = _loop(r, seed, models=("perceptron", "residual", "transformer"))
    twin = copy.deepcopy(run.model)
    other = type(run.optimizer)(twin.parameters(), **_defaults(run.optimizer))
    few = r.sample(range(len(list(twin.parameters()))), 2)

    def reduce() -> None:
        twin.zero_grad()
        rows = [run.random.randrange(len(run.x)) for _ in range(run.batch)]
        F.cross_entropy(twin(run.x[rows]), run.y[rows]).backward()
        for i, (a, b) in enumerate(zip(run.model.parameters(), twin.parameters(), strict=True)):
            if a.grad is not None and b.grad is not None and not (run.step >= at and i in few):
                a.grad.copy_((a.grad + b.grad) / 2)
                b.grad.copy_(a.grad)

    def gather(own: Tensor) -> Tensor:
        grads = [p.grad if p.grad is not None else torch.zeros(1) for p in twin.parameters()]
        return torch.stack([own, checksums([*twin.parameters(), *grads])])

    run.watch(replicas=gather)
    run.since(1, "gradient", reduce)
    run.since(1, "end", other.step)
    return run


def _defaults(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    skip = {"params", "decoupled_weight_decay"}
    return {k: v for k, v in optimizer.param_groups[0].items() if k not in skip}


# -- memory ------------------------------------------------------------------------------------------------------------


@fault("bit flip in weight")
def bit_flip_in_a_weight(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    p = r.choice(list(run.model.parameters()))
    run.at(at, "begin", lambda: _flip(p, r))
    return run


@fault("bit flip in gradient")
def bit_flip_in_a_gradient(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    p = _weight(run, r)
    run.at(at, "gradient", lambda: _flip(p.grad, r) if p.grad is not None else None)
    return run


@fault("bit flip in momentum")
def bit_flip_in_a_momentum_buffer(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, ("momentum", "nesterov", "adam", "adamw")).watch()
    p = _weight(run, r)

    def flip() -> None:
        tensors = [t for t in run.optimizer.state[p].values() if isinstance(t, Tensor) and t.shape == p.shape]
        _flip(r.choice(tensors), r)

    run.at(at, "begin", flip)
    return run


# -- the optimizer -----------------------------------------------------------------------------------------------------


@fault("edited weights")
def weights_edited_between_steps(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    p = _weight(run, r)

    def edit() -> None:
        how = r.randrange(3)
        with torch.no_grad():
            if how == 0:
                p.clamp_(-0.1, 0.1)
            elif how == 1:
                p.data.mul_(0.9)
            else:
                p.add_(torch.randn_like(p), alpha=1e-3)

    run.at(at, "begin", edit)
    return run


@fault("second optimizer")
def second_optimizer_on_the_same_weights(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    some = r.sample(list(run.model.parameters()), 2)
    second = r.choice([torch.optim.SGD(some, lr=1e-3), torch.optim.AdamW(some, lr=1e-3)])
    run.since(at, "end", second.step)
    return run


@fault("second optimizer")
def update_by_hand_beside_the_optimizer(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed).watch()
    p = _weight(run, r)
    run.since(at, "end", lambda: p.data.add_(p.grad, alpha=-1e-3) if p.grad is not None else None)
    return run


@fault("settings")
def group_with_other_settings(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, groups=True).watch()
    group = r.choice(run.optimizer.param_groups)
    key = r.choice(["lr", "weight_decay"])
    run.at(at, "begin", lambda: group.update({key: 0.5 * group["lr"] if key == "lr" else 0.05}))
    return run


@fault("settings", from_the_start=True)
def group_unlike_its_declaration(r: random.Random, seed: int, at: int) -> Loop:
    """From the start: biases were meant to be left without decay."""
    run = _loop(r, seed, ("momentum", "adamw"))
    return run.watch(expect={"*bias": {"weight_decay": 0.0}})


def _patched(run: Loop, at: int, change: Callable[[dict[str, Any]], None]) -> None:
    """From step `at` on the code behind the optimizer's step is handed other numbers than its param groups hold."""
    kind = "sgd" if isinstance(run.optimizer, torch.optim.SGD) else "adam"
    module: Any = import_module(f"torch.optim.{kind}")
    true = getattr(module, kind)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        change(kwargs)
        return true(*args, **kwargs)

    iterate = run.iterate

    def patched() -> None:
        setattr(module, kind, wrong if run.step + 1 >= at else true)
        try:
            iterate()
        finally:
            setattr(module, kind, true)

    run.iterate = patched  # type: ignore[method-assign]


@fault("learning rate")
def learning_rate_not_applied(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, schedule=True).watch()
    lr = r.choice([0.0, 1.0]) * float(run.optimizer.param_groups[0]["lr"])
    _patched(run, at, lambda kwargs: kwargs.update(lr=lr))
    return run


@fault("weight decay")
def weight_decay_not_applied(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, ("sgd", "momentum", "adamw")).watch()
    _patched(run, at, lambda kwargs: kwargs.update(weight_decay=0.0))
    return run


@fault("momentum")
def momentum_not_applied_as_set(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, ("momentum", "nesterov")).watch()
    _patched(run, at, lambda kwargs: kwargs.update(momentum=0.8))
    return run


@fault("not held", from_the_start=True)
def layer_that_no_optimizer_holds(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed)
    params = list(run.model.parameters())
    run.optimizer = torch.optim.SGD(params[:-2], lr=0.05, momentum=r.choice([0.0, 0.9]))
    return run.watch()


# -- checkpoints -------------------------------------------------------------------------------------------------------


@fault("momentum lost")
def momentum_lost_in_mid_run(r: random.Random, seed: int, at: int) -> Loop:
    run = _loop(r, seed, ("momentum", "nesterov", "adam", "adamw")).watch()
    how = r.randrange(3)

    def lose() -> None:
        if how == 0:
            run.optimizer.state.clear()
        elif how == 1:
            run.optimizer = type(run.optimizer)(run.model.parameters(), **_defaults(run.optimizer))
        else:
            for state in run.optimizer.state.values():
                for key, t in state.items():
                    if isinstance(t, Tensor) and key != "step":
                        t.zero_()

    run.at(at, "begin", lose)
    return run


@fault("momentum lost")
def checkpoint_without_momentum(r: random.Random, seed: int, at: int) -> Loop:
    return _restored(r, seed, at, ("momentum", "nesterov", "adam", "adamw"), "momentum")


@fault("step count lost")
def step_count_lost(r: random.Random, seed: int, at: int) -> Loop:
    if r.random() < 0.5:
        return _restored(r, seed, at, ("adam", "adamw"), "steps")
    run = _loop(r, seed, ("adam", "adamw")).watch()
    run.at(at, "begin", lambda: [state["step"].zero_() for state in run.optimizer.state.values()])
    return run


@fault("wrong checkpoint")
def checkpoint_with_older_weights(r: random.Random, seed: int, at: int) -> Loop:
    return _restored(r, seed, at, ANY_OPTIMIZER, "weights")


@fault("schedule lost")
def checkpoint_without_schedule(r: random.Random, seed: int, at: int) -> Loop:
    return _restored(r, seed, at, ANY_OPTIMIZER, "schedule")


def _restored(r: random.Random, seed: int, at: int, optimizers: tuple[str, ...], lost: str) -> Loop:
    """A run that was saved at step `at`, and goes on in fresh objects; `lost` is what was not restored."""
    name, kind, dtype = r.choice(ANY_MODEL), r.choice(optimizers), r.choice(DTYPES)
    first = loop(name, kind, dtype, seed, schedule=True).watch()
    older = copy.deepcopy(first.model.state_dict())
    first.run(at // 2)
    older = copy.deepcopy(first.model.state_dict()) if lost == "weights" else older
    first.run(at - 1 - at // 2)
    assert first.probe is not None
    saved: dict[str, Any] = copy.deepcopy(
        {
            "model": first.model.state_dict(),
            "optimizer": first.optimizer.state_dict(),
            "probe": first.probe.state_dict(),
        }
    )
    first.probe.remove()
    run = loop(name, kind, dtype, seed + 1000, schedule=True)
    run.x, run.y = first.x, first.y
    run.model.load_state_dict(older if lost == "weights" else saved["model"])
    if lost == "steps":
        for state in saved["optimizer"]["state"].values():
            state["step"] = torch.zeros_like(state["step"])
    rate = run.optimizer.param_groups[0]["lr"]
    if lost == "momentum":
        saved["optimizer"]["state"] = {}
    run.optimizer.load_state_dict(saved["optimizer"])
    if lost == "schedule":
        for group in run.optimizer.param_groups:
            group["lr"] = rate
    run.probe = neuromech.instrument(run.model)
    run.probe.load_state_dict(saved["probe"])
    run.monitor = run.probe.monitor(run.faults.append)
    run.faults += first.faults
    run.step = at - 1
    run.schedule = None
    return run
