"""The handle, from the user's end: one line before the loop, nothing changed, everything kept."""

import copy
import io
import pickle

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import InstrumentError, NeuromechWarning, RecordError


def small(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(),
        nn.Linear(6, 3),
    ).to(dtype)  # fmt: skip


def batch(n: int = 8, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 4, 4, generator=g, dtype=dtype), torch.randint(0, 3, (n,), generator=g)


def sgd(model: nn.Module, **options: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3} | options))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    x, y = batch(dtype=next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def worst(history: pd.DataFrame) -> float:
    return history["residual"].max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("early", [True, False])
def test_training_is_bit_identical(dtype: torch.dtype, early: bool) -> None:
    """Weights, buffers, momentum and the random numbers that come next are those of a bare run."""
    ends = []
    for instrumented in (True, False):
        model = small(dtype)
        if instrumented:
            x, y = batch(dtype=dtype)
            kwargs = {"loss": nn.CrossEntropyLoss(), "example": (x, y)} if early else {}
            neuromech.instrument(model, **kwargs)
        optimizer = sgd(model)
        torch.manual_seed(3)
        train(model, optimizer, 20)
        momenta = [s["momentum_buffer"] for s in optimizer.state.values()]
        ends.append([*model.state_dict().values(), *momenta, torch.rand(4)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_predictions_lie_on_observations() -> None:
    model = small()
    probe = neuromech.instrument(model)
    train(model, sgd(model), 50)
    history = probe.history
    assert set(history["symmetry"]) == set(range(len(probe.symmetries)))
    assert history["step"].max() == 50
    assert worst(history) < 1e-13
    # The charges really moved, and the law without the eps leak is visibly worse: the test could fail.
    whole = history[history["member"] == -1].groupby("symmetry")
    assert ((whole["observed"].max() - whole["observed"].min()) > 1e-4).all()
    assert history["ideal_residual"].max() > 1e-9


def test_charges_are_those_of_the_symmetries() -> None:
    model = small()
    probe = neuromech.instrument(model, members=None)
    train(model, sgd(model), 3)
    params = dict(model.named_parameters())
    last = probe.history.query("step == 3")
    for i, s in enumerate(probe.symmetries):
        charge = s.charge(params)
        rows = last[last["symmetry"] == i].set_index("member")["observed"]
        torch.testing.assert_close(torch.tensor(rows.drop(-1).values), charge)
        assert rows[-1] == pytest.approx(float(charge.sum()))


def test_loss_is_recognised_or_given_with_the_same_result() -> None:
    model = small()
    x, y = batch()
    given = neuromech.instrument(model, loss=nn.CrossEntropyLoss(), example=(x, y))
    names = {s.name for s in given.symmetries}
    given.remove()
    recognised = neuromech.instrument(model)
    train(model, sgd(model), 1)
    assert {s.name for s in recognised.symmetries} == names
    assert any("recognised" in note for note in recognised.symmetries.notes)


def test_symmetries_before_the_first_step() -> None:
    model = small()
    probe = neuromech.instrument(model)
    with pytest.raises(InstrumentError, match="no forward"):
        _ = probe.symmetries
    model(batch()[0])
    assert any(s.kind == "rescale" for s in probe.symmetries)
    assert not any("7.bias" in s.parameters for s in probe.symmetries)  # softmax has not been seen yet


def test_example_without_a_loss_is_captured_at_once_and_the_loss_recognised_later() -> None:
    model = small()
    probe = neuromech.instrument(model, example=batch()[0])
    assert {s.kind for s in probe.symmetries} == {"scale", "rescale", "translation"}
    assert not any("7.bias" in s.parameters for s in probe.symmetries)
    assert all(s.defect < 1e-3 for s in probe.symmetries)
    train(model, sgd(model), 3)
    assert any("7.bias" in s.parameters for s in probe.symmetries)
    assert worst(probe.history) < 1e-13


def test_example_serves_where_the_model_itself_is_never_called() -> None:
    model, (x, y) = small(), batch()
    probe = neuromech.instrument(model, example=x)
    F.cross_entropy(model[1:](model[0](x)), y).backward()
    sgd(model).step()
    assert probe.history["step"].max() == 1
    assert any("7.bias" in s.parameters for s in probe.symmetries)  # by the gradients: nobody has seen the loss


def test_evaluation_before_training_does_not_count() -> None:
    model = small()
    probe = neuromech.instrument(model)
    model.eval()
    model(batch()[0])  # gradients enabled, yet nothing is trained: running statistics are no batch norm
    model.train()
    train(model, sgd(model), 2)
    assert any(s.kind == "scale" for s in probe.symmetries)


def test_closure() -> None:
    model, (x, y) = small(), batch()
    probe = neuromech.instrument(model)
    optimizer = sgd(model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for k in range(6):
        returned = optimizer.step(closure) if k % 2 else optimizer.step(closure=closure)
        assert isinstance(returned, torch.Tensor)
    assert probe.history["step"].max() == 6
    assert worst(probe.history) < 1e-13


@pytest.mark.parametrize(("make", "law"), [(torch.optim.Adam, "rebuilt"), (torch.optim.LBFGS, "measured")])
def test_what_is_known_of_an_optimizer_is_said(make: type[torch.optim.Optimizer], law: str) -> None:
    model, (x, y) = small(), batch()
    probe = neuromech.instrument(model)
    optimizer = make(model.parameters(), lr=0.01)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert worst(probe.history) < 1e-13
    assert [o["law"] for o in probe._record.meta["optimizers"]] == [law]
    events = probe._record.frame("events")
    assert (len(events) == 0) == (law == "rebuilt")
    assert law == "rebuilt" or "LBFGS" in events["message"][0]


def test_parameter_groups_schedules_and_frozen_parts() -> None:
    """Everything that changes in mid-run is followed: settings by group, the schedule, a layer that is frozen."""
    model = small()
    probe = neuromech.instrument(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = sgd(model)
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "lr": 0.01}], lr=0.05, momentum=0.9
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for k in range(30):
        if k == 10:
            model[5].weight.requires_grad_(False)
            model[5].weight.grad = None
        if k == 20:
            model[5].weight.requires_grad_(True)
        train(model, optimizer, 1)
        schedule.step()
    assert worst(probe.history) < 1e-13
    events = probe._record.frame("events")
    assert events["message"].str.contains("5.weight stand still").any()
    assert events["message"].str.contains("5.weight move").any()


def test_two_optimizers_share_a_model() -> None:
    model = small()
    probe = neuromech.instrument(model)
    first = torch.optim.SGD(model[:4].parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    second = torch.optim.SGD(model[4:].parameters(), lr=0.02, momentum=0.5)
    x, y = batch()
    for _ in range(10):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        first.step()
        second.step()
    assert probe.history["step"].max() == 20
    assert worst(probe.history) < 1e-13


def test_resume_is_exact(tmp_path) -> None:
    """Interrupted, saved, loaded into fresh objects: the history is that of a run that was never interrupted."""
    whole = small()
    straight = neuromech.instrument(whole)
    train(whole, sgd(whole), 12)

    model = small()
    optimizer = sgd(model)
    with neuromech.instrument(model, run=tmp_path / "run") as probe:
        train(model, optimizer, 7)
        buffer = io.BytesIO()
        torch.save({"m": model.state_dict(), "o": optimizer.state_dict(), "p": probe.state_dict()}, buffer)
        random = torch.get_rng_state()
        train(model, optimizer, 2)  # lost steps: the process dies after its last checkpoint
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    model = small(seed=5)
    model.load_state_dict(saved["m"])
    optimizer = sgd(model)
    optimizer.load_state_dict(saved["o"])
    probe = neuromech.instrument(model, run=tmp_path / "run", resume=True)
    probe.load_state_dict(saved["p"])
    torch.set_rng_state(random)
    train(model, optimizer, 5)
    a, b = (
        p.history.sort_values(["step", "symmetry", "member"]).reset_index(drop=True).drop(columns="session")
        for p in (straight, probe)
    )
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_resume_refuses_another_model(tmp_path) -> None:
    model = small()
    probe = neuromech.instrument(model)
    assert probe.state_dict() == {}  # checkpoints may be written ahead of the first step
    probe.load_state_dict({})
    train(model, sgd(model), 1)
    state = probe.state_dict()
    with pytest.raises(RecordError, match="measured already"):
        probe.load_state_dict(state)
    with pytest.raises(RecordError, match="another model"):
        neuromech.instrument(nn.Linear(2, 2)).load_state_dict(state)


def test_remove_and_context_manager() -> None:
    model = small()
    optimizer = sgd(model)
    with neuromech.instrument(model, optimizer=optimizer) as probe:
        train(model, optimizer, 2)
    train(model, optimizer, 2)
    assert probe.history["step"].max() == 2
    probe.remove()
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    with neuromech.instrument(model) as again:
        train(model, optimizer, 1)
    assert again.history["step"].max() == 1


def test_copies_of_the_model_are_not_instrumented() -> None:
    model = small()
    probe = neuromech.instrument(model)
    train(model, sgd(model), 1)
    average = copy.deepcopy(model)
    restored = pickle.loads(pickle.dumps(model))
    for other in (average, restored):
        train(other, sgd(other), 3)
    assert probe.history["step"].max() == 1
    neuromech.instrument(average)


class TestBadInput:
    def test_no_parameters(self) -> None:
        with pytest.raises(InstrumentError, match="no trainable parameters"):
            neuromech.instrument(nn.ReLU())

    def test_all_frozen(self) -> None:
        with pytest.raises(InstrumentError, match="no trainable parameters"):
            neuromech.instrument(nn.Linear(2, 2).requires_grad_(False))

    def test_twice(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        with pytest.raises(InstrumentError, match="instrumented already"):
            neuromech.instrument(model)
        probe.remove()
        neuromech.instrument(model)

    def test_foreign_optimizer(self) -> None:
        with pytest.raises(InstrumentError, match="holds none of the parameters"):
            neuromech.instrument(small(), optimizer=sgd(small()))

    def test_another_models_optimizer_is_ignored(self) -> None:
        model, other = small(), small()
        probe = neuromech.instrument(model)
        train(other, sgd(other), 2)
        assert probe.history.empty

    def test_unwritable_run(self, tmp_path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(RecordError):
            neuromech.instrument(small(), run=tmp_path / "file" / "run")

    def test_loss_without_example(self) -> None:
        with pytest.raises(InstrumentError, match="example"):
            neuromech.instrument(small(), loss=nn.CrossEntropyLoss())

    def test_example_without_target(self) -> None:
        with pytest.raises(InstrumentError, match=r"\(inputs, target\)"):
            neuromech.instrument(small(), loss=nn.CrossEntropyLoss(), example=batch()[0])

    def test_every(self) -> None:
        with pytest.raises(InstrumentError, match="every=0"):
            neuromech.instrument(small(), every=0)


class TestTrouble:
    """What goes wrong in a run is said, and nothing recorded before is lost."""

    def test_no_forward(self, tmp_path) -> None:
        model = small()
        probe = neuromech.instrument(model)
        x, y = batch()
        F.cross_entropy(model[1:](model[0](x)), y).backward()  # the parts, not the model
        with pytest.warns(NeuromechWarning, match="call the model itself"):
            sgd(model).step()
        with pytest.warns(NeuromechWarning, match="NM-nothing-measured"):  # in the terminal, as well as on the page
            page = probe.report(tmp_path / "r.html")
        assert "call the model itself" in page.read_text()

    def test_no_backward(self, tmp_path) -> None:
        model = small()
        probe = neuromech.instrument(model)
        model(batch()[0])
        with pytest.warns(NeuromechWarning, match="no backward has been seen"):
            page = probe.report(tmp_path / "r.html")
        assert "no backward has been seen" in page.read_text()

    def test_no_symmetry(self, tmp_path) -> None:
        model = nn.Linear(3, 1).double()
        probe = neuromech.instrument(model)
        F.mse_loss(model(torch.randn(5, 3).double()), torch.zeros(5, 1).double()).backward()
        with pytest.warns(NeuromechWarning, match="no symmetry"):
            sgd(model).step()
        assert "no symmetry" in probe.report(tmp_path / "r.html").read_text()

    def test_nan(self, tmp_path) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        train(model, optimizer, 3)
        for p in model.parameters():
            assert p.grad is not None
            p.grad.fill_(float("nan"))
        optimizer.step()
        train(model, optimizer, 2)
        history = probe.history
        assert history["step"].max() == 6
        assert worst(history.query("step <= 3")) < 1e-13
        assert "The loss is not finite from step 5 on" in probe.report(tmp_path / "r.html").read_text()

    def test_replaced_parameter(self, tmp_path) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        train(model, optimizer, 3)
        model[5].weight = nn.Parameter(torch.zeros_like(model[5].weight))
        with pytest.warns(NeuromechWarning, match="5.weight was replaced"):
            train(model, optimizer, 2)
        assert worst(probe.history.query("step <= 3")) < 1e-13
        assert "5.weight was replaced" in probe.report(tmp_path / "r.html").read_text()

    def test_added_parameter(self, tmp_path) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        train(model, optimizer, 2)
        model.append(nn.Linear(3, 3).double())
        with pytest.warns(NeuromechWarning, match="came into the model"):
            probe.flush()

    def test_failure_of_the_instrument_does_not_stop_training(self, monkeypatch) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        train(model, optimizer, 3)

        def broken(*_: object) -> None:
            raise RuntimeError("out of luck")

        monkeypatch.setattr(probe._measurement._laws, "after", broken)
        before = [p.clone() for p in model.parameters()]
        with pytest.warns(NeuromechWarning, match="out of luck"):
            train(model, optimizer, 2)
        assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert probe.history["step"].max() == 3

    def test_forgotten_model_is_freed(self) -> None:
        import gc
        import weakref

        model = small()
        neuromech.instrument(model)
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None


class TestOtherHands:
    """What others do to the optimizer, the weights or the loop beside us."""

    def test_a_clipping_hook_added_in_mid_run_is_seen(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        train(model, optimizer, 3)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)

        optimizer.register_step_pre_hook(clip)
        train(model, optimizer, 3)
        assert worst(probe.history) < 1e-13

    @pytest.mark.parametrize("what", ["weights", "momentum"])
    def test_what_no_step_did_starts_the_predictions_over_and_is_said(self, what: str) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        train(model, optimizer, 3)
        of = model if what == "weights" else optimizer
        kept = copy.deepcopy(of.state_dict())
        train(model, optimizer, 3)
        of.load_state_dict(kept)
        with pytest.warns(NeuromechWarning, match="before step 7, .*start over"):
            train(model, optimizer, 3)
        assert worst(probe.history) < 1e-13
        assert list(probe._record.frame("events")["kind"]) == ["changed"]

    def test_weights_moved_and_put_back_are_no_change(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        for _ in range(3):
            train(model, optimizer, 1)
            kept = copy.deepcopy(model.state_dict())
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(0.5)  # evaluated with other weights, as averages are
            model.load_state_dict(kept)
        assert probe._record.frame("events").empty
        assert worst(probe.history) < 1e-13

    def test_a_state_loaded_beside_other_weights_is_said(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        train(model, sgd(model), 3)
        state = probe.state_dict()
        other = small(seed=4)
        resumed = neuromech.instrument(other)
        resumed.load_state_dict(state)
        with pytest.warns(NeuromechWarning, match="before step 4, .*start over"):
            train(other, sgd(other), 3)
        assert worst(resumed.history) < 1e-13

    def test_an_optimizer_that_steps_through_another(self) -> None:
        class Outer(torch.optim.Optimizer):
            def __init__(self, inner: torch.optim.Optimizer) -> None:
                super().__init__(inner.param_groups, {})
                self.inner = inner

            def step(self, closure: object = None) -> None:
                self.inner.step()

        model = small()
        probe = neuromech.instrument(model)
        train(model, Outer(sgd(model)), 4)
        assert probe.history["step"].max() == 4
        assert worst(probe.history) < 1e-13

    def test_overflow_in_the_first_steps_is_waited_out(self) -> None:
        """A gradient that is infinite tells nothing of the loss: `GradScaler` skips such steps."""
        model = small()
        probe = neuromech.instrument(model)
        optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=4.0)
        x, y = batch()
        for k in range(3):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y) * (float("inf") if k == 0 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert probe.history["step"].max() == 2
        assert any(s.parameters == ("7.bias",) for s in probe.symmetries)  # the shift that softmax ignores

    def test_a_forward_that_fails_fails_with_its_own_error(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(torch.zeros(2, 1, 1, 1).double())
        train(model, sgd(model), 2)
        assert probe.history["step"].max() == 2

    def test_a_step_before_any_backward_is_none(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        optimizer.step()
        train(model, optimizer, 2)
        assert probe.history["step"].max() == 2
        assert probe._record.frame("events").empty

    def test_used_optimizers_are_freed(self) -> None:
        import gc
        import weakref

        model = small()
        probe = neuromech.instrument(model)
        for _ in range(3):
            optimizer = sgd(model)
            train(model, optimizer, 2)
        gone = weakref.ref(optimizer)
        del optimizer
        gc.collect()
        assert gone() is None
        assert worst(probe.history) < 1e-13
        assert len(probe._record.meta["optimizers"]) == 1

    def test_events_of_one_kind_do_not_pile_up(self) -> None:
        model = small()
        probe = neuromech.instrument(model)
        optimizer = sgd(model)
        x, y = batch()
        for k in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if k % 2:
                model[5].weight.grad = None
            optimizer.step()
        messages = list(probe._record.frame("events")["message"])
        assert len(messages) == 20
        assert "not listed" in messages[-1]
        assert worst(probe.history) < 1e-13

    def test_resuming_a_directory_without_a_state_is_said(self, tmp_path) -> None:
        model = small()
        with neuromech.instrument(model, run=tmp_path / "run"):
            train(model, sgd(model), 2)
        neuromech.instrument(model, run=tmp_path / "run", resume=True)
        with pytest.warns(NeuromechWarning, match="steps count from 0 again"):
            train(model, sgd(model), 2)

    def test_a_model_is_known_through_its_wrapper(self) -> None:
        model = small()
        neuromech.instrument(nn.DataParallel(model))
        with pytest.raises(InstrumentError, match="instrumented already"):
            neuromech.instrument(model)

    @pytest.mark.parametrize("wrong", [{"found": {}}, None])
    def test_a_state_that_is_none(self, wrong: object) -> None:
        with pytest.raises(RecordError, match="expected what state_dict"):
            neuromech.instrument(small()).load_state_dict(wrong)

    @pytest.mark.parametrize("options", [{"members": -1}, {"members": 1.5}, {"every": 2.5}])
    def test_numbers_that_make_no_sense(self, options: dict) -> None:
        with pytest.raises(InstrumentError, match=next(iter(options))):
            neuromech.instrument(small(), **options)

    def test_not_a_model(self) -> None:
        with pytest.raises(InstrumentError, match="got str"):
            neuromech.instrument("model")
