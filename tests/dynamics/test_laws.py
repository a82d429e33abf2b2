"""The exact law against torch.optim.SGD itself, on real models, through everything that can happen in a run."""

import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from neuromech.dynamics import Laws, read
from neuromech.errors import InstrumentError, RecordError, SymmetryError
from neuromech.symmetry import Symmetry, SymmetrySet, Term

from .cases import Case, Run, backward, normed, smooth, train, watched
from .test_charge import Watch

EXACT = 1e-12
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


def sgd(case: Case, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(case.model.parameters(), **({"lr": 0.05} | options))


def bounded() -> Case:
    """`normed` under a bounded loss, which can be maximized; it has the same symmetries."""
    case = normed()
    plain = case.loss
    case.loss = lambda step: torch.tanh(0.5 * plain(step))
    return case


@settings(max_examples=25, deadline=None)
@given(OPTIONS, VARIANTS, st.sampled_from(["steady", "cosine", "warm up", "drop", "tensor"]))
def test_exact_law_with_every_option(options: dict[str, Any], variant: dict[str, Any], schedule: str) -> None:
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
    approximate = run.laws.slices[0]
    exact_families = torch.ones(run.exact.shape[1], dtype=torch.bool)
    exact_families[approximate] = False
    assert torch.equal(run.ideal[:, exact_families], run.exact[:, exact_families])


@settings(max_examples=25, deadline=None)
@given(
    OPTIONS,
    OPTIONS,
    VARIANTS,
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.lists(st.integers(0, 99), max_size=8),
    st.data(),
)
def test_exact_law_with_groups_and_missing_gradients(  # type: ignore[no-untyped-def]
    one, two, variant, group, gaps, data
) -> None:
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
    scale = run.laws.slices[0]
    others = torch.ones(run.exact.shape[1], dtype=torch.bool)
    others[scale] = False
    assert run.leak[0].isnan().all()
    assert run.leak[1:, others].isnan().all()
    leak = run.leak[1:, scale]
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


def test_an_optimizer_without_a_law_is_observed_and_not_predicted() -> None:
    """Only the charges that it moves are lost, and for good."""
    case = normed()
    layers = list(case.model.children())
    adam = torch.optim.Adam(layers[0].parameters(), lr=1e-3)
    rest = torch.optim.SGD([p for layer in layers[1:] for p in layer.parameters()], lr=0.05)
    run = train(case, rest, 0)
    for step in range(10):
        for optimizer in (adam, rest) if step < 5 else (rest,):
            backward(case, step)
            with watched(case, run.laws, optimizer) as reading:
                optimizer.step()
            run.readings += reading
    lost = torch.zeros(run.exact.shape[1], dtype=torch.bool)
    for family in (0, 1):
        lost[run.laws.slices[family]] = True
    for law in ("exact", "ideal", "flow", "continuous"):
        assert torch.equal(getattr(run, law)[1:].isnan(), lost.expand(len(run.readings) - 1, -1))
    assert run.observed.isfinite().all()
    assert ((run.exact - run.observed).abs() / run.scale)[:, ~lost].max() <= EXACT


def test_resuming_goes_on_bit_by_bit() -> None:
    case = normed()
    optimizer = torch.optim.SGD(
        [
            {"params": list(layer.parameters()), "weight_decay": 1e-3 * i}
            for i, layer in enumerate(case.model.children())
        ],
        lr=0.05,
        momentum=0.9,
    )

    def each(step: int) -> None:
        if step in (7, 19, 25):
            case.params["3.weight"].grad = None

    laws = case.laws()
    train(case, optimizer, 20, laws=laws, each=each)  # the last step splits further than usual
    file = io.BytesIO()
    state = {"laws": laws.state_dict(), "model": case.model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, file)
    went_on = train(case, optimizer, 20, laws=laws, each=each, start=20)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    case.model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    again = case.laws()
    again.load_state_dict(saved["laws"])
    resumed = train(case, optimizer, 20, laws=again, each=each, start=20)
    for a, b in zip(went_on.readings, resumed.readings, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x.nan_to_num(-1.0), y.nan_to_num(-1.0))
    assert again.split_ever == laws.split_ever == {2, 3}
    assert went_on.error("exact") <= EXACT


def test_a_saved_state_does_not_change_with_the_run() -> None:
    case = normed()
    optimizer, laws = sgd(case, momentum=0.9), case.laws()
    train(case, optimizer, 3, laws=laws)
    state = laws.state_dict()
    kept = copy.deepcopy(state)
    train(case, optimizer, 3, laws=laws)
    assert torch.equal(state["state"].nan_to_num(), kept["state"].nan_to_num())
    laws.load_state_dict(state)
    train(case, optimizer, 3, laws=laws)
    assert torch.equal(state["state"].nan_to_num(), kept["state"].nan_to_num())


def test_the_state_of_other_symmetries_is_refused() -> None:
    with pytest.raises(RecordError, match="start over with initial"):
        normed().laws().load_state_dict(smooth().laws().state_dict())


def test_predictions_of_exact_families_do_not_look_at_the_weights() -> None:
    """Weights moved behind the back of the laws: observation notices, the prediction of an exact family cannot."""
    plain, moved = normed(), normed()
    runs = []
    for case in (plain, moved):
        optimizer, laws = sgd(case, momentum=0.9, weight_decay=5e-3), case.laws()
        run = Run(laws, [laws.initial(case.params)])
        for step in range(10):
            backward(plain, step)
            for name, p in plain.params.items():
                case.params[name].grad = p.grad
            with watched(case, laws, optimizer) as reading:
                optimizer.step()
            run.readings += reading
            if case is moved:
                with torch.no_grad():
                    case.params["5.bias"].add_(1.0)
        runs.append(run)
    rows = runs[0].laws.slices[5]
    assert (runs[1].observed - runs[0].observed)[-1, rows].abs().min() > 1
    a, b = (run.exact[:, rows] for run in runs)
    assert (a[0] == b[0]).all()
    assert (b - b[0]).abs().max() < 1


def test_what_is_not_finite_goes_through() -> None:
    case = normed()

    def each(step: int) -> None:
        if step == 5:
            assert case.params["5.weight"].grad is not None
            case.params["5.weight"].grad[0, 0] = torch.inf
        if step == 7:
            assert case.params["0.weight"].grad is not None
            case.params["0.weight"].grad[:] = torch.nan

    run = train(case, sgd(case, momentum=0.9), 10, each=each)
    quadratic, linear = run.laws.slices[3], run.laws.slices[4]
    for law in ("observed", "exact", "continuous", "scale"):
        assert getattr(run, law)[:6].isfinite().all()
        assert not getattr(run, law)[-1, quadratic].isfinite().any()
    assert not run.observed[-1, linear].isfinite().all()
    assert run.exact[:, linear].isfinite().all()  # by symmetry no gradient acts on it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_training_is_measured_in_float64(dtype: torch.dtype) -> None:
    """Residuals are those of the rounding of the weights, not of the measurement."""
    case = smooth()
    params = case.params
    wide, narrow = copy.deepcopy(case.model), case.model.to(dtype)
    case.loss = lambda step: F.cross_entropy(wide(torch.eye(3, dtype=torch.float64)), torch.tensor([0, 1, 2]))
    optimizer, laws = sgd(case, momentum=0.9), case.laws()
    run = Run(laws, [laws.initial(params)])
    for _ in range(30):
        with torch.no_grad():
            for w, n in zip(wide.parameters(), narrow.parameters(), strict=True):
                w.copy_(n)
        wide.zero_grad()
        case.loss(0).backward()
        for w, n in zip(wide.parameters(), narrow.parameters(), strict=True):
            assert w.grad is not None
            n.grad = w.grad.to(dtype)
        with watched(case, laws, optimizer) as reading:
            optimizer.step()
        run.readings += reading
    assert run.exact.dtype == torch.float64
    assert run.error("exact", 0) < 30 * torch.finfo(dtype).eps


def test_sparse_gradients_are_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, sparse=True), nn.Linear(3, 2, bias=False)).double()
    family = Symmetry("rescale", 3, (Term("0.weight", 1, 1), Term("1.weight", 1, -1)))
    case = Case(
        model,
        SymmetrySet([family]),
        lambda step: F.cross_entropy(model(torch.tensor([0, 2, 2])), torch.tensor([0, 1, 1])),
    )
    run = train(case, sgd(case, momentum=0.9), 20)
    assert run.error("exact") <= EXACT
    assert run.error("flow") > 1e-4


def test_a_step_neither_waits_for_the_device_nor_keeps_a_graph() -> None:
    case = normed()
    optimizer = sgd(case, momentum=0.9, nesterov=True, weight_decay=5e-3)
    laws = case.laws()
    names = {p: name for name, p in case.params.items()}
    for step in range(3):
        backward(case, step)
        grads = {name: p.grad for name, p in case.params.items() if p.grad is not None}
        motions = read(optimizer, names)
        with Watch():
            laws.before(case.params, grads, motions)
        optimizer.step()
        with Watch():
            reading = laws.after(case.params)
        assert not any(x.requires_grad for x in reading)


def test_no_symmetries_make_empty_readings() -> None:
    case = normed()
    case.symmetries = SymmetrySet()
    run = train(case, sgd(case), 2)
    assert run.exact.shape == (3, 0)


def test_misuse_is_named() -> None:
    case = normed()
    laws = case.laws()
    with pytest.raises(InstrumentError, match="before"):
        laws.after(case.params)
    backward(case, 0)
    motions = read(sgd(case), {p: name for name, p in case.params.items()})
    with pytest.raises(InstrumentError, match=r"0\.weight has a motion but no gradient"):
        laws.before(case.params, {}, motions)
    with pytest.raises(SymmetryError, match="no parameter"):
        Laws([Symmetry("scale", 1, (Term("nowhere", None, 1),))], case.params)
    with pytest.raises(SymmetryError, match="sum of real numbers"):
        Laws([Symmetry("scale", 1, (Term("z", None, 1),))], {"z": torch.zeros(2, dtype=torch.complex64)})
