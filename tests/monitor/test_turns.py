"""What a run turns to in its middle: another optimizer, another head, other names, and a model that is not served."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim.optimizer import Optimizer

import neuromech
from neuromech.monitor import Monitor

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def train(model: nn.Module, optimizer: Optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()


def watched(model: nn.Module) -> Monitor:
    return neuromech.instrument(model).monitor(on_fault=lambda fault: None)


def told(monitor: Monitor) -> list[str]:
    return [fault.suspects[0].key for fault in monitor.faults]


def test_an_optimizer_of_another_kind_takes_over_from_one_that_is_gone() -> None:
    model = net()
    probe = neuromech.instrument(model)
    monitor = probe.monitor(on_fault=lambda fault: None)
    train(model, torch.optim.Adam(model.parameters(), lr=1e-2))
    gc.collect()  # nobody holds it any more
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert told(monitor) == []
    (text,) = probe.events.message[probe.events.kind == "practice"]
    assert "SGD takes over from Adam" in text


def test_one_of_the_same_kind_has_lost_its_averages() -> None:
    model = net()
    monitor = watched(model)
    for _ in range(2):
        train(model, torch.optim.Adam(model.parameters(), lr=1e-2))
        gc.collect()
    assert told(monitor) == ["momentum lost"]


@pytest.mark.parametrize("held", [False, True])
def test_a_head_that_is_exchanged_needs_an_optimizer(held: bool) -> None:
    model = net()
    monitor, optimizer = watched(model), torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer)
    model[2] = nn.Linear(5, 3)
    if held:
        train(model, optimizer, 1)  # told of it one step late
        optimizer.add_param_group({"params": list(model[2].parameters())})
    train(model, optimizer)
    assert told(monitor) == ([] if held else ["not held"])
    if not held:
        assert monitor.faults[0].suspects[0].where == ("2.bias", "2.weight")


def test_a_weight_that_is_pruned_has_another_name_and_is_no_other_weight() -> None:
    model = net()
    probe, optimizer = neuromech.instrument(model), torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer)
    prune.l1_unstructured(model[0], "weight", 0.3)
    train(model, optimizer)
    with pytest.warns(neuromech.NeuromechWarning, match=r"0\.weight is called 0\.weight_orig"):
        probe.flush()
    (text,) = probe.events.message[probe.events.kind == "added"]
    assert "0.weight is called 0.weight_orig" in text
    assert "not measured" not in text


def test_a_critic_that_rests_while_its_adversary_trains_through_it() -> None:
    def run(instrumented: bool) -> tuple[nn.Module, neuromech.Probe | None]:
        torch.manual_seed(0)
        made, critic = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)), net()
        probe = neuromech.instrument(critic) if instrumented else None
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (made, critic)]
        for _ in range(4):
            for turn, optimizer in enumerate(optimizers):  # the critic is frozen in the very first forward
                critic.requires_grad_(turn == 1)
                optimizer.zero_grad()
                F.cross_entropy(critic(made(X) if turn == 0 else X), Y).backward()
                optimizer.step()
        return critic, probe

    (bare, _), (critic, probe) = run(False), run(True)
    assert all(torch.equal(p, q) for p, q in zip(critic.parameters(), bare.parameters(), strict=True))
    assert probe is not None
    assert "0.weight[i], 0.bias[i] / 2.weight[:, i]" in [s.name for s in probe.symmetries]
    assert probe.history.residual.max() < 1e-5
    assert probe.events.empty


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scripting
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # PyTorch 2.14 deprecates it
def test_asking_for_a_monitor_never_ends_a_run_that_is_not_served() -> None:
    class Unserved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scripted = torch.jit.script(nn.Linear(4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.scripted(x)
            return out

    model = Unserved()
    with pytest.warns(neuromech.NeuromechWarning, match="stands aside"):
        probe = neuromech.instrument(model)
    monitor = probe.monitor()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert told(monitor) == []
    assert "nothing has been checked" in repr(monitor)
    assert probe.monitor() is monitor


def test_a_probe_that_was_removed_has_no_monitor() -> None:
    probe = neuromech.instrument(net())
    probe.remove()
    with pytest.raises(neuromech.InstrumentError, match="has been removed"):
        probe.monitor()
