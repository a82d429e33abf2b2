"""Players of a game, and adversaries: gradients that one of them asks for reach the parameters of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, gradient, perceptron, rows, sgd
from experiments.silent_bugs.practice import STEPS, practice


def _player(seed: int, inputs: int, outputs: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 16), nn.LeakyReLU(0.2), nn.Linear(16, outputs))


def _in_turn(judge: nn.Module, player: nn.Module, losses: Callable[[int], Iterator[Tensor]]) -> Watched:
    """Each steps after a loss of its own; the player's goes through the judge, once the judge has stepped."""
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-3) for m in (judge, player)]
    watched = Watched(judge)
    for k in watched.until(STEPS):
        for optimizer, loss in zip(optimizers, losses(k), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return watched


@practice
def judge_with_gradients_of_the_forger(seed: int) -> Watched:
    """The generator's loss goes through the discriminator: what it leaves there is cleared, and was never meant."""
    forger, judge, (x, _) = _player(seed, 4, 12), _player(seed + 1, 12, 1), data()

    def losses(k: int) -> Iterator[Tensor]:
        fake = forger(torch.randn(16, 4))
        yield F.relu(1 - judge(x[rows(k)])).mean() + F.relu(1 + judge(fake.detach())).mean()
        yield -judge(fake).mean()

    return _in_turn(judge, forger, losses)


@practice
def players_frozen_around_their_steps(seed: int) -> Watched:
    """As StyleGAN's loop does it: a player requires gradients for its own backward only, and not at its step."""
    forger, judge, (x, _) = _player(seed, 4, 12), _player(seed + 1, 12, 1), data()
    watched = Watched(judge)
    turns = [(m, torch.optim.Adam(m.parameters(), lr=1e-3)) for m in (forger, judge)]
    for m, _ in turns:
        m.requires_grad_(False)
    for k in watched.until(STEPS):
        for m, optimizer in turns:
            optimizer.zero_grad(set_to_none=True)
            m.requires_grad_(True)
            fake = judge(forger(torch.randn(16, 4)))
            (F.softplus(-fake) if m is forger else F.softplus(fake) + F.softplus(-judge(x[rows(k)]))).mean().backward()
            m.requires_grad_(False)
            optimizer.step()
    assert watched.monitor.step
    return watched


@practice
def critic_of_an_actor(seed: int) -> Watched:
    """Soft actor-critic: the actor's loss goes through the critic."""
    actor, critic, (x, _) = _player(seed, 12, 4), _player(seed + 1, 16, 1), data()

    def losses(k: int) -> Iterator[Tensor]:
        state, action = x[rows(k)], torch.rand(16, 4)
        yield F.mse_loss(critic(torch.cat([state, action], 1))[:, 0], state[:, 0])
        yield -critic(torch.cat([state, actor(state).tanh()], 1)).mean()

    return _in_turn(critic, actor, losses)


@practice
def adversarial_inputs(seed: int) -> Watched:
    """Projected gradient descent on the inputs, by whole backwards: what they leave in the weights is cleared."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        shift = torch.zeros(16, 12, requires_grad=True)
        for _ in range(3):
            F.cross_entropy(model(x[rows(k)] + shift), y[rows(k)]).backward()
            assert shift.grad is not None
            shift = (shift + 0.05 * shift.grad.sign()).clamp(-0.1, 0.1).detach().requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows(k)] + shift.detach()), y[rows(k)]).backward()
        optimizer.step()
    return watched


@practice
def gradients_kept_by_hooks(seed: int) -> Watched:
    """As Megatron does it: hooks move every gradient to a buffer of its own, which is handed over ahead of the step."""
    model, (x, y) = perceptron(seed), data()
    kept = {p: torch.zeros_like(p) for p in model.parameters()}

    def keep(p: Tensor) -> None:
        kept[p].add_(gradient(p))  # type: ignore[index,arg-type]
        p.grad = None

    for p in kept:
        p.register_post_accumulate_grad_hook(keep)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        for part in (2 * k, 2 * k + 1):
            (F.cross_entropy(model(x[rows(part)]), y[rows(part)]) / 2).backward()
        for p, g in kept.items():
            p.grad = g
        optimizer.step()
        for p, g in kept.items():
            p.grad = None
            g.zero_()
    return watched
