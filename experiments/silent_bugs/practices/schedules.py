"""What people rightly change in the course of a run: rates, batches, dropout, what is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import Language, Watched, data, loss_of, perceptron, sgd, steps, tokens
from experiments.silent_bugs.practice import STEPS, practice

# -- rates -------------------------------------------------------------------------------------------------------------


@practice
def rate_of_zero(seed: int) -> Watched:
    """A dry run, to look at gradients alone."""
    model = perceptron(seed, norm=True)
    watched = Watched(model)
    steps(watched, model, sgd(model, lr=0.0), STEPS)
    return watched


@practice
def one_group_at_rate_zero(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model)
    first, rest = model[0].parameters(), model[2:].parameters()
    groups: list[dict[str, Any]] = [{"params": first, "lr": 0.0}, {"params": rest}]
    steps(watched, model, torch.optim.AdamW(groups, lr=1e-3), STEPS)
    return watched


@practice
def long_warm_up_of_a_zero_gain(seed: int) -> Watched:
    """A residual branch that begins at zero (ReZero, zero-initialised gains): what is inside of it rests meanwhile."""
    model = Gated(seed)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps(watched, model, optimizer, 80, begin=lambda k: optimizer.param_groups[0].update(lr=1e-3 * max(0, k - 60)))
    return watched


class Gated(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        out: Tensor = self.c(h + self.gain * F.relu(self.b(h)))
        return out


def _scheduled(seed: int, make: Callable[[torch.optim.Optimizer], Any], adam: bool = False) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3) if adam else sgd(model)
    scheduler = make(optimizer)
    steps(watched, model, optimizer, STEPS, end=lambda k: scheduler.step())
    return watched


@practice
def one_cycle(seed: int) -> Watched:
    """Learning rate and momentum go round."""
    one = torch.optim.lr_scheduler.OneCycleLR
    return _scheduled(seed, lambda o: one(o, max_lr=0.05, total_steps=STEPS + 1), adam=bool(seed % 2))


@practice
def warm_restarts(seed: int) -> Watched:
    return _scheduled(seed, lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 7))


@practice
def linear_to_zero(seed: int) -> Watched:
    return _scheduled(seed, lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS - 3), adam=True)


@practice
def plateau(seed: int) -> Watched:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)

        class Constant:
            def step(self) -> None:
                scheduler.step(1.0)

        return Constant()

    return _scheduled(seed, make)


# -- batches -----------------------------------------------------------------------------------------------------------


@practice
def growing_batches(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        n = (1, 3, 8, 32, 128)[k // 6 % 5]
        F.cross_entropy(model(x[:n]), y[:n]).backward()
        optimizer.step()
    return watched


@practice
def uneven_last_batch(seed: int) -> Watched:
    """Gradients are accumulated, and the epoch ends with fewer micro-batches, the last of them smaller."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        sizes = (16, 16, 16, 16) if k % 5 else (16, 7)
        start = 0
        for n in sizes:
            out = model(x[start : start + n])
            (F.cross_entropy(out, y[start : start + n], reduction="sum") / sum(sizes)).backward()
            start += n
        optimizer.step()
    return watched


@practice
def more_micro_batches(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        many = 1 + k // 10
        for part in range(many):
            (loss_of(model, many * k + part, x, y) / many).backward()
        optimizer.step()
    return watched


@practice
def growing_context(seed: int) -> Watched:
    model = Language(seed)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        ids = tokens(16, k)[:, : 2 + 2 * (k // 10)]
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched


@practice
def batches_left_out(seed: int) -> Watched:
    """A batch that somebody does not like is left out behind its backward."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        if k % 4 == 3:
            optimizer.zero_grad()
            continue
        optimizer.step()
    return watched


@practice
def gradients_kept_as_zeros(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad(set_to_none=False)
        loss_of(model, k, x, y).backward()
        optimizer.step()
    return watched


# -- losses ------------------------------------------------------------------------------------------------------------


@practice
def smoothing_and_weights_of_a_loss(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        weight = torch.tensor([1.0, 2.0, 0.5, 1.0]) if k > 15 else None
        out = model(x[:32])
        ((1 + k / 30) * F.cross_entropy(out, y[:32], weight=weight, label_smoothing=0.01 * (k // 3))).backward()
        optimizer.step()
    return watched


@practice
def dropout_by_schedule(seed: int) -> Watched:
    torch.manual_seed(seed)
    drop = nn.Dropout(0.0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), drop, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS, begin=lambda k: setattr(drop, "p", 0.02 * k))
    return watched


@practice
def margin_that_is_kept(seed: int) -> Watched:
    """A hinge loss is zero once every margin is kept: so are all gradients, and nothing is wrong."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in watched.until(4 * STEPS):
        optimizer.zero_grad()
        F.multi_margin_loss(model(x[:8]), y[:8], margin=0.1).backward()
        optimizer.step()
    return watched


class Heads(nn.Module):
    """Two tasks on one trunk."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(12, 16), nn.ReLU())
        self.first, self.second = (nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.first(h), self.second(h)


@practice
def task_that_ends(seed: int) -> Watched:
    """The weight of an auxiliary loss goes to zero by plan."""
    model, (x, y) = Heads(seed), data()
    watched, optimizer = Watched(model, allow="freezing"), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(3 * STEPS):
        optimizer.zero_grad()
        first, second = model(x[:32])
        (F.cross_entropy(first, y[:32]) + max(0.0, 1 - k / 20) * F.cross_entropy(second, y[:32])).backward()
        optimizer.step()
    return watched


@practice
def tasks_in_turn(seed: int) -> Watched:
    model, (x, y) = Heads(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(2 * STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x[:32])[k % 2], y[:32]).backward()
        optimizer.step()
    return watched


@practice
def two_losses_of_one_forward(seed: int) -> Watched:
    model, (x, y) = Heads(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for _ in watched.until(STEPS):
        optimizer.zero_grad()
        first, second = model(x[:32])
        F.cross_entropy(first, y[:32]).backward(retain_graph=True)
        F.cross_entropy(second, y[:32]).backward()
        optimizer.step()
    return watched


# -- what is trained ---------------------------------------------------------------------------------------------------


@practice
def thawed_layer_by_layer(seed: int) -> Watched:
    model = perceptron(seed)
    for i in (0, 2):
        model[i].requires_grad_(False)
    watched = Watched(model)

    def thaw(k: int) -> None:
        if k in (10, 20):
            model[2 if k == 10 else 0].requires_grad_(True)

    steps(watched, model, sgd(model), STEPS, begin=thaw)
    return watched


@practice
def groups_that_are_added(seed: int) -> Watched:
    model = perceptron(seed)
    for i in (0, 2):
        model[i].requires_grad_(False)
    watched, optimizer = Watched(model), sgd(model[4])

    def add(k: int) -> None:
        if k in (10, 20):
            layer = model[2 if k == 10 else 0].requires_grad_(True)
            optimizer.add_param_group({"params": list(layer.parameters()), "lr": 0.01})

    steps(watched, model, optimizer, STEPS, begin=add)
    return watched


@practice
def biases_alone(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    for name, p in model.named_parameters():
        p.requires_grad_("bias" in name)
    watched = Watched(model)
    steps(watched, model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3), STEPS)
    return watched


@practice
def decay_of_one_group_by_hand(seed: int) -> Watched:
    """DINO: the decay of what is decayed grows from step to step, and the learning rate of all."""
    model = perceptron(seed)
    groups = [[p for p in model.parameters() if (p.ndim > 1) is decayed] for decayed in (True, False)]
    first, second = ({"params": group, "weight_decay": w} for group, w in zip(groups, (0.04, 0.0), strict=True))
    watched, optimizer = Watched(model), torch.optim.AdamW([first, second], lr=1e-3)

    def schedule(k: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * k / STEPS
        optimizer.param_groups[0]["weight_decay"] = 0.04 + 0.36 * k / STEPS

    steps(watched, model, optimizer, STEPS, begin=schedule)
    return watched


@practice
def trunk_that_warms_up_late(seed: int) -> Watched:
    model = perceptron(seed)
    watched, optimizer = Watched(model), torch.optim.AdamW(model[:4].parameters(), lr=0.0)
    optimizer.add_param_group({"params": model[4].parameters(), "lr": 1e-3})

    def schedule(k: int) -> None:
        optimizer.param_groups[0]["lr"] = 1e-5 * max(0, min(k - 10, 10))

    steps(watched, model, optimizer, STEPS, begin=schedule)
    return watched
