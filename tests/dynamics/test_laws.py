"""What `Laws` promises around the laws: to say nothing where it knows nothing, to resume, to survive, to stay cheap."""

import copy
import dataclasses
import io
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromech.dynamics import Laws, read
from neuromech.errors import InstrumentError, RecordError, SymmetryError
from neuromech.symmetry import Symmetry, SymmetrySet, Term

from .cases import EXACT, Case, Run, backward, normed, sgd, smooth, train, watched
from .optimizers import ALL
from .test_charge import Watch


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
    with pytest.raises(RecordError, match=r"start over with initial"):
        normed().laws().load_state_dict(smooth().laws().state_dict())
    case = normed()
    state = case.laws().state_dict()
    case.symmetries = SymmetrySet([dataclasses.replace(s, broken_by=()) for s in case.symmetries])
    with pytest.raises(RecordError, match="approximate"):
        case.laws().load_state_dict(state)


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
    assert not run.exact[-1, linear].isfinite().all()
    assert run.ideal[:, linear].isfinite().all()  # by symmetry no gradient acts on it


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


@pytest.mark.parametrize("name", ["SGD Nesterov", "AdamW, no decay of vectors", "RMSprop momentum", "Adadelta"])
def test_a_step_neither_waits_for_the_device_nor_keeps_a_graph(name: str) -> None:
    case = normed()
    optimizer = ALL[name](list(case.params.values()))
    laws = case.laws()
    names = {p: name for name, p in case.params.items()}
    for step in range(3):
        backward(case, step)
        grads = {name: p.grad for name, p in case.params.items() if p.grad is not None}
        motions = read(optimizer, names)
        with Watch() if step else nullcontext():  # the first step compiles, on the CPU
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
