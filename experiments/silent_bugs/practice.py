"""What people rightly do, and a monitor that looks at single steps could take for a fault. Nothing here is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.silent_bugs.nets import Language, Watched, data, loss_of, perceptron, rows, steps, tokens

Practice = Callable[[int], Watched]
PRACTICES: dict[str, Practice] = {}
STEPS = 30


def practice(make: Practice) -> Practice:
    PRACTICES[make.__name__.replace("_", " ")] = make
    return make


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3} | options))


# -- settings and state ------------------------------------------------------------------------------------------------


class Counting(torch.optim.SGD):
    """Counts in its param groups, as many optimizers of other libraries do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["average"] = 0.9 * group.get("average", 0.0) + group["k"]
        return super().step(closure)


@practice
def counter_in_group(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model)
    steps(watched, model, Counting(model.parameters(), lr=0.05, momentum=0.9), STEPS)
    return watched


@practice
def adapted_rate(seed: int) -> Watched:
    """An optimizer that finds its learning rate by itself, and writes it into its group."""

    class Adapting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            out = super().step(closure)
            for group in self.param_groups:
                group["lr"] *= 0.99
                group["weight_decay"] *= 1.01
            return out

    model = perceptron(seed)
    watched = Watched(model)
    steps(watched, model, Adapting(model.parameters(), lr=0.05, weight_decay=1e-3), STEPS)
    return watched


@practice
def hand_over_to_sgd(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model, allow="handover")
    first, second = torch.optim.Adam(model.parameters(), lr=1e-3), sgd(model)
    steps(watched, model, first, STEPS // 2)
    watched.iteration -= 1
    steps(watched, model, second, STEPS)
    return watched


@practice
def schedule_of_decay(seed: int) -> Watched:
    model = perceptron(seed)
    watched, optimizer = Watched(model, scheduled=("lr", "weight_decay")), sgd(model)
    steps(watched, model, optimizer, STEPS, begin=lambda k: optimizer.param_groups[0].update(weight_decay=1e-4 * k))
    return watched


@practice
def planned_freezing(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model, allow="freezing")

    def freeze(k: int) -> None:
        if k == 10:
            model[0].requires_grad_(False)
            model[0].zero_grad()
        if k == 20:
            model[0].requires_grad_(True)

    steps(watched, model, sgd(model), STEPS, begin=freeze)
    return watched


@practice
def warm_up_from_zero(seed: int) -> Watched:
    model = perceptron(seed)
    watched, optimizer = Watched(model), sgd(model)
    steps(watched, model, optimizer, STEPS, begin=lambda k: optimizer.param_groups[0].update(lr=0.01 * (k // 3)))
    return watched


# -- gradients taken elsewhere -----------------------------------------------------------------------------------------


def perturb(model: nn.Module, rho: float = 0.05) -> list[Tensor]:
    """Up along the gradient; returns the perturbation."""
    params = [p for p in model.parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in params if p.grad is not None]).norm() + 1e-12
    with torch.no_grad():
        es = [rho * p.grad / norm for p in params if p.grad is not None]
        for p, e in zip(params, es, strict=True):
            p.add_(e)
    return es


@practice
def sharpness_aware_by_hand(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched, optimizer = Watched(model, allow="sam"), sgd(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        es = perturb(model)
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), es, strict=True):
                p.sub_(e)
        optimizer.step()
    return watched


class SAM(torch.optim.Optimizer):
    """As in davda54/sam: first_step climbs, second_step goes back and steps."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm() + 1e-12
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["old"] = p.data.clone()
                    p.add_(group["rho"] * p.grad / norm)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old"]
        self.base.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        closure = torch.enable_grad()(closure)
        self.first_step()
        loss = closure()
        self.second_step()
        return loss


def _sam(seed: int, closure: bool) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model, allow="sam")
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    for k in watched:
        if k > STEPS:
            break
        if closure:

            def evaluate(k: int = k) -> Tensor:
                loss = loss_of(model, k, x, y)
                loss.backward()
                return loss

            evaluate()
            optimizer.step(evaluate)
            optimizer.zero_grad()
        else:
            loss_of(model, k, x, y).backward()
            optimizer.first_step()
            loss_of(model, k, x, y).backward()
            optimizer.second_step()
    return watched


@practice
def sharpness_aware_in_two_steps(seed: int) -> Watched:
    return _sam(seed, closure=False)


@practice
def sharpness_aware_with_closure(seed: int) -> Watched:
    return _sam(seed, closure=True)


@practice
def perturb_look_and_restore(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model)
    torch.manual_seed(seed)

    @torch.no_grad()
    def look(k: int) -> None:
        d = [0.01 * torch.randn_like(p) for p in model.parameters()]
        for p, e in zip(model.parameters(), d, strict=True):
            p.add_(e)
        loss_of(model, k, x, y)
        for p, e in zip(model.parameters(), d, strict=True):
            p.sub_(e)

    steps(watched, model, sgd(model), STEPS, end=look)
    return watched


@practice
def steps_along_the_flow(seed: int) -> Watched:
    return _flow(seed, 1, "gradients")


@practice
def steps_along_the_flow_by_products(seed: int) -> Watched:
    return _flow(seed, 1, "hvp")


@practice
def steps_along_the_flow_order_0(seed: int) -> Watched:
    return _flow(seed, 0, "gradients")


def _flow(seed: int, order: int, backend: Any) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model)
    optimizer = neuromech.EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), order=order, backend=backend)
    for k in watched:
        if k > STEPS:
            break
        optimizer.step(partial(loss_of, model, k, x, y))
    return watched


# -- the loss ----------------------------------------------------------------------------------------------------------


def matrix(m: nn.Sequential) -> Tensor:
    return m.get_parameter("2.weight")


def total(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([t.sum() for t in tensors]).sum()


def _regularised(seed: int, term: Callable[[nn.Sequential], Tensor], n: int = STEPS, adam: bool = False) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched = Watched(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3) if adam else sgd(model)
    for k in watched:
        if k > n:
            break
        optimizer.zero_grad()
        (loss_of(model, k, x, y) + term(model)).backward()
        optimizer.step()
    return watched


@practice
def penalty_of_absolute_values(seed: int) -> Watched:
    return _regularised(seed, lambda m: 1e-3 * total(p.abs() for p in m.parameters()))


@practice
def penalty_of_squares(seed: int) -> Watched:
    return _regularised(seed, lambda m: 1e-2 * total(p.square() for p in m.parameters()), adam=True)


@practice
def penalty_of_some_squares(seed: int) -> Watched:
    return _regularised(seed, lambda m: 1e-2 * matrix(m).square().sum())


@practice
def orthogonality(seed: int) -> Watched:
    def term(m: nn.Sequential) -> Tensor:
        w = matrix(m)
        return 1e-2 * (w @ w.T - torch.eye(len(w))).square().sum()

    return _regularised(seed, term)


@practice
def pull_to_the_start(seed: int) -> Watched:
    """Elastic weight consolidation, proximal terms, L2-SP: a penalty on the distance from kept weights."""
    kept = [p.detach().clone() for p in perceptron(seed).parameters()]
    return _regularised(
        seed,
        lambda m: 1e-2 * total((p - q).square() for p, q in zip(m.parameters(), kept, strict=True)),
    )


@practice
def penalty_of_outputs(seed: int) -> Watched:
    """The z-loss of large language models: it sees the shift that a softmax does not."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        out = model(x[rows(k)])
        (F.cross_entropy(out, y[rows(k)]) + 1e-2 * out.logsumexp(-1).square().mean()).backward()
        optimizer.step()
    return watched


class Game(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.g = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 12))
        self.d = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.d(self.g(z))
        return out


@practice
def game_in_one_module(seed: int) -> Watched:
    """The fakes are made once, ahead of the discriminator's step, and serve the generator's behind it."""
    game, (x, _) = Game(seed), data()
    watched = Watched(game, allow="alternating")
    first, second = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (game.d, game.g))
    for k in watched:
        if k > STEPS:
            break
        z = torch.randn(16, 4)
        fake = game.g(z)
        game(z)
        first.zero_grad()
        (F.softplus(-game.d(x[rows(k)])).mean() + F.softplus(game.d(fake.detach())).mean()).backward()
        first.step()
        second.zero_grad()
        F.softplus(-game.d(fake)).mean().backward()
        second.step()
    return watched


@practice
def game_with_one_forward_each(seed: int) -> Watched:
    game = Game(seed)
    watched = Watched(game)
    first, second = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (game.d, game.g))
    for k in watched:
        if k > STEPS:
            break
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            game.zero_grad()
            F.softplus(sign * game(torch.randn(16, 4))).mean().backward()
            optimizer.step()
    return watched


# -- what takes part in a step -----------------------------------------------------------------------------------------


class Deep(nn.Module):
    """A layer that is dropped at random, by torch's or Python's numbers."""

    def __init__(self, seed: int, p: float, python: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.p, self.python = p, python

    def forward(self, x: Tensor) -> Tensor:
        import random

        h = F.relu(self.a(x))
        dropped = (random.random() if self.python else float(torch.rand(()))) < self.p
        out: Tensor = self.c(h if self.training and dropped else F.relu(self.b(h)))
        return out


def _dropped(seed: int, p: float, python: bool) -> Watched:
    import random

    random.seed(seed)
    model = Deep(seed, p, python)
    watched = Watched(model)
    steps(watched, model, sgd(model), 2 * STEPS)
    return watched


for _p in (0.02, 0.1, 0.5):
    for _python in (False, True):
        _name = f"layer dropped {_p} {'python' if _python else 'torch'}"
        PRACTICES[_name] = partial(_dropped, p=_p, python=_python)


@practice
def sparse_embedding(seed: int) -> Watched:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.EmbeddingBag(20, 12, sparse=True), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    watched, optimizer, (_, y) = Watched(model), torch.optim.SGD(model.parameters(), lr=0.1), data()
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        F.cross_entropy(model(tokens(16, k)), y[:16]).backward()
        optimizer.step()
    return watched


@practice
def sparse_words(seed: int) -> Watched:
    model = Language(seed, sparse=True)
    watched, optimizer = Watched(model), torch.optim.SGD(model.parameters(), lr=0.1)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        ids = tokens(16, k)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched


def _padded(seed: int, lowest: int) -> Watched:
    model = Language(seed, padding_idx=0)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        ids = tokens(16, k, lowest=lowest if k == 1 else 0)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched


@practice
def padding_row(seed: int) -> Watched:
    return _padded(seed, 0)


@practice
def padding_that_comes_later(seed: int) -> Watched:
    return _padded(seed, 1)


@practice
def optimizer_in_backward(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched = Watched(model)
    own = {p: torch.optim.SGD([p], lr=0.05, momentum=0.9) for p in model.parameters()}

    def step(p: nn.Parameter) -> None:
        own[p].step()
        own[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for k in watched:
        if k > STEPS:
            break
        loss_of(model, k, x, y).backward()
    return watched


# -- gradients that are changed on purpose -----------------------------------------------------------------------------


@practice
def each_clipped_alone(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model)
    steps(
        watched, model, sgd(model), STEPS,
        gradient=lambda k: [nn.utils.clip_grad_norm_([p], 0.05) for p in model.parameters()],
    )  # fmt: skip
    return watched


def gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


@practice
def noise_on_gradients(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model, allow="noise")

    def noise(k: int) -> None:
        if k > 5:
            for p in model.parameters():
                gradient(p).add_(torch.randn_like(p), alpha=0.01)

    steps(watched, model, sgd(model), STEPS, gradient=noise)
    return watched


# -- number formats ----------------------------------------------------------------------------------------------------


def lower_inside(model: nn.Module) -> None:
    """As Accelerate and the Trainer of transformers do it: hooks on the model do not see it."""
    low: Any = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model.__dict__["forward"] = lambda *args: low(*args).float()


@practice
def autocast_inside_of_forward(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    lower_inside(model)
    watched = Watched(model)
    steps(watched, model, torch.optim.AdamW(model.parameters(), lr=1e-3), STEPS)
    return watched


@practice
def autocast_of_words(seed: int) -> Watched:
    model = Language(seed)
    lower_inside(model)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched:
        if k > STEPS:
            break
        optimizer.zero_grad()
        ids = tokens(16, k)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched
