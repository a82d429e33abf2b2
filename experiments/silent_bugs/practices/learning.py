"""Ways to learn: by gradients through gradients, of single or of some samples, and with models that change."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, perceptron, rows, sgd, steps
from experiments.silent_bugs.practice import STEPS, practice


@practice
def learning_to_learn(seed: int) -> Watched:
    """MAML (Finn et al. 2017): the loss behind one step, differentiated through that step."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.Adam(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        params: dict[str, Tensor] = dict(model.named_parameters())
        first = F.cross_entropy(functional_call(model, params, (x[rows(k)],)), y[rows(k)])
        moves = torch.autograd.grad(first, list(params.values()), create_graph=True)
        moved = {name: p - 0.05 * g for (name, p), g in zip(params.items(), moves, strict=True)}
        F.cross_entropy(functional_call(model, moved, (x[rows(k + 1)],)), y[rows(k + 1)]).backward()
        optimizer.step()
    return watched


@practice
def gradients_of_single_samples(seed: int) -> Watched:
    """DP-SGD (Abadi et al. 2016): each sample's gradient is clipped, and noise is added, by `torch.func`."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)

    def loss(params: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, params, (a[None],)), b[None])

    for k in watched.until(STEPS):
        held = {name: p.detach() for name, p in model.named_parameters()}
        each = torch.vmap(torch.func.grad(loss), (None, 0, 0))(held, x[rows(k)], y[rows(k)])
        norms = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
        for name, p in model.named_parameters():
            clipped = torch.einsum("b...,b->...", each[name], (1 / norms).clamp(max=1))
            p.grad = clipped / len(norms) + 0.01 * torch.randn_like(p)
        optimizer.step()
    return watched


@practice
def gradients_that_disagree(seed: int) -> Watched:
    """PCGrad (Yu et al. 2020): of two tasks, what is against the other is taken off."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.Adam(model.parameters(), lr=1e-3)
    params = list(model.parameters())
    for k in watched.until(STEPS):
        out = model(x[rows(k)])
        tasks = [F.cross_entropy(out, y[rows(k)]), F.cross_entropy(out, (y[rows(k)] + 1) % 4)]
        a, b = (nn.utils.parameters_to_vector(torch.autograd.grad(t, params, retain_graph=True)) for t in tasks)
        a = a - torch.clamp(a @ b, max=0) / (b @ b) * b
        for p, g in zip(params, (a + b).split([p.numel() for p in params]), strict=True):
            p.grad = g.view_as(p).clone()
        optimizer.step()
    return watched


@practice
def hard_examples_only(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows(k)]), y[rows(k)], reduction="none").topk(6).values.mean().backward()
        optimizer.step()
    return watched


class FixedPoint(nn.Module):
    """z = tanh(W z + U x), with the gradient of the implicit function (Bai et al. 2019)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.enter, self.inner, self.leave = nn.Linear(12, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 4)
        nn.init.normal_(self.inner.weight, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        u = self.enter(x)
        with torch.no_grad():
            z = torch.zeros_like(u)
            for _ in range(30):
                z = torch.tanh(self.inner(z) + u)
        z = torch.tanh(self.inner(z) + u)
        at = z.detach().requires_grad_()
        once = torch.tanh(self.inner(at) + u.detach())

        def backward(g: Tensor) -> Tensor:
            v = g
            for _ in range(30):
                v = torch.autograd.grad(once, at, v, retain_graph=True)[0] + g
            return v

        if z.requires_grad:
            z.register_hook(backward)
        out: Tensor = self.leave(z)
        return out


@practice
def a_layer_that_is_solved_for(seed: int) -> Watched:
    model = FixedPoint(seed)
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


@practice
def a_layer_that_is_put_in(seed: int) -> Watched:
    """Progressive growing: the model has other symmetries from then on."""
    model = perceptron(seed)
    watched, optimizer = Watched(model), sgd(model)

    def grow(k: int) -> None:
        if k == 15:
            model.insert(4, more := nn.Sequential(nn.Linear(16, 16), nn.Tanh()))
            optimizer.add_param_group({"params": list(more.parameters())})

    steps(watched, model, optimizer, STEPS, begin=grow)
    return watched


@practice
def an_activation_that_is_exchanged(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS, begin=lambda k: model.__setitem__(1, nn.GELU()) if k == 15 else None)
    return watched
