"""The numbers that a logger draws, against the same numbers worked out by hand from copies of the weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech


def trained(optimizer: str, steps: int = 5) -> tuple[neuromech.Probe, nn.Module, torch.Tensor, torch.Tensor]:
    """The probe, the model, and the normalised weights before and after the last step."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, eps=1e-30), nn.ReLU(), nn.Linear(5, 3)
    ).double()
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.03, weight_decay=0.1)
    probe = neuromech.instrument(model)
    x, y = torch.randn(16, 6, dtype=torch.float64), torch.randint(0, 3, (16,))
    for _ in range(steps):
        before = model[0].weight.detach().clone()
        made.zero_grad()
        F.cross_entropy(model(x), y).backward()
        made.step()
    return probe, model, before, model[0].weight.detach()


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_they_are_those_of_the_weights(optimizer: str) -> None:
    probe, model, before, after = trained(optimizer)
    found = probe.scalars()
    rows, turned = before.norm(dim=1), F.cosine_similarity(before, after)
    update = after - before * (1 - 0.03 * 0.1 if optimizer == "AdamW" else 1.0)
    assert found["norm/median"] == pytest.approx(float(after.norm()), rel=1e-12)
    assert found["angle/largest"] == pytest.approx(math.sqrt(float((1 - turned**2).mean())), rel=1e-9)
    if optimizer == "AdamW":
        assert found["update_to_weight/median"] == pytest.approx(float(update.norm() / before.norm()), rel=1e-9)
        assert found["effective_lr/median"] == pytest.approx(0.03 / math.sqrt(float(after.square().sum() / 5)))
    else:
        assert found["effective_lr/median"] == pytest.approx(0.03 / float(after.square().sum() / 5))
    assert len(rows) == 5
    flat = [(p.detach().flatten(), p.grad.flatten()) for p in model.parameters()]
    weights, gradients = (float(torch.cat(each).norm()) for each in zip(*flat, strict=True))
    assert found["weight_norm"] == pytest.approx(weights, rel=1e-12)
    assert found["gradient_norm"] == pytest.approx(gradients, rel=1e-12)
    assert found["loss"] == probe.metrics.query("name == 'loss'")["value"].iloc[-1]
    kind = "predicted" if optimizer == "SGD" else "checked"
    assert 0 <= found[f"residual/{kind}"] < 1e-12


def test_they_are_few_numbers_of_python_and_there_are_some_before_the_first_step() -> None:
    model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(4, 4), nn.ReLU())])
    with neuromech.instrument(model) as probe:
        assert set(probe.scalars()) == {"loss"}
        probe.monitor(on_fault=lambda fault: None)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        found = probe.scalars()
    assert len(found) <= 30
    assert all(type(x) is float for x in found.values())
    assert found["faults"] == 0.0
    assert not any(tag.startswith("norm") for tag in found)  # nothing is normalised here


def test_a_family_is_read_where_it_moved_and_not_in_the_step_of_another_optimizer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
    probe = neuromech.instrument(model)
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.AdamW(model[2].parameters(), lr=0.1)
    for _ in range(2):
        F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,))).backward()
        first.step()
        second.step()
    assert probe.scalars()["angle/median"] > 0


def test_a_run_on_disk_has_the_same_numbers(tmp_path) -> None:
    """Its rate of change is over the length in the middle of a step, that of the live run over the one before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, eps=1e-30), nn.ReLU(), nn.Linear(5, 3))
    made = torch.optim.SGD(model.double().parameters(), lr=0.03, weight_decay=0.1)
    with neuromech.instrument(model, run=tmp_path / "run") as probe:
        probe.monitor(lambda fault: None)
        for _ in range(12):
            made.zero_grad()
            F.cross_entropy(model(torch.randn(16, 6, dtype=torch.float64)), torch.randint(0, 3, (16,))).backward()
            made.step()
        live = probe.scalars()
    opened = neuromech.open_run(tmp_path / "run")
    on_disk = opened.scalars()
    assert on_disk.keys() == live.keys()
    assert all(type(x) is float for x in on_disk.values())
    for tag in live:
        assert on_disk[tag] == pytest.approx(live[tag], rel=0.02 if tag.startswith("update") else 1e-9), tag
    newest = opened.latest()
    assert newest["step"].tolist() == [12] * len(newest)
    assert newest.equals(probe.latest())


def test_every_door_of_a_probe_to_its_records_is_there_for_a_run_on_disk() -> None:
    alive = {"averaging", "flush", "load_state_dict", "log", "monitor", "remove", "state_dict", "symmetries"}
    doors = {name for name in dir(neuromech.Probe) if not name.startswith("_")}
    assert doors - set(dir(neuromech.report.OpenedRun)) == alive


def test_a_run_without_a_step_has_no_numbers(tmp_path) -> None:
    with neuromech.instrument(nn.Linear(2, 2), run=tmp_path / "run"):
        pass
    assert neuromech.open_run(tmp_path / "run").scalars() == {}
