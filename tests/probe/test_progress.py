"""How a run goes on: the loss that backward saw, what was logged, what moved charges and is not explained, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from neuromech.record import process
from tests.families import fast

STEPS = 6


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


def batch(k: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(k)
    return torch.randn(16, 5, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def loss_of(model: nn.Module, k: int) -> Tensor:
    x, y = batch(k)
    return F.cross_entropy(model(x), y)


def plainly(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> float:
    loss = loss_of(model, k)
    loss.backward()
    optimizer.step()
    return loss.item()


def by_grad(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> float:
    loss = loss_of(model, k)
    for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
        p.grad = g
    optimizer.step()
    return loss.item()


def accumulating(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> float:
    losses = [loss_of(model, 2 * k + i) / 2 for i in range(2)]
    for loss in losses:
        loss.backward()
    optimizer.step()
    return sum(loss.item() for loss in losses)


def twice_through_one_graph(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> float:
    (x, y), (z, _) = batch(k), batch(k + 1)
    loss = F.cross_entropy(model(x), y) + model(z).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def in_a_closure(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> float:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, k)
        loss.backward()
        return loss

    return optimizer.step(closure).item()


def checkpointed(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> float:
    x, y = batch(k)
    hidden = torch.utils.checkpoint.checkpoint(lambda x: x.square(), model(x), use_reentrant=False)
    loss = F.cross_entropy(hidden, y)
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(
    "step",
    [plainly, by_grad, accumulating, twice_through_one_graph, in_a_closure, checkpointed],
    ids=lambda f: f.__name__,
)
def test_the_loss_is_what_backward_was_called_on(
    step: Callable[[nn.Module, torch.optim.Optimizer, int], float],
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with neuromech.instrument(model) as probe:
        losses = []
        for k in range(STEPS):
            optimizer.zero_grad()
            losses.append(step(model, optimizer, k))
    recorded = probe.metrics.query("name == 'loss'")
    assert recorded["step"].tolist() == list(range(1, STEPS + 1))
    assert recorded["value"].tolist() == pytest.approx(losses, rel=1e-6)


def test_the_scale_of_a_grad_scaler_is_taken_out() -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with neuromech.instrument(model) as probe:
        losses = []
        for k in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, k)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    assert probe.metrics.query("name == 'loss'")["value"].tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_weights_and_gradient_are_read_now_and_then(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms: dict[str, list[float]] = {"weight norm": [], "gradient norm": []}
    with neuromech.instrument(model) as probe:
        for k in range(70):
            optimizer.zero_grad()
            x, y = batch(k)
            F.cross_entropy(model(x.to(dtype)).float(), y).backward()
            optimizer.step()
            for name, of in (("weight norm", lambda p: p.detach()), ("gradient norm", lambda p: p.grad)):
                norms[name].append(sum(float(of(p).double().square().sum()) for p in model.parameters()) ** 0.5)
    rows = probe.metrics
    assert set(rows["name"]) == {"loss", "weight norm", "gradient norm"}
    for name, expected in norms.items():
        own = rows[rows["name"] == name]
        steps = own["step"].tolist()
        assert steps == [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4)]
        assert own["value"].tolist() == pytest.approx([expected[k - 1] for k in steps], rel=1e-6)


def test_of_an_optimizer_that_looks_ahead_the_first_loss_counts() -> None:
    model = net()
    optimizer = neuromech.EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), backend="gradients")
    with neuromech.instrument(model) as probe:
        losses = [in_a_closure(model, optimizer, k) for k in range(STEPS)]
    assert probe.metrics.query("name == 'loss'")["value"].tolist() == pytest.approx(losses, rel=1e-6)
    (described,) = probe._record.meta["optimizers"]
    assert described["wrapper"] | {"base": "SGD"} == {
        "base": "SGD",
        "class": "EoMOptimizer", "order": 1, "follow": "flow", "backend": "gradients", "plain": 1.0
    }  # fmt: skip


def test_of_an_optimizer_that_evaluates_its_closure_often_the_first_loss_counts() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with neuromech.instrument(model) as probe:
        losses = [in_a_closure(model, optimizer, k) for k in range(STEPS)]  # what LBFGS returns is the first
    assert probe.metrics.query("name == 'loss'")["value"].tolist() == pytest.approx(losses, rel=1e-6)


def test_logged_numbers_and_a_logged_loss() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with neuromech.instrument(model) as probe:
        plainly(model, optimizer, 0)
        probe.log(accuracy=0.5, loss=torch.tensor(7.0))
        plainly(model, optimizer, 1)
        probe.log(loss=3)
    rows = probe.metrics
    assert rows.query("name == 'accuracy'")[["step", "value"]].to_numpy().tolist() == [[1, 0.5]]
    assert rows.query("name == 'loss'").drop_duplicates("step", keep="last")["value"].tolist() == [7.0, 3.0]
    with pytest.raises(neuromech.RecordError, match=r"log\(x=...\) takes a number, not list"):
        probe.log(x=[1, 2])
    with pytest.raises(neuromech.RecordError, match=r"not a tensor of shape \(2,\)"):
        probe.log(x=torch.zeros(2))


def test_what_no_term_explains_is_called_unexplained_and_not_rounding() -> None:
    """A penalty in the loss, of which no law knows."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run(penalty: float) -> tuple[float, float, float]:
        with neuromech.instrument(model, members=2) as probe:
            for k in range(60):
                optimizer.zero_grad()
                loss = loss_of(model, k)
                if k > 5:  # what gradients of the first step break is not claimed at all
                    loss = loss + penalty * sum(w.square().sum() for w in model.parameters())
                loss.backward()
                optimizer.step()
        assert set(probe.terms["member"]) > {-1, 0}
        last = probe.terms.query("step == 60 and member == -1 and name.str.contains('/')").iloc[0]
        charges = probe.history.query(f"symmetry == {last['symmetry']} and member == -1")["observed"]
        terms = probe.terms.drop(columns=["step", "symmetry", "name", "member", "turn", "session"]).columns
        assert last[terms].sum() == pytest.approx(charges.iloc[-1] - charges.iloc[0], rel=1e-9)
        return last["rounding"], last["unexplained"], charges.iloc[-1] - charges.iloc[0]

    rounding, unexplained, _ = run(0.0)
    assert unexplained == 0.0
    assert abs(rounding) < 1e-4
    rounding, unexplained, change = run(1e-2)
    assert abs(rounding) < 1e-4
    assert abs(unexplained) > 0.5 * abs(change)


def test_the_end_of_a_run_is_told(tmp_path: Path) -> None:
    def train(run: str, fails: bool) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with neuromech.instrument(model, run=tmp_path / run, name="a try", config={"width": 6}):
            plainly(model, optimizer, 0)
            if fails:
                raise ZeroDivisionError("oh no")

    train("well", fails=False)
    with pytest.raises(ZeroDivisionError):
        train("badly", fails=True)
    (session,) = neuromech.record.read(tmp_path / "well").sessions
    assert session["ended"]["how"] == "finished"
    assert session["meta"]["name"] == "a try"
    assert session["meta"]["config"] == {"width": 6}
    assert session["meta"]["every"] == 1
    assert session["process"]["pid"] == os.getpid()
    (session,) = neuromech.record.read(tmp_path / "badly").sessions
    assert (session["ended"]["how"], session["ended"]["what"]) == ("raised", "ZeroDivisionError: oh no")
    progress = neuromech.record.read(tmp_path / "well").frame("progress")
    assert progress["step"].iloc[-1] == 1
    assert 0 < progress["measuring"].iloc[-1] < progress["seconds"].iloc[-1]


SCRIPT = """
import os, signal, sys, torch, neuromech
model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
probe = neuromech.instrument(model, run=sys.argv[1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(2, 5)).sum().backward()
optimizer.step()
probe.flush()
{end}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "how"),
    fast(
        [("", "finished"), ("raise ValueError('bad luck')", "raised"), ("os.kill(os.getpid(), 9)", None)],
        [("raise ValueError('bad luck')", "raised")],
    ),
)
def test_a_script_that_never_removes_its_probe(tmp_path: Path, end: str, how: str | None) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(end=end))
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run"), "--api-key", "hush"],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode == -signal.SIGKILL) == (how is None)
    text = (tmp_path / "run" / "run.json").read_text()
    assert "hush" not in text
    (session,) = json.loads(text)["sessions"]
    assert session.get("ended", {}).get("how") == how
    if how == "raised":
        assert session["ended"]["what"] == "ValueError: bad luck"
    assert process.alive(session["process"]) is False
    assert session["process"]["command"].endswith("--api-key '***'")


def test_secrets_on_the_command_line_are_left_out() -> None:
    said = process.command(
        ["train.py", "--token=abc", "--lr", "0.1", "WANDB_API_KEY=xyz", "--password", "p q", "--keys"]
    )
    assert said == "train.py '--token=***' --lr 0.1 'WANDB_API_KEY=***' --password '***' --keys"


def test_a_config_that_is_none_is_refused() -> None:
    with pytest.raises(neuromech.InstrumentError, match="config= takes a dict"):
        neuromech.instrument(net(), config=["lr"])
