"""Public silent bugs, each small and with its healthy twin: `run(faulty)` trains, and the monitor names the cause."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from experiments.silent_bugs.nets import Language, Watched, data, loss_of, perceptron, rows, steps, tokens
from experiments.silent_bugs.practice import gradient, perturb, sgd
from neuromech.monitor.checksum import checksums

AT, STEPS = 8, 16
X, Y = data()


@dataclass(frozen=True)
class Bug:
    """`source`: where it was reported; `cause`: what is to be named; `at`: the iteration in which it sets in."""

    name: str
    source: str
    cause: str
    at: int
    run: Callable[[bool], Watched]


BUGS: dict[str, Bug] = {}


def bug(source: str, cause: str, at: int = AT) -> Callable[[Callable[[bool], Watched]], Callable[[bool], Watched]]:
    def enter(run: Callable[[bool], Watched]) -> Callable[[bool], Watched]:
        name = run.__name__.replace("_", " ")
        BUGS[name] = Bug(name, source, cause, at, run)
        return run

    return enter


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), **({"lr": 2e-3, "weight_decay": 1e-2} | options))


# -- between backward and step -----------------------------------------------------------------------------------------


@bug("stackoverflow 60335387 (TrainCheck)", "not cleared", 2)
def gradients_never_cleared(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched:
        if k > STEPS:
            break
        if not faulty:
            optimizer.zero_grad()
        loss_of(model, k, X, Y).backward()
        optimizer.step()
    return watched


def _cleared_early(faulty: bool, to_none: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    steps(watched, model, optimizer, STEPS, gradient=lambda k: faulty and optimizer.zero_grad(set_to_none=to_none))
    return watched


@bug("discuss.pytorch.org (common)", "zeroed gradient", 1)
def cleared_ahead_of_the_step(faulty: bool) -> Watched:
    return _cleared_early(faulty, False)


@bug("discuss.pytorch.org (common)", "zeroed gradient", 1)
def set_to_none_ahead_of_the_step(faulty: bool) -> Watched:
    return _cleared_early(faulty, True)


@bug("accelerate (common)", "dropped gradient", 1)
def cleared_inside_of_accumulation(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        for part in range(3):
            if faulty:
                optimizer.zero_grad()
            (loss_of(model, 3 * k + part, X, Y) / 3).backward()
        optimizer.step()
    return watched


@bug("discuss.pytorch.org (common)", "doubled gradient")
def one_loss_sent_back_twice(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        loss = loss_of(model, k, X, Y)
        if faulty and k >= AT:
            loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
    return watched


@bug("huggingface/accelerate#113", "modified gradient")
def unscaled_twice(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        (loss_of(model, k, X, Y) * 1024.0).backward()
        for p in model.parameters():
            gradient(p).div_(1024.0**2 if faulty and k >= AT else 1024.0)
        optimizer.step()
    return watched


@bug("milesial/Pytorch-UNet#468", "modified gradient", 1)
def clipped_before_unscaling(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model, clip_norm=0.1), adamw(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        (loss_of(model, k, X, Y) * 1024.0).backward()
        for scaled in (faulty, not faulty):
            if scaled:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            else:
                for p in model.parameters():
                    gradient(p).div_(1024.0)
        optimizer.step()
    return watched


# -- who is stepped ----------------------------------------------------------------------------------------------------


@bug("huggingface/accelerate#2665, pytorch#149205", "not held", 1)
def optimizer_of_another_copy(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(copy.deepcopy(model) if faulty else model)
    for k in watched:
        if k > STEPS:
            break
        model.zero_grad()
        optimizer.zero_grad()
        loss = loss_of(model, k, X, Y)
        loss.backward()
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        optimizer.step()
    return watched


@bug("huggingface/transformers (head added after the optimizer)", "not held", 1)
def head_that_no_optimizer_holds(faulty: bool) -> Watched:
    model = perceptron()
    held = model[:4] if faulty else model
    watched, optimizer = Watched(model), torch.optim.AdamW(held.parameters(), lr=2e-3)
    steps(watched, model, optimizer, STEPS)
    return watched


class Skipping(torch.optim.AdamW):
    """Skips its work for what it takes for an overflow, and says nothing."""

    faulty = True

    def step(self, closure: Any = None) -> Any:
        return None if self.faulty else super().step(closure)


@bug("NVIDIA/TransformerEngine#3207", "nothing moved", 1)
def step_that_is_skipped(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), Skipping(model.parameters(), lr=1e-3)
    optimizer.faulty = faulty
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("pytorch#1489 and others (a group built from two lists)", "second optimizer", 1)
def parameter_twice_in_a_group(faulty: bool) -> Watched:
    import warnings

    model = perceptron()
    params = list(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = torch.optim.SGD(params + (params[:1] if faulty else []), lr=0.05)
    watched = Watched(model)
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("huggingface/transformers (resized embeddings)", "replaced")
def tied_weights_untied(faulty: bool) -> Watched:
    model = Language(tied=True)
    watched, optimizer = Watched(model), adamw(model)
    for k in watched:
        if k > STEPS:
            break
        if faulty and k == AT:
            model.head.weight = nn.Parameter(model.head.weight.detach().clone())
        model.zero_grad()
        ids = tokens(16, k)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched


# -- the step ----------------------------------------------------------------------------------------------------------


@bug("flagos-ai/FlagGems#4988", "weight decay", 1)
def decay_of_the_wrong_kind(faulty: bool) -> Watched:
    module: Any = import_module("torch.optim.adam")
    kernel = module.adam

    def decoupled(params: list[Tensor], *tensors: Any, lr: float, weight_decay: float, **other: Any) -> None:
        for p in params:
            p.mul_(1 - lr * weight_decay)
        kernel(params, *tensors, lr=lr, weight_decay=0.0, **other)

    model = perceptron()
    watched, optimizer = Watched(model), torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=0.1)
    module.adam = decoupled if faulty else kernel
    try:
        steps(watched, model, optimizer, STEPS)
    finally:
        module.adam = kernel
    return watched


@torch.no_grad()
def _shrink(optimizer: torch.optim.Optimizer, decay: float) -> None:
    for group in optimizer.param_groups:
        group["weight_decay"] = decay
        for p in group["params"]:
            p.mul_(1 - group["lr"] * decay)


@bug("huggingface/pytorch-image-models#2750", "weight decay", 1)
def decayed_twice(faulty: bool) -> Watched:
    model = perceptron()
    optimizer = adamw(model, weight_decay=0.1)
    watched = Watched(model)
    if faulty:
        optimizer.register_step_post_hook(lambda o, *_: _shrink(o, 0.1))
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("pytorch#115607 (TrainCheck)", "step count lost", AT + 1)
def step_count_that_stands_still(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)

    def stop(k: int) -> None:
        if faulty and k >= AT:
            for state in optimizer.state.values():
                state["step"].fill_(AT - 1)

    steps(watched, model, optimizer, STEPS, end=stop)
    return watched


@bug("pytorch/torchtune#2254, speculators#765, OneTrainer#996", "lost updates", 1)
def updates_lost_to_rounding(faulty: bool) -> Watched:
    model = perceptron().to(torch.bfloat16 if faulty else torch.float32)
    watched, optimizer = Watched(model), adamw(model, lr=1e-5)
    x = X.to(torch.bfloat16 if faulty else torch.float32)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows(k)]).float(), Y[rows(k)]).backward()
        optimizer.step()
    return watched


# -- state and settings ------------------------------------------------------------------------------------------------


@bug("KempnerInstitute/KempnerForge#114, #115", "momentum lost")
def optimizer_made_anew(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    steps(watched, model, optimizer, AT - 1)
    watched.iteration -= 1
    steps(watched, model, adamw(model) if faulty else optimizer, STEPS)
    return watched


@bug("pytorch#1489", "edited state")
def state_loaded_in_another_order(faulty: bool) -> Watched:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    watched, optimizer = Watched(model), adamw(model)
    steps(watched, model, optimizer, AT - 1)
    watched.iteration -= 1
    a, b, *rest = (list(m.parameters()) for m in (model[0], model[2], model[4]))
    order = [*b, *a] if faulty else [*a, *b]
    other = torch.optim.AdamW([*order, *rest[0]], lr=2e-3, weight_decay=1e-2)
    other.load_state_dict(optimizer.state_dict())
    del optimizer
    steps(watched, model, other, STEPS)
    return watched


def _resumed(faulty: bool, lose: Callable[[dict[str, Any]], None], **options: Any) -> Watched:
    """Saved ahead of iteration `AT`, and gone on with in a new model, optimizer and probe."""
    model = perceptron()
    first, optimizer = Watched(model, **options), adamw(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    steps(first, model, optimizer, AT - 1, end=lambda _: schedule.step())
    saved = copy.deepcopy({
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "probe": first.probe.state_dict(),
    })  # fmt: skip
    first.probe.remove()
    if faulty:
        lose(saved)
    model = perceptron(seed=9)
    model.load_state_dict(saved["model"])
    optimizer = adamw(model)
    optimizer.load_state_dict(saved["optimizer"])
    watched = Watched(model, **options)
    watched.probe.load_state_dict(saved["probe"])
    watched.monitor.go_on(AT - 1, saved["probe"]["monitor"])
    watched.iteration = AT - 1
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("ultralytics/yolov5#292", "schedule lost")
def schedule_that_starts_over(faulty: bool) -> Watched:
    return _resumed(faulty, lambda saved: saved["optimizer"]["param_groups"][0].update(lr=2e-3))


@bug("pytorch#103256", "step count lost")
def step_count_not_restored(faulty: bool) -> Watched:
    def lose(saved: dict[str, Any]) -> None:
        for state in saved["optimizer"]["state"].values():
            state["step"].zero_()

    return _resumed(faulty, lose)


@bug("NVIDIA/Megatron-LM#6920", "wrong checkpoint")
def another_model_is_resumed(faulty: bool) -> Watched:
    return _resumed(faulty, lambda saved: saved.update(model=perceptron(seed=5).state_dict()))


@bug("huggingface/accelerate#2926", "settings", 1)
def schedule_on_the_wrong_step(faulty: bool) -> Watched:
    model = perceptron()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.95**k)
    watched = Watched(model, expect={"lr": lambda step: 0.05 * 0.95 ** (step - 1)})
    if faulty:
        schedule.step()
    steps(watched, model, optimizer, STEPS, end=lambda _: schedule.step())
    return watched


@bug("huggingface/transformers (one group adjusted)", "settings")
def rate_of_one_group(faulty: bool) -> Watched:
    model = perceptron()
    groups = [{"params": model[:2].parameters()}, {"params": model[2:].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    watched = Watched(model)

    def adjust(k: int) -> None:
        for group in optimizer.param_groups[: 1 if faulty else 2] if k >= AT else ():
            group["lr"] = 0.01

    steps(watched, model, optimizer, STEPS, begin=adjust)
    return watched


# -- weights and model -------------------------------------------------------------------------------------------------


@bug("mlcommons/algorithmic-efficiency#325", "edited weights", 2)
def perturbation_that_is_not_restored(faulty: bool) -> Watched:
    model = perceptron(norm=True)
    watched, optimizer = Watched(model), sgd(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        loss_of(model, k, X, Y).backward()
        es = perturb(model)
        optimizer.zero_grad()
        loss_of(model, k, X, Y).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), es, strict=True):
                p.sub_(0.0 * e if faulty else e)
        optimizer.step()
    return watched


@bug("timm, diffusers (averaged weights left in place)", "edited weights", AT + 1)
def averaged_weights_left_in_place(faulty: bool) -> Watched:
    model = perceptron()
    watched, average = Watched(model), copy.deepcopy(model)

    def swap(k: int) -> None:
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 0.1)
        if k == AT:
            kept = copy.deepcopy(model.state_dict())
            model.load_state_dict(average.state_dict())
            if not faulty:
                model.load_state_dict(kept)

    steps(watched, model, sgd(model), STEPS, end=swap)
    return watched


@bug("pyg-team/gt-pyg#112", "evaluation mode")
def frozen_norm_woken(faulty: bool) -> Watched:
    model = perceptron(norm=True)
    model[1].eval()
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS, begin=lambda k: model.train() if faulty and k == AT else None)
    return watched


@bug("discuss.pytorch.org (common)", "evaluation mode")
def training_goes_on_in_evaluation(faulty: bool) -> Watched:
    model = perceptron(norm=True)
    watched = Watched(model)

    def evaluate(k: int) -> None:
        if k == AT:
            model.eval()
            with torch.no_grad():
                model(X)
            if not faulty:
                model.train()

    steps(watched, model, sgd(model), STEPS, begin=evaluate)
    return watched


class Checkpointed(nn.Module):
    def __init__(self, faulty: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)
        self.middle = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 16))
        self.faulty = faulty

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        out: Tensor = self.last(checkpoint(self.middle, h, use_reentrant=False, preserve_rng_state=not self.faulty))
        return out


@bug("torch.utils.checkpoint (preserve_rng_state=False)", "wrong backward", 1)
def recomputed_with_other_dropout(faulty: bool) -> Watched:
    model = Checkpointed(faulty)
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


class Rectifier(torch.autograd.Function):
    """A fused kernel whose backward lets through what the forward stopped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.leak = leak
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grads[0], ctx.leak * grads[0]), None


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leak = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Rectifier.apply(x, self.leak)  # type: ignore[no-untyped-call]
        return out


@bug("fused kernels (TTrace, TrainCheck)", "wrong backward", 1)
def kernel_with_a_wrong_backward(faulty: bool) -> Watched:
    model = perceptron()
    model[3] = Fused()
    model[3].leak = 0.1 if faulty else 0.0  # type: ignore[assignment]
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


@bug("huggingface/peft (encoder under no_grad)", "detached")
def branch_cut_off(faulty: bool) -> Watched:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.cut = False

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            side = self.b(h)
            out: Tensor = self.c(F.relu(side.detach() if self.cut else side))
            return out

    model = Two()
    watched = Watched(model)
    steps(watched, model, sgd(model), 4 * STEPS, begin=lambda k: setattr(model, "cut", faulty and k >= AT))
    return watched


@bug("pytorch#160016 (common)", "not finite")
def batch_with_a_nan(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched:
        if k > AT + 1:
            break
        optimizer.zero_grad()
        x = X[rows(k)].clone()
        if faulty and k == AT:
            x[0, 0] = float("nan")
        F.cross_entropy(model(x), Y[rows(k)]).backward()
        optimizer.step()
    return watched


# -- ranks: two models in one process, compared by a gather of their checksums ----------------------------------------


def _two_ranks(faulty: bool, spoil: Callable[[int, nn.Module, nn.Module], None], late: bool = False) -> Watched:
    ranks = [perceptron(), perceptron()]
    mine, other = ranks

    def gather(own: Tensor) -> Tensor:
        zero = torch.zeros(1, dtype=torch.int8)
        tensors = [*other.parameters(), *(zero if p.grad is None else p.grad for p in other.parameters())]
        return torch.stack([own, checksums(tensors)])

    watched = Watched(mine, replicas=gather)
    optimizers = [sgd(m) for m in ranks]
    for k in watched:
        if k > STEPS:
            break
        for rank, model in enumerate(ranks):
            model.zero_grad()
            loss_of(model, 2 * k + rank, X, Y).backward()
        if not (late and faulty and k >= AT):
            _all_reduce(mine, other)
        if faulty and k >= AT:
            spoil(k, mine, other)
        for optimizer in optimizers:
            optimizer.step()
    return watched


@torch.no_grad()
def _all_reduce(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        mean = (gradient(p) + gradient(q)) / 2
        gradient(p).copy_(mean)
        gradient(q).copy_(mean)


@bug("pytorch#187732 (DDP stops reducing)", "not reduced")
def gradients_no_longer_reduced(faulty: bool) -> Watched:
    return _two_ranks(faulty, lambda *_: None, late=True)


def _clip_the_other(k: int, a: nn.Module, b: nn.Module) -> None:
    nn.utils.clip_grad_norm_(b.parameters(), 1e-3)


@bug("deepspeed#1801 (BLOOM-176B; TrainCheck)", "not reduced")
def clipped_on_one_rank(faulty: bool) -> Watched:
    return _two_ranks(faulty, _clip_the_other)


@bug("pytorch#84803, #96600 (TrainCheck)", "replicas differ", AT + 1)
def ranks_that_drift(faulty: bool) -> Watched:
    @torch.no_grad()
    def drift(k: int, a: nn.Module, b: nn.Module) -> None:
        next(iter(b.parameters())).mul_(1 + 1e-3)

    return _two_ranks(faulty, drift)
