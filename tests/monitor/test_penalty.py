"""Terms of the loss, told from wrong gradients where other forwards add to the same gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.silent_bugs.nets import Watched, data, gradient, loss_of, perceptron, sgd

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")
LAST = 8


class Doubled(torch.autograd.Function):
    """The identity, with a backward that is not its own where the values are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, 2 * g, g)


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Doubled.apply(x)
        return out


def accumulated(
    model: nn.Sequential,
    coefficient: float,
    then: Callable[[int], None] = lambda k: None,
    steps: int = LAST,
    **options: Any,
) -> Watched:
    (x, y), watched, optimizer = data(), Watched(model, **options), sgd(model)
    for k in watched.until(steps):
        optimizer.zero_grad()
        for part in range(2):
            term = coefficient * torch.stack([p.abs().sum() for p in model.parameters()]).sum()
            ((loss_of(model, 2 * k + part, x, y) + term) / 2).backward()
            if part == 0:
                then(k)
        optimizer.step()
    return watched


def test_size_and_form_are_told_by_torques() -> None:
    events = accumulated(perceptron(), 1e-3).probe.events
    (said,) = [m for m in events["message"] if "the loss has" in m]
    assert "an L1 term" in said
    assert "coefficient 0.001:" in said
    assert "at least" in said


def test_a_term_that_shows_in_another_family_later_is_the_same_term() -> None:
    """As many weights of either sign leave no torque, until one of them changes its sign, at step 10 for a moment."""
    watched = accumulated(perceptron(1), 1e-3, steps=24)
    assert not watched.faults
    assert watched.monitor.step == 24
    assert not watched.probe.events["message"].str.contains("stands aside").any()


def test_what_a_known_term_does_not_explain_is_told() -> None:
    model = perceptron(1)
    p = model[4].bias

    def spoil(k: int) -> None:
        if k == 14:
            p.grad = gradient(p) + 2e-3

    told = accumulated(model, 1e-3, spoil, steps=24).faults
    assert told
    assert told[0][0] in (14, 15)


@pytest.mark.parametrize("options", [{}, {"allow": "penalty"}])
def test_a_wrong_backward_is_told_behind_a_term(options: dict[str, Any]) -> None:
    """Whether the term is declared or not: the model itself violates its symmetries."""
    model = perceptron()
    model.insert(2, Wrong())
    (iteration, fault), *_ = accumulated(model, 1e-3, **options).faults
    assert fault.cause == "wrong backward"
    assert iteration <= 2


def test_one_wrong_gradient_is_no_term() -> None:
    """What is added once is not the same twice."""
    model = perceptron()
    p = model[4].weight

    def spoil(k: int) -> None:
        if k == 6:
            p.grad = gradient(p) + torch.linspace(0.0, 1.0, p.numel()).view_as(p)

    told = accumulated(model, 0.0, spoil).faults
    assert told
    assert told[0][0] in (6, 7)


def test_gradients_that_pile_up_are_no_term_of_the_loss() -> None:
    """What they hold beside the model's gradient is of earlier steps, and much alike from step to step."""
    model, (x, y) = perceptron(norm=True), data()
    watched, optimizer = Watched(model), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for k in watched.until(LAST):
        loss_of(model, k, x, y).backward()
        optimizer.step()
    assert {fault.cause for _, fault in watched.faults} == {"not cleared"}
    assert not [m for m in watched.probe.events["message"] if "the loss has" in m]
