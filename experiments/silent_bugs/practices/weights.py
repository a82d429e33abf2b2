"""What people rightly do to weights: other weights for evaluation, averages, projections, targets, parametrisations."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from experiments.silent_bugs.nets import Watched, data, loss_of, perceptron, rows, sgd, steps
from experiments.silent_bugs.practice import PRACTICES, STEPS, practice

# -- other weights for a while -----------------------------------------------------------------------------------------


class Shadow:
    """An exponential average of the weights, which takes their place while the model is evaluated."""

    def __init__(self, model: nn.Module, decay: float = 0.9) -> None:
        self.model, self.decay = model, decay
        self.average = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        for n, p in self.model.named_parameters():
            self.average[n].lerp_(p, 1 - self.decay)

    @torch.no_grad()
    def swap(self, how: str) -> None:
        if how == "load":
            self.kept = copy.deepcopy(self.model.state_dict())
            self.model.load_state_dict(self.average, strict=False)
        for n, p in self.model.named_parameters():
            if how == "copy":
                self.kept[n] = p.clone()
                p.copy_(self.average[n])
            if how == "data":
                self.kept[n] = p.data
                p.data = self.average[n].clone()

    @torch.no_grad()
    def back(self, how: str) -> None:
        if how == "load":
            self.model.load_state_dict(self.kept)
        for n, p in self.model.named_parameters():
            if how == "copy":
                p.copy_(self.kept[n])
            if how == "data":
                p.data = self.kept[n]


def _evaluated_on_averages(seed: int, how: str) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched, shadow = Watched(model), Shadow(model)

    def look(k: int) -> None:
        shadow.update()
        if k % 5 == 0:
            shadow.swap(how)
            model.eval()
            with torch.no_grad():
                loss_of(model, k, x, y)
            model.train()
            shadow.back(how)

    steps(watched, model, torch.optim.AdamW(model.parameters(), lr=1e-3), STEPS, end=look)
    return watched


for _how in ("copy", "data", "load"):
    PRACTICES[f"evaluation on averages by {_how}"] = partial(_evaluated_on_averages, how=_how)


@practice
def stochastic_weight_averaging(seed: int) -> Watched:
    model, (x, _) = perceptron(seed, norm=True), data()
    watched, optimizer = Watched(model), sgd(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    swa = torch.optim.swa_utils.SWALR(optimizer, 0.01)

    def end(k: int) -> None:
        if k > 10:
            average.update_parameters(model)
            swa.step()
        if k == STEPS:
            torch.optim.swa_utils.update_bn(x.split(16), average)

    steps(watched, model, optimizer, STEPS, end=end)
    return watched


@practice
def range_test_and_back(seed: int) -> Watched:
    """Learning rates are tried on the model itself; then weights and optimizer are loaded as they were."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model)
    steps(watched, model, optimizer, 10)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for k in range(5):
        optimizer.param_groups[0]["lr"] = 1e-3 * 2**k
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        optimizer.step()
    model.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    steps(watched, model, optimizer, STEPS)
    return watched


@practice
def planned_rollback(seed: int) -> Watched:
    """Every epoch begins from the best weights and the optimizer's state of that time."""
    model = perceptron(seed, norm=True)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    kept: list[Any] = []

    def epoch(k: int) -> None:
        if k % 10 == 5:
            kept[:] = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
        if k % 10 == 0:
            model.load_state_dict(kept[0])
            optimizer.load_state_dict(kept[1])

    steps(watched, model, optimizer, STEPS, end=epoch)
    return watched


@practice
def a_copy_is_looked_at(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model)

    def look(k: int) -> None:
        other = copy.deepcopy(model)
        inner = torch.optim.SGD(other.parameters(), lr=0.1)
        for i in range(2):
            inner.zero_grad()
            loss_of(other, k + i, x, y).backward()
            inner.step()

    steps(watched, model, sgd(model), STEPS, end=look)
    return watched


@practice
def written_as_they_were(seed: int) -> Watched:
    """A checkpoint is saved and loaded at once; weights are flattened and unflattened."""
    model = perceptron(seed)
    watched = Watched(model)

    def around(k: int) -> None:
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        if k % 3 == 0:
            flat = nn.utils.parameters_to_vector(model.parameters()).detach()
            nn.utils.vector_to_parameters(flat, model.parameters())

    steps(watched, model, sgd(model), STEPS, end=around)
    return watched


# -- projections, declared ---------------------------------------------------------------------------------------------


@torch.no_grad()
def _clamped(model: nn.Module) -> None:
    for p in model.parameters():
        p.clamp_(-0.2, 0.2)


@torch.no_grad()
def _on_the_sphere(model: nn.Module) -> None:
    for p in model.parameters():
        if p.ndim > 1:
            p.data = F.normalize(p.data, dim=1)


@torch.no_grad()
def _shrunk_and_perturbed(model: nn.Module) -> None:
    for p in model.parameters():
        p.mul_(0.99).add_(torch.randn_like(p), alpha=1e-3)


@torch.no_grad()
def _centred(model: nn.Module) -> None:
    for p in model.parameters():
        if p.ndim > 1:
            p.sub_(p.mean(1, keepdim=True))


def _projected(seed: int, project: Any) -> Watched:
    model = perceptron(seed)
    watched = Watched(model, allow="edits")
    steps(watched, model, sgd(model), STEPS, end=lambda k: project(model))
    return watched


for _project in (_clamped, _on_the_sphere, _shrunk_and_perturbed, _centred):
    PRACTICES[f"weights {_project.__name__.lstrip('_').replace('_', ' ')}"] = partial(_projected, project=_project)


@practice
def slow_weights(seed: int) -> Watched:
    """Lookahead (Zhang et al. 2019) by hand."""
    model = perceptron(seed)
    slow = [p.detach().clone() for p in model.parameters()]
    watched = Watched(model, allow="edits")

    @torch.no_grad()
    def ahead(k: int) -> None:
        for p, s in zip(model.parameters(), slow, strict=True):
            if k % 5 == 0:
                p.copy_(s.lerp_(p, 0.5))

    steps(watched, model, torch.optim.AdamW(model.parameters(), lr=1e-3), STEPS, end=ahead)
    return watched


@practice
def temperature_in_its_bounds(seed: int) -> Watched:
    """CLIP's scale of the logits is clamped behind every step."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale = perceptron(seed), nn.Parameter(torch.tensor(2.6592))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.scale.exp() * F.normalize(self.net(x), dim=-1)
            return out

    model = Scaled()
    watched = Watched(model, allow="edits")
    steps(watched, model, sgd(model), STEPS, end=lambda k: model.scale.data.clamp_(0, 4.6052))
    return watched


# -- targets and codes: parameters that no gradient moves --------------------------------------------------------------


class Student(nn.Module):
    """A network and its slow target within one module (MoCo, BYOL, target networks of Q-learning)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net, self.head = perceptron(seed), nn.Linear(4, 4)
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.target(x)
        return self.head(self.net(x)), wanted

    @torch.no_grad()
    def follow(self, weight: float) -> None:
        for p, q in zip(self.target.parameters(), self.net.parameters(), strict=True):
            p.lerp_(q, weight)


def _target(seed: int, inside: bool, all_held: bool, every: int, weight: float) -> Watched:
    model, (x, _) = Student(seed), data()
    watched = Watched(model)
    held = [p for p in model.parameters() if all_held or p.requires_grad]
    optimizer = torch.optim.AdamW(held, lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        if inside and k % every == 0:
            model.follow(weight)
        out, wanted = model(x[rows(k)])
        F.mse_loss(out, wanted).backward()
        optimizer.step()
        if not inside and k % every == 0:
            model.follow(weight)
    return watched


PRACTICES["target that follows before the forward"] = partial(_target, inside=True, all_held=False, every=1, weight=0.1)
PRACTICES["target that follows behind the step"] = partial(_target, inside=False, all_held=True, every=1, weight=0.1)
PRACTICES["target that is copied now and then"] = partial(_target, inside=False, all_held=False, every=7, weight=1.0)


@practice
def codes_by_averages(seed: int) -> Watched:
    """VQ-VAE's codes are averages of what they stand for, and gradients go straight through."""

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b = nn.Linear(12, 8), nn.Linear(8, 4)
            self.codes = nn.Parameter(torch.randn(6, 8), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            nearest = torch.cdist(h, self.codes).argmin(1)
            if self.training:
                with torch.no_grad():
                    for i in nearest.unique():
                        self.codes[i].lerp_(h[nearest == i].mean(0), 0.1)
            out: Tensor = self.b(h + (self.codes[nearest] - h).detach())
            return out

    model = Quantised()
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


# -- parametrisations --------------------------------------------------------------------------------------------------


def _parametrised(seed: int, how: Any) -> Watched:
    model = perceptron(seed)
    for i in (0, 2):
        how(model[i])
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


for _kind in ("weight_norm", "spectral_norm", "orthogonal"):
    PRACTICES[_kind.replace("_", " ")] = partial(_parametrised, how=getattr(parametrizations, _kind))


@practice
def pruned_from_the_start(seed: int) -> Watched:
    return _parametrised(seed, lambda m: prune.l1_unstructured(m, "weight", 0.5))


@practice
def pruned_on_the_way(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model, allow="edits")

    def cut(k: int) -> None:
        if k in (10, 15):
            prune.random_unstructured(model[2], "weight", 0.3)
        if k == 20:
            prune.remove(model[2], "weight")

    steps(watched, model, torch.optim.Adam(model.parameters(), lr=1e-3), STEPS, end=cut)
    return watched
