"""`probe.monitor()`, from the user's end: silent where nothing is wrong, loud and clear where something is."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import Fault, FaultError, FaultWarning, InstrumentError
from neuromech.record import read

X, Y = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3} | options))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5, start: int = 0) -> None:
    for k in range(start, start + steps):
        rows = slice(16 * (k % 4), 16 * (k % 4) + 16)
        optimizer.zero_grad()
        F.cross_entropy(model(X[rows]), Y[rows]).backward()
        optimizer.step()


def decay(model: nn.Module) -> None:
    with torch.no_grad():
        model[3].weight.mul_(0.9)


class TestReactions:
    def test_warn(self) -> None:
        model = net()
        monitor = neuromech.instrument(model).monitor()
        optimizer = sgd(model)
        train(model, optimizer)
        decay(model)
        with pytest.warns(FaultWarning, match=r"step 6: weights were changed .* was multiplied by 0\.9\. To do: look"):
            train(model, optimizer)
        (fault,) = monitor.faults
        assert (fault.step, fault.cause, fault.where) == (6, "edited weights", ("3.weight",))

    def test_raise_ahead_of_the_step(self) -> None:
        model = net()
        neuromech.instrument(model).monitor("raise")
        optimizer = sgd(model)
        train(model, optimizer)
        decay(model)
        kept = [p.clone() for p in model.parameters()]
        with pytest.raises(FaultError, match="step 6") as raised:
            train(model, optimizer, 1)
        assert isinstance(raised.value.fault, Fault)
        assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
        train(model, optimizer)  # who catches it can go on

    def test_call(self) -> None:
        model, told = net(), []
        probe = neuromech.instrument(model)
        probe.monitor(told.append)
        optimizer = sgd(model)
        train(model, optimizer)
        optimizer.param_groups[0]["weight_decay"] = 0.1
        train(model, optimizer)
        assert [f.cause for f in told] == ["settings"]
        assert "weight_decay of 0.weight" in str(told[0])
        assert "is 0.1; 0.001 was before" in str(told[0])

    def test_an_error_of_the_callback_is_the_users(self) -> None:
        def callback(fault: Fault) -> None:
            raise KeyError("mine")

        model = net()
        neuromech.instrument(model).monitor(callback)
        optimizer = sgd(model)
        train(model, optimizer)
        decay(model)
        with pytest.raises(KeyError, match="mine"):
            train(model, optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_is_bit_identical(dtype: torch.dtype) -> None:
    ends = []
    for watched in (True, False):
        model = net().append(nn.Dropout(0.1)).to(dtype)
        if watched:
            neuromech.instrument(model).monitor("raise")
        optimizer = sgd(model)
        torch.manual_seed(3)
        for k in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(X.to(dtype)), Y).backward()
            if k % 3 == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        momenta = [s["momentum_buffer"] for s in optimizer.state.values()]
        ends.append([*model.state_dict().values(), *momenta, torch.rand(4)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_faults_are_recorded_at_once_and_shown(tmp_path) -> None:
    model = net()
    probe = neuromech.instrument(model, run=tmp_path / "run")
    monitor = probe.monitor(lambda fault: None)
    optimizer = sgd(model)
    train(model, optimizer)
    model[0].requires_grad_(False)
    model[0].zero_grad()
    train(model, optimizer, 1)
    rows = read(tmp_path / "run").frame("faults")  # not closed, not flushed: as after kill -9
    assert rows["cause"].iloc[0] == "frozen"
    assert rows["step"].iloc[0] == 6
    assert rows["advice"].str.len().gt(10).all()
    assert read(tmp_path / "run").frame("events")["kind"].tolist().count("fault") == 1
    page = probe.report().read_text()
    assert "What happened" in page
    assert "parameters that were trained have been frozen" in page
    assert "check what set requires_grad to False" in page
    assert monitor.table()["cause"].iloc[0] == "frozen"
    assert "frozen" in repr(monitor)


def test_the_report_says_that_nothing_went_wrong(tmp_path) -> None:
    model = net()
    probe = neuromech.instrument(model)
    probe.monitor("raise")
    train(model, sgd(model))
    page = probe.report(tmp_path / "r.html").read_text()
    assert "held to rounding" in page
    assert "parameters that were trained" not in page
    assert "No monitor was on" not in page
    assert probe._record.frame("faults").empty


class TestDeclarations:
    def test_settings_by_pattern_and_by_step(self) -> None:
        model, told = net(), []
        expect = {"lr": lambda step: 0.05 if step < 4 else 0.01, "*.bias": {"weight_decay": 0.0}}
        neuromech.instrument(model).monitor(told.append, expect=expect)
        optimizer = sgd(model)
        train(model, optimizer)
        assert [f.cause for f in told] == ["settings"]
        assert "0.0 was declared" in str(told[0])
        assert told[0].times == 5
        assert told[0].where == ("0.bias", "1.bias", "3.bias", "5.bias")

    def test_a_schedule_that_is_declared_and_kept(self) -> None:
        model = net()
        neuromech.instrument(model).monitor("raise", expect={"lr": lambda step: 0.05 * 0.5 ** (step // 4)})
        optimizer = sgd(model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 ** ((k + 1) // 4))
        for k in range(8):
            train(model, optimizer, 1, k)
            schedule.step()

    def test_scheduled_weight_decay(self) -> None:
        model = net()
        neuromech.instrument(model).monitor("raise", scheduled=("lr", "weight_decay"))
        optimizer = sgd(model)
        for k in range(5):
            optimizer.param_groups[0]["weight_decay"] = 0.01 * k
            train(model, optimizer, 1, k)

    def test_ignored(self) -> None:
        model = net()
        monitor = neuromech.instrument(model).monitor("raise", ignore=["edited weights"])
        optimizer = sgd(model)
        train(model, optimizer)
        decay(model)
        train(model, optimizer)
        assert monitor.faults == []

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"on_fault": "shout"}, "on_fault='shout'"),
            ({"clip_norm": 0.0}, "clip_norm=0.0"),
            ({"clip_norm": float("nan")}, "clip_norm=nan"),
            ({"ignore": ["bad luck"]}, "the causes are"),
            ({"expect": {"fc9.*": {"lr": 1.0}}}, "no parameter of the model has such a name"),
            ({"ignore": "bad luck"}, "the causes are"),
            ({"scheduled": 3}, "scheduled=3: pass a string, or several"),
            ({"scheduled": ("lr", 1)}, "pass a string, or several"),
            ({"expect": 3}, "expect=3: pass settings by name"),
            ({"expect": {1: 2}}, "pass settings by name"),
            ({"clip_norm": "a"}, "clip_norm=a"),
            ({"replicas": "all"}, "replicas='all'"),
            ({"precision": torch.int8}, "precision=torch.int8"),
            ({"precision": "float16"}, "precision=float16"),
        ],
    )
    def test_nonsense(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(InstrumentError, match=match):
            neuromech.instrument(net()).monitor(**options)

    @pytest.mark.parametrize("options", [{"expect": {"learning_rate": 0.5}}, {"scheduled": "decay"}])
    def test_settings_that_no_group_has(self, options: dict[str, Any]) -> None:
        model = net()
        neuromech.instrument(model).monitor("raise", **options)
        with pytest.raises(InstrumentError, match=r"no param group has .* settings are .*weight_decay"):
            train(model, sgd(model), 3)

    def test_a_setting_of_another_optimizer_is_known_by_its_second_step(self) -> None:
        model = net()
        neuromech.instrument(model).monitor("raise", expect={"betas": (0.9, 0.999)})
        with pytest.raises(InstrumentError, match="betas: no param group"):
            train(model, sgd(model), 3)

    def test_what_can_be_allowed(self) -> None:
        model = net()
        monitor = neuromech.instrument(model).monitor("raise", allow="edits")
        optimizer = sgd(model)
        train(model, optimizer)
        decay(model)
        train(model, optimizer)
        assert monitor.faults == []
        with pytest.raises(InstrumentError, match="what can be allowed is sam, penalty"):
            neuromech.instrument(net()).monitor(allow="anything")

    def test_twice_or_too_late(self) -> None:
        probe = neuromech.instrument(net())
        monitor = probe.monitor(ignore="frozen")
        assert probe.monitor() is monitor
        with pytest.raises(InstrumentError, match="has its monitor already"):
            probe.monitor("raise")
        probe.remove()
        assert probe.monitor() is monitor
        other = neuromech.instrument(net())
        other.remove()
        with pytest.raises(InstrumentError, match="has been removed"):
            other.monitor()

    @pytest.mark.parametrize(("name", "word"), [("scheduled", "weight_decay"), ("ignore", "settings")])
    def test_one_string_is_one_word(self, name: str, word: str) -> None:
        model = net()
        neuromech.instrument(model).monitor("raise", **{name: word})
        optimizer = sgd(model)
        for k in range(5):
            optimizer.param_groups[0]["weight_decay"] = 0.01 * k
            train(model, optimizer, 1, k)

    def test_replicas_without_a_process_group(self) -> None:
        model = net()
        neuromech.instrument(model, strict=True).monitor(replicas=True)
        with pytest.raises(InstrumentError, match="init_process_group"):
            train(model, sgd(model), 1)


class TestResume:
    def saved(self) -> tuple[dict[str, Any], nn.Module]:
        model = net()
        probe = neuromech.instrument(model)
        probe.monitor("raise")
        optimizer = sgd(model)
        train(model, optimizer)
        buffer = io.BytesIO()
        torch.save({"m": model.state_dict(), "o": optimizer.state_dict(), "p": probe.state_dict()}, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True), model

    @pytest.mark.parametrize("early", [True, False])
    def test_a_faithful_checkpoint_is_none(self, early: bool) -> None:
        saved, straight = self.saved()
        model = net(seed=9)
        model.load_state_dict(saved["m"])
        optimizer = sgd(model)
        optimizer.load_state_dict(saved["o"])
        probe = neuromech.instrument(model)
        monitor = probe.monitor("raise") if early else None
        probe.load_state_dict(saved["p"])
        monitor = monitor or probe.monitor("raise")
        train(model, optimizer, 5, 5)
        assert monitor.step == 10
        assert monitor.faults == []
        assert not torch.equal(straight[0].weight, model[0].weight)

    def test_an_optimizer_made_anew(self) -> None:
        saved, _ = self.saved()
        model, told = net(seed=9), []
        model.load_state_dict(saved["m"])
        probe = neuromech.instrument(model)
        probe.load_state_dict(saved["p"])
        probe.monitor(told.append)
        train(model, sgd(model), 3, 5)
        assert [f.cause for f in told] == ["momentum lost"]
        assert told[0].step == 6


class TestOtherHands:
    def test_an_optimizer_that_steps_through_another(self) -> None:
        class Outer(torch.optim.Optimizer):
            def __init__(self, inner: torch.optim.Optimizer) -> None:
                super().__init__(inner.param_groups, {})
                self.inner = inner

            def step(self, closure: object = None) -> None:
                self.inner.step()

        model = net()
        monitor = neuromech.instrument(model).monitor("raise")
        train(model, Outer(sgd(model)), 6)
        assert monitor.step == 6

    def test_gradients_made_by_hand(self) -> None:
        """`torch.autograd.grad` accumulates nowhere: there is no end of a backward to be seen."""
        model = net()
        monitor = neuromech.instrument(model, example=X).monitor("raise")
        optimizer, params = sgd(model), list(model.parameters())
        for _ in range(5):
            for p, g in zip(params, torch.autograd.grad(F.cross_entropy(model(X), Y), params), strict=True):
                p.grad = g
            optimizer.step()
        assert monitor.step == 5

    def test_two_networks_that_play_against_each_other(self) -> None:
        """The backward of one adds to gradients of the other, which that one's step does not take."""

        class Game(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.g = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
                self.d = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

            def forward(self, z: torch.Tensor, cut: bool) -> torch.Tensor:
                fake = self.g(z)
                return self.d(torch.cat((X[:8], fake.detach() if cut else fake)))

        torch.manual_seed(0)
        game = Game()
        monitor = neuromech.instrument(game).monitor("raise")
        first, second = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (game.d, game.g))
        for _ in range(10):
            for optimizer, cut, sign in ((first, True, 1.0), (second, False, -1.0)):
                optimizer.zero_grad()
                F.softplus(sign * game(torch.randn(8, 4), cut)[8:]).mean().backward()
                optimizer.step()
        assert monitor.step == 20

    @pytest.mark.parametrize("how", ["after the step", "data"])
    def test_gradients_are_cleared_in_many_ways(self, how: str) -> None:
        model = net()
        monitor = neuromech.instrument(model).monitor("raise")
        optimizer = sgd(model)
        for _ in range(5):
            if how == "data":
                for p in model.parameters():
                    if p.grad is not None:
                        p.grad.data.zero_()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            if how == "after the step":
                optimizer.zero_grad(set_to_none=False)
        assert monitor.step == 5

    def test_sparse_gradients(self) -> None:
        model = nn.Sequential(nn.EmbeddingBag(50, 8, sparse=True), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        monitor = neuromech.instrument(model).monitor("raise")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randint(0, 50, (16, 4))), Y[:16]).backward()
            optimizer.step()
        assert monitor.step == 5

    def test_started_in_mid_run(self) -> None:
        model = net()
        optimizer = sgd(model)
        probe = neuromech.instrument(model)
        train(model, optimizer)
        monitor = probe.monitor("raise")
        train(model, optimizer)
        assert monitor.step == 10

    def test_a_subclass_with_a_step_of_its_own_is_not_held_to_the_parents(self) -> None:
        class Half(torch.optim.SGD):
            @torch.no_grad()
            def step(self, closure: object = None) -> None:  # type: ignore[override]
                for p in self.param_groups[0]["params"]:
                    p.sub_(p.grad, alpha=0.01)

        model = net()
        neuromech.instrument(model).monitor("raise")
        train(model, Half(model.parameters(), lr=0.1))

    def test_a_subclass_that_calls_the_step_of_its_class(self) -> None:
        """Torch wraps the step of a class at its first instance: then both steps run hooks, one inside the other."""

        class Adapting(torch.optim.SGD):
            def step(self, closure: object = None) -> None:  # type: ignore[override]
                super().step()
                self.param_groups[0]["weight_decay"] *= 1.01

        sgd(net())
        model = net()
        monitor = neuromech.instrument(model).monitor("raise")
        train(model, Adapting(model.parameters(), lr=0.05, weight_decay=1e-3))
        assert monitor.step == 5

    def test_copies_of_the_model_are_not_watched(self) -> None:
        model = net()
        monitor = neuromech.instrument(model).monitor("raise")
        train(model, sgd(model))
        other = copy.deepcopy(model)
        decay(other)
        train(other, sgd(other, lr=0.2))
        assert monitor.step == 5

    def test_a_forgotten_model_is_freed(self) -> None:
        import gc
        import weakref

        model = net()
        neuromech.instrument(model).monitor()
        train(model, sgd(model))
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None

    def test_failure_of_the_monitor_does_not_stop_training(self, monkeypatch) -> None:
        model = net()
        monitor = neuromech.instrument(model).monitor("raise")
        optimizer = sgd(model)
        train(model, optimizer)

        def broken(*_: object) -> None:
            raise RuntimeError("out of luck")

        monkeypatch.setattr(monitor._reader, "_measure", broken)
        with pytest.warns(neuromech.NeuromechWarning, match="out of luck"):
            train(model, optimizer)


def test_the_law_follows_a_bit_that_flipped_behind_the_backward() -> None:
    """The gradient is one of other weights: it has a torque, which the momentum hands on. That is no second fault."""
    model = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 3)).double()  # one of too many to be sampled
    probe = neuromech.instrument(model)
    told: list[Fault] = []
    probe.monitor(told.append)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(1, 16):
        optimizer.zero_grad()
        F.cross_entropy(model(X.double()), Y).backward()
        if step == 5:
            model[0].weight.data.view(torch.int64)[33, 2] ^= 1 << 52  # twice or half of it, and no counter counts this
        optimizer.step()
    probe.flush()
    assert [(f.step, f.cause) for f in told] == [(5, "bit flip in weight")]
    assert float(probe.history["residual"].max()) < 1e-13


def test_how_often_a_fault_was_seen_is_recorded_at_the_end(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with neuromech.instrument(model, run=tmp_path / "run") as probe:
        probe.monitor(lambda fault: None)
        for _ in range(11):
            nn.functional.cross_entropy(model(torch.randn(6, 4)), torch.tensor([0, 1, 2] * 2)).backward()
            optimizer.zero_grad(set_to_none=False)
            optimizer.step()
    rows = read(tmp_path / "run").frame("faults")
    assert rows["times"].max() == 11
    assert rows.query("times == 11")["last"].tolist() == [11]


def test_steps_that_were_not_watched_are_counted(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with neuromech.instrument(model, run=tmp_path / "run") as probe:
        for k in range(5):
            if k == 3:
                probe.monitor()
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
    assert read(tmp_path / "run").meta["unwatched"] == 3
