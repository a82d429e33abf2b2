"""What people rightly have in a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import (
    Watched,
    data,
    loss_of,
    perceptron,
    rows,
    sgd,
)
from experiments.silent_bugs.practice import STEPS, practice

# -- the loss ----------------------------------------------------------------------------------------------------------


def matrix(m: nn.Sequential) -> Tensor:
    return m.get_parameter("2.weight")


def total(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([t.sum() for t in tensors]).sum()


def absolute_values(m: nn.Sequential) -> Tensor:
    return 1e-3 * total(p.abs() for p in m.parameters())


def _regularised(seed: int, term: Callable[[nn.Sequential], Tensor], n: int = STEPS, adam: bool = False) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched = Watched(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3) if adam else sgd(model)
    for k in watched.until(n):
        optimizer.zero_grad()
        (loss_of(model, k, x, y) + term(model)).backward()
        optimizer.step()
    return watched


@practice
def penalty_of_absolute_values(seed: int) -> Watched:
    return _regularised(seed, absolute_values)


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
def penalty_in_every_micro_batch(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        for part in range(2):
            ((loss_of(model, 2 * k + part, x, y) + absolute_values(model)) / 2).backward()
        optimizer.step()
    return watched


@practice
def penalty_in_a_backward_of_its_own(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model, allow="penalty"), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        for part in range(2):
            (loss_of(model, 2 * k + part, x, y) / 2).backward()
        absolute_values(model).backward()
        optimizer.step()
    return watched


@practice
def penalty_and_two_forwards_of_one_loss(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        both = loss_of(model, 2 * k, x, y) + loss_of(model, 2 * k + 1, x, y)
        (both + 1e-2 * matrix(model).square().sum()).backward()
        optimizer.step()
    return watched


@practice
def penalty_and_clipping_by_value(seed: int) -> Watched:
    """The gradients of the step are not those of the backward: the torques of the latter are judged."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        (loss_of(model, k, x, y) + absolute_values(model)).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        optimizer.step()
    return watched


@practice
def penalty_of_outputs(seed: int) -> Watched:
    """The z-loss of large language models: it sees the shift that a softmax does not."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
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


class Players(Game):
    """Both players behind one forward."""

    def forward(self, x: Tensor, player: str = "d") -> Tensor:
        out: Tensor = self.g(x) if player == "g" else self.d(x)
        return out


@practice
def game_in_one_module(seed: int) -> Watched:
    """The fakes are made once, ahead of the discriminator's step, and serve the generator's behind it."""
    game, (x, _) = Players(seed), data()
    watched = Watched(game, allow="alternating")
    first, second = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (game.d, game.g))
    for k in watched.until(STEPS):
        fake = game(torch.randn(16, 4), "g")
        first.zero_grad()
        (F.softplus(-game(x[rows(k)])).mean() + F.softplus(game(fake.detach())).mean()).backward()
        first.step()
        second.zero_grad()
        F.softplus(-game(fake)).mean().backward()
        second.step()
    assert watched.monitor.step == 2 * STEPS
    return watched


@practice
def game_with_one_forward_each(seed: int) -> Watched:
    game = Game(seed)
    watched = Watched(game)
    first, second = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (game.d, game.g))
    for _ in watched.until(STEPS):
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            game.zero_grad()
            F.softplus(sign * game(torch.randn(16, 4))).mean().backward()
            optimizer.step()
    return watched
