"""An optimizer that holds another copy of the model is told; two models of one shape are none of its business."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import Optimizer

import neuromech
from neuromech.monitor import Monitor
from tests.families import fast

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3
STEPS = 6
Optim = Callable[[Any], Optimizer]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), Y)


def sgd(params: Any) -> Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


def adamw(params: Any) -> Optimizer:
    return torch.optim.AdamW(params, lr=1e-2)


@contextmanager
def watched(model: nn.Module) -> Iterator[Monitor]:
    with neuromech.instrument(model) as probe:
        yield probe.monitor(lambda fault: None)


def causes(monitor: Monitor) -> list[str]:
    return [fault.cause for fault in monitor.faults]


class TestAnOptimizerOfAnotherCopy:
    @pytest.mark.parametrize("make", fast([sgd, adamw], [adamw]))
    @pytest.mark.parametrize("clear", ["model", "optimizer", "both", "nobody"])
    def test_made_before_the_copy(self, make: Optim, clear: str) -> None:
        model = net()
        optimizer = make(model.parameters())
        model = copy.deepcopy(model)
        with watched(model) as monitor:
            for _ in range(STEPS):
                if clear in ("model", "both"):
                    model.zero_grad()
                if clear in ("optimizer", "both"):
                    optimizer.zero_grad()
                loss(model).backward()
                optimizer.step()
        assert causes(monitor) == ["not held"]
        assert "other tensors of the same shapes" in str(monitor.faults[0])

    @pytest.mark.parametrize("make", [sgd, adamw])
    def test_a_conversion_that_replaced_the_parameters(self, make: Optim) -> None:
        model = net()
        optimizer = make(model.parameters())
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        try:
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            model.double()
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        with watched(model) as monitor:
            for _ in range(STEPS):
                optimizer.zero_grad()
                F.cross_entropy(model(X.double()), Y).backward()
                optimizer.step()
        assert causes(monitor) == ["not held"]

    def test_trained_before_the_copy_its_old_gradients_are_stepped_again(self) -> None:
        model = net()
        optimizer = sgd(model.parameters())
        loss(model).backward()
        optimizer.step()
        model = copy.deepcopy(model)
        with watched(model) as monitor:
            for _ in range(STEPS):
                model.zero_grad()
                loss(model).backward()
                optimizer.step()
        assert causes(monitor) == ["not held"]

    @pytest.mark.parametrize("decay", [0.0, 0.1])
    def test_gradients_of_zeros(self, decay: float) -> None:
        model = net()
        optimizer = torch.optim.AdamW(copy.deepcopy(model).parameters(), lr=1e-2, weight_decay=decay)
        with watched(model) as monitor:
            for _ in range(STEPS):
                model.zero_grad()
                loss(model).backward()
                for p in optimizer.param_groups[0]["params"]:
                    p.grad = torch.zeros_like(p)
                optimizer.step()
        assert causes(monitor) == ["not held"]

    def test_a_closure(self) -> None:
        model = net()
        optimizer = sgd(copy.deepcopy(model).parameters())

        def closure() -> Tensor:
            model.zero_grad()
            value = loss(model)
            value.backward()
            return value

        with watched(model) as monitor:
            for _ in range(STEPS):
                optimizer.step(closure)
        assert causes(monitor) == ["not held"]


Loop = Callable[[nn.Module, nn.Module], None]
"""Trains a model and another one of its shapes, in a legitimate way."""


def accumulating(feed: Callable[[nn.Module, nn.Module, Optimizer], Any]) -> Loop:
    """Ours takes a step every third backward; at each the other one is fed, and takes its own."""

    def loop(model: nn.Module, other: nn.Module) -> None:
        mine, foreign = sgd(model.parameters()), sgd(other.parameters())
        for k in range(3 * STEPS):
            loss(model).backward()
            feed(model, other, foreign)
            if k % 3 == 2:
                mine.step()
                mine.zero_grad()

    return loop


def backward_of_its_own(model: nn.Module, other: nn.Module, foreign: Optimizer) -> None:
    foreign.zero_grad()
    loss(other).backward()
    foreign.step()


def never_cleared(model: nn.Module, other: nn.Module, foreign: Optimizer) -> None:
    loss(other).backward()
    foreign.step()


def closure(model: nn.Module, other: nn.Module, foreign: Optimizer) -> None:
    def again() -> Tensor:
        foreign.zero_grad()
        value = loss(other)
        value.backward()
        return value

    foreign.step(again)  # type: ignore[arg-type]


def handed_over(model: nn.Module, other: nn.Module, foreign: Optimizer) -> None:
    """The gradients of ours drive a shared model, as in A3C."""
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    foreign.step()


def nothing(model: nn.Module, other: nn.Module, foreign: Optimizer) -> None:
    """It has its turn, and no gradient yet."""
    foreign.step()


def by_hand(model: nn.Module, other: nn.Module) -> None:
    foreign = sgd(other.parameters())
    for _ in range(STEPS):
        model.zero_grad()
        loss(model).backward()
        foreign.step()
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p.data.sub_(0.05 * p.grad)


def never_stepped(model: nn.Module, other: nn.Module) -> None:
    """Ours goes backward for its gradients alone, and the other one trains."""
    foreign = sgd(other.parameters())
    for _ in range(STEPS):
        model.zero_grad()
        loss(model).backward()
        backward_of_its_own(model, other, foreign)


def a_step_within_a_step(model: nn.Module, other: nn.Module) -> None:
    class Adapting(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            super().step()

    sgd(other.parameters())
    foreign = Adapting(other.parameters(), lr=0.05)
    for _ in range(STEPS):
        model.zero_grad()
        loss(model).backward()
        backward_of_its_own(model, other, foreign)


def directions_of_its_own(model: nn.Module, other: nn.Module) -> None:
    """An evolution strategy never fills `.grad`."""

    class Strategy(Optimizer):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(0.01 * torch.ones_like(p))

    foreign = Strategy(other.parameters(), {})
    for _ in range(STEPS):
        model.zero_grad()
        loss(model).backward()
        foreign.step()


def three_in_turn(model: nn.Module, other: nn.Module) -> None:
    third = net(7)
    optimizers = [adamw(m.parameters()) for m in (other, third, model)]
    for k in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for m in (model, *([other] if k % 2 else [third])):
            loss(m).backward()
        for optimizer in optimizers:
            optimizer.step()


LEGITIMATE = {
    "each its backward": accumulating(backward_of_its_own),
    "never cleared": accumulating(never_cleared),
    "closure": accumulating(closure),
    "handed over": accumulating(handed_over),
    "nothing yet": accumulating(nothing),
    "by hand": by_hand,
    "never stepped": never_stepped,
    "a step within a step": a_step_within_a_step,
    "directions of its own": directions_of_its_own,
    "three in turn": three_in_turn,
}


@pytest.mark.parametrize("loop", LEGITIMATE.values(), ids=LEGITIMATE.keys())
@pytest.mark.parametrize("twin", fast(["of its own", "a copy"], ["a copy"]))
def test_another_model_of_the_same_shapes_is_no_fault(loop: Loop, twin: str) -> None:
    model = net()
    other = copy.deepcopy(model) if twin == "a copy" else net(1)
    with watched(model) as monitor:
        loop(model, other)
    assert "not held" not in causes(monitor)


def test_a_probe_that_is_left_alive_accuses_no_later_model() -> None:
    old = net()
    monitor = neuromech.instrument(old).monitor(lambda fault: None)
    loss(old).backward()  # and nobody steps it
    new = net(1)
    optimizer = sgd(new.parameters())
    for _ in range(STEPS):
        backward_of_its_own(old, new, optimizer)
    assert monitor.faults == []


def test_its_optimizer_is_freed() -> None:
    import gc
    import weakref

    model, other = net(), net(1)
    with watched(model):
        loop = accumulating(nothing)
        loop(model, other)
        optimizer = sgd(other.parameters())
        optimizer.step()
        gone = weakref.ref(optimizer)
        del optimizer
        gc.collect()
        assert gone() is None
