"""The exact law against torch.optim.SGD itself, on real models, through everything that can happen in a run."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from .cases import EXACT, Case, backward, normed, sgd, train, watched

OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([0.02, 0.1]),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "weight_decay": st.sampled_from([0.0, 5e-3]),
        "nesterov": st.booleans(),
        "maximize": st.sampled_from([False, False, True]),
    }
).map(lambda o: o | ({"nesterov": False} if not o["momentum"] else {}) | ({"dampening": 0.0} if o["nesterov"] else {}))
VARIANTS = st.sampled_from([{}, {"foreach": True}, {"foreach": False}, {"fused": True}])


def bounded() -> Case:
    """`normed` under a bounded loss, which can be maximized; it has the same symmetries."""
    case = normed()
    plain = case.loss
    case.loss = lambda step: torch.tanh(0.5 * plain(step))
    return case


SCHEDULES = st.sampled_from(["steady", "cosine", "warm up", "drop", "tensor"])


@settings(max_examples=2, deadline=None)
@given(OPTIONS, VARIANTS, SCHEDULES)
def test_exact_law_with_every_option(options: dict[str, Any], variant: dict[str, Any], schedule: str) -> None:
    check_with_options(options, variant, schedule)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(OPTIONS, VARIANTS, SCHEDULES)
def test_exact_law_with_many_options(options: dict[str, Any], variant: dict[str, Any], schedule: str) -> None:
    check_with_options(options, variant, schedule)


def check_with_options(options: dict[str, Any], variant: dict[str, Any], schedule: str) -> None:
    case = bounded()
    if schedule == "tensor":
        options = options | {"lr": torch.tensor(options["lr"])}
    optimizer = sgd(case, **options, **variant)
    schedules = torch.optim.lr_scheduler
    scheduler = {
        "cosine": lambda: schedules.CosineAnnealingLR(optimizer, 200),
        "warm up": lambda: schedules.LambdaLR(optimizer, lambda k: min(k / 20, 1)),  # starts at 0
        "drop": lambda: schedules.MultiStepLR(optimizer, [100]),
    }.get(schedule, lambda: None)()
    run = train(case, optimizer, 200, each=lambda step: scheduler.step() if scheduler and step else None)
    assert run.error("exact") <= EXACT
    assert run.laws.split_ever == frozenset()
    for s, rows in zip(case.symmetries, run.laws.slices, strict=True):
        if not s.is_linear and not s.broken_by:  # no torque is measured: the two laws are one
            assert torch.equal(run.ideal[:, rows], run.exact[:, rows])
        if s.is_linear:  # what is measured is the rounding of gradients that cancel
            torch.testing.assert_close(run.ideal[:, rows], run.exact[:, rows], rtol=0, atol=1e-12)


GROUPED = (
    OPTIONS,
    OPTIONS,
    VARIANTS,
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.lists(st.integers(0, 99), max_size=8),
    st.data(),
)


@pytest.mark.slow
@settings(max_examples=2, deadline=None)
@given(*GROUPED)
def test_exact_law_with_groups_and_missing_gradients(one, two, variant, group, gaps, data) -> None:  # type: ignore[no-untyped-def]
    check_with_groups(one, two, variant, group, gaps, data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(*GROUPED)
def test_exact_law_with_many_groups_and_missing_gradients(one, two, variant, group, gaps, data) -> None:  # type: ignore[no-untyped-def]
    check_with_groups(one, two, variant, group, gaps, data)


def check_with_groups(one, two, variant, group, gaps, data) -> None:  # type: ignore[no-untyped-def]
    """Parameters in two groups at random; at some steps some of them have no gradient."""
    case = bounded()
    params = list(case.params.values())
    first = [p for p, x in zip(params, group, strict=True) if x]
    second = [p for p, x in zip(params, group, strict=True) if not x]
    groups = [{"params": ps} | o for ps, o in ((first, one), (second, two)) if ps]
    optimizer = torch.optim.SGD(groups, **variant)
    # torch's fused step refuses a group in which only some parameters have a buffer yet
    late = 0 if variant.get("fused") else -1
    missing = {k: data.draw(st.sets(st.integers(0, 7), max_size=4)) for k in gaps if k > late}

    def each(step: int) -> None:
        for i in missing.get(step, ()):
            params[i].grad = None

    run = train(case, optimizer, 100, each=each)
    assert run.error("exact") <= EXACT


@pytest.mark.slow
def test_few_hundred_steps_of_everything_at_once() -> None:
    """Two groups, momentum, decay, a schedule, a freeze and a thaw, gaps: the accumulated error stays at rounding."""
    case = normed()
    layers = list(case.model.children())
    optimizer = torch.optim.SGD(
        [
            {"params": [*layers[0].parameters(), *layers[1].parameters()], "weight_decay": 0.0, "lr": 0.1},
            {"params": [*layers[3].parameters(), *layers[5].parameters()], "nesterov": True},
        ],
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-3,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    frozen: nn.Parameter = layers[3].weight  # type: ignore[assignment]
    splits = []

    def each(step: int) -> None:
        frozen.requires_grad_(not 100 <= step < 200)
        if 100 <= step < 200 or step % 7 == 3:
            frozen.grad = None
        if step:
            scheduler.step()
        splits.append(run_laws.split)

    run_laws = case.laws()
    run = train(case, optimizer, 300, laws=run_laws, each=each)
    assert run.error("exact") <= EXACT
    assert run.laws.split_ever == {2, 3}
    assert set(splits[102:200]) == {frozenset({2, 3})}
    assert splits[5] == {2}


def test_the_error_of_a_prediction_survives_splitting_and_merging() -> None:
    """It is neither lost nor repaired when the charge splits into parts, which are read from the weights, and back."""
    case = normed()
    laws, optimizer = case.laws(), sgd(case, momentum=0.9, weight_decay=5e-3)
    with torch.no_grad():
        case.params["3.weight"].add_(0.05)  # behind the back of the laws

    def each(step: int) -> None:
        if step in (4, 5, 11):
            case.params["3.bias"].grad = None
        if step in (5, 6):
            case.params["3.weight"].grad = None

    run = train(case, optimizer, 20, laws=laws, each=each)
    assert laws.split_ever == {2, 3}
    assert ((run.exact - run.observed)[:, laws.slices[3]].abs() > 1e-3).all()
    assert (laws.initial(case.params).exact - run.observed[-1]).abs().max() == 0  # to start over repairs it


def test_leak_is_measured_where_the_symmetry_is_approximate() -> None:
    case = normed()
    run = train(case, sgd(case, momentum=0.9, weight_decay=5e-3), 200)
    assert run.leak[0].isnan().all()
    for s, rows in zip(case.symmetries, run.laws.slices, strict=True):
        if s.is_linear:
            assert run.leak[1:, rows].abs().max() < 1e-13
        elif not s.broken_by:
            assert run.leak[1:, rows].isnan().all()
    leak = run.leak[1:, run.laws.slices[0]]
    assert leak.isfinite().all()
    assert leak.abs().max() > 1e-8
    assert run.error("exact", 0) <= EXACT
    assert 1e-6 < run.error("ideal", 0) < 1e-2
    assert run.error("ideal", 2) <= EXACT


def test_leak_is_the_torque_that_the_step_followed() -> None:
    """<g, D theta>, with the sign of `maximize`."""
    case = normed()
    optimizer = sgd(case, maximize=True)
    laws = case.laws()
    backward(case, 0)
    w, b = case.params["0.weight"], case.params["0.bias"]
    assert w.grad is not None
    assert b.grad is not None
    torque = -((w.grad * w).sum(1) + b.grad * b).detach()
    with watched(case, laws, optimizer) as reading:
        optimizer.step()
    torch.testing.assert_close(reading[0].leak[laws.slices[0]], torque, rtol=1e-10, atol=1e-14)


def test_two_optimizers_each_move_their_part() -> None:
    """A family of which each optimizer holds a part is split in the steps of both; the others are not."""
    case = normed()
    layers = list(case.model.children())
    front = torch.optim.SGD([*layers[0].parameters(), *layers[1].parameters()], lr=0.05, momentum=0.9)
    back = torch.optim.SGD([*layers[3].parameters(), *layers[5].parameters()], lr=0.02, weight_decay=1e-2)
    run = train(case, front, 0)
    for step in range(60):
        backward(case, step)
        for optimizer in (front, back) if step % 3 else (back,):
            with watched(case, run.laws, optimizer) as reading:
                optimizer.step()
            run.readings += reading
            backward(case, step)
    assert run.error("exact") <= EXACT
    assert run.laws.split_ever == {2}


def test_predictions_start_in_mid_run_from_the_buffers() -> None:
    case = normed()
    optimizer = sgd(case, momentum=0.9, weight_decay=5e-3)
    train(case, optimizer, 30)
    run = train(case, optimizer, 100, start=30)
    assert run.error("exact") <= EXACT
    assert run.error("continuous", 1) < 1e-4


def test_a_new_optimizer_in_mid_run_starts_new_buffers() -> None:
    case = normed()
    run = train(case, sgd(case, momentum=0.9, weight_decay=5e-3), 30)
    run.readings += train(case, sgd(case, momentum=0.8, dampening=0.2), 30, laws=run.laws, start=30).readings
    assert run.error("exact") <= EXACT
    assert run.error("continuous") < 1e-2


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_may_be_switched_off_and_on(nesterov: bool) -> None:
    """torch keeps the old buffer meanwhile, and uses it again."""
    case = normed()
    optimizer = sgd(case, momentum=0.9, nesterov=nesterov, weight_decay=5e-3)

    def each(step: int) -> None:
        optimizer.param_groups[0]["momentum"] = 0.0 if 20 <= step < 40 else 0.9
        optimizer.param_groups[0]["nesterov"] = nesterov and not 20 <= step < 40

    run = train(case, optimizer, 80, each=each)
    assert run.error("exact") <= EXACT
    assert run.error("continuous") < 1e-2
