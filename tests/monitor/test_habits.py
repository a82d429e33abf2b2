"""What a loop has kept to, step by step, is what later steps are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from experiments.silent_bugs.bug import AT
from experiments.silent_bugs.nets import Watched, data, gradient, loss_of, perceptron, sgd, steps

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")
LATE = AT + 4


def told(watched: Watched) -> list[tuple[int, str]]:
    return [(k, fault.cause) for k, fault in watched.faults]


@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_that_overflows_now_and_then_and_a_clipping_behind_it(fused: bool) -> None:
    model, (x, y) = perceptron(), data()
    watched = Watched(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)
    scaler, overflows = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3), 0
    for k in watched.until(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model, k, x, y)
        scaler.scale(loss).backward()
        if not fused:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        overflows += scaler.get_scale() < before
    assert overflows >= 2
    assert told(watched) == []


def by_hand(change: Callable[[int, Tensor, Tensor], Tensor], norm: bool = True) -> Watched:
    """Gradients are taken by `autograd.grad` and put in place: `change(k, now, late)`, of the weights as they are, and
    as they were one step before."""
    model, (x, y) = perceptron(norm=norm), data()
    old = copy.deepcopy(model)
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(LATE + 6):
        now, late = (torch.autograd.grad(loss_of(m, k, x, y), list(m.parameters())) for m in (model, old))
        old.load_state_dict(model.state_dict())
        for p, a, b in zip(model.parameters(), now, late, strict=True):
            p.grad = change(k, a, b)
        optimizer.step()
    return watched


def turned(g: Tensor) -> Tensor:
    return g.flatten().roll(3).reshape(g.shape)


@pytest.mark.parametrize(
    ("cause", "norm", "change"),
    [
        ("wrong backward", True, lambda k, now, late: turned(now) if k >= LATE else now),
        ("stale gradient", False, lambda k, now, late: late if k >= LATE else now),
    ],
)
def test_gradients_set_by_hand_that_kept_to_the_symmetries(cause: str, norm: bool, change: object) -> None:
    watched = by_hand(change, norm)  # type: ignore[arg-type]
    (k, fault), *_ = watched.faults
    assert LATE <= k <= LATE + 2
    assert fault.cause == cause


@pytest.mark.parametrize(
    "change",
    [
        lambda k, now, late: now.sign(),
        lambda k, now, late: now.clamp(-1e-2, 1e-2) if k >= LATE else now,
        lambda k, now, late: now / (1 + now.numel() if k >= LATE else 1),
        lambda k, now, late: turned(now),
    ],
)
@pytest.mark.parametrize("norm", [False, True])
def test_what_may_be_meant_of_gradients_set_by_hand(change: object, norm: bool) -> None:
    assert told(by_hand(change, norm)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [1, LATE])
def test_a_clipping_that_leaves_some_out(start: int) -> None:
    """From the first step on it is meant."""
    model = perceptron()
    watched, params = Watched(model), list(model.parameters())

    def clip(k: int) -> None:
        nn.utils.clip_grad_norm_(params[2:] if k >= start else params, 1e-2)

    steps(watched, model, sgd(model), LATE + 3, gradient=clip)
    assert told(watched) == ([(LATE, "modified gradient")] if start == LATE else [])


def test_groups_that_are_clipped_one_by_one() -> None:
    """Their factors are equal while none is clipped: that is no habit."""
    model = perceptron()
    watched, params = Watched(model), list(model.parameters())

    def clip(k: int) -> None:
        for half in (params[:2], params[2:]):
            nn.utils.clip_grad_norm_(half, 1e3 if k < LATE or half[0] is params[2] else 1e-2)

    steps(watched, model, sgd(model), LATE + 3, gradient=clip)
    assert told(watched) == []


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("anew", [True, False])
def test_a_search_for_a_rate_comes_back_to_where_it_began(both: bool, anew: bool) -> None:
    model = perceptron(norm=True)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    begin = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    def rate(k: int) -> None:
        optimizer.param_groups[0]["lr"] = 1e-4 * 1.3**k

    steps(watched, model, optimizer, AT, begin=rate)
    model.load_state_dict(begin[0])
    if both and anew:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    elif both:
        optimizer.load_state_dict(begin[1])
    steps(watched, model, optimizer, AT + 4)
    assert told(watched) == ([] if both else [(AT + 1, "edited weights")])


def test_a_gradient_that_is_stepped_twice() -> None:
    model, (x, y) = perceptron(), data()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(AT):
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        optimizer.step()
        if k == AT:
            for p in model.parameters():
                p.grad = gradient(p).clone()  # the same numbers elsewhere
            optimizer.step()
    assert told(watched) == [(AT, "repeated step")]


def test_signs_that_are_the_same_at_two_steps() -> None:
    model, (x, y) = perceptron(), data()
    watched, optimizer = Watched(model), sgd(model, lr=1e-4)
    for _ in watched.until(AT):
        for p, g in zip(
            model.parameters(), torch.autograd.grad(loss_of(model, 0, x, y), [*model.parameters()]), strict=True
        ):
            p.grad = g.sign()
        optimizer.step()
    assert told(watched) == []
