"""Laws of optimizers that torch does not have, against the real ones of their packages: 1,000 steps in float64."""

from typing import Any

import pytest
import torch
from dynamics.cases import normed, train, watched
from dynamics.test_optimizers import by_kind, distance
from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.dynamics import law_of
from neuromech.monitor.checks.step import StepCheck
from neuromech.monitor.facts import StepReader
from neuromech.monitor.sample import Sample
from neuromech.optimizers import rule_of
from neuromech.optimizers.registry import _CLASSES
from tests.families import fast

po = pytest.importorskip("pytorch_optimizer")
schedulefree = pytest.importorskip("schedulefree")

REBUILT: list[tuple[str, type[Optimizer], dict[str, Any]]] = [
    ("schedulefree.SGDScheduleFree", schedulefree.SGDScheduleFree, {"lr": 0.05, "weight_decay": 0.01}),
    (
        "schedulefree.SGDScheduleFree",
        schedulefree.SGDScheduleFree,
        {"lr": 0.05, "momentum": 0.8, "warmup_steps": 20, "r": 0.5, "foreach": False},
    ),
    ("schedulefree.AdamWScheduleFree", schedulefree.AdamWScheduleFree, {"lr": 2e-3, "weight_decay": 0.1}),
    (
        "schedulefree.AdamWScheduleFree",
        schedulefree.AdamWScheduleFree,
        {"lr": 2e-3, "warmup_steps": 20, "foreach": False},
    ),
    ("pytorch_optimizer.Lion", po.Lion, {"lr": 3e-4, "weight_decay": 0.3}),
    ("pytorch_optimizer.AdamC", po.AdamC, {"lr": 1e-3, "weight_decay": 0.1}),
    ("pytorch_optimizer.AdamC", po.AdamC, {"lr": 1e-3, "weight_decay": 0.1, "ams_bound": True, "foreach": False}),
    ("pytorch_optimizer.AdamP", po.AdamP, {"lr": 1e-3, "weight_decay": 0.1}),
    ("pytorch_optimizer.AdamP", po.AdamP, {"lr": 1e-3, "weight_decay": 0.1, "nesterov": True, "foreach": True}),
    ("pytorch_optimizer.Adan", po.Adan, {"lr": 1e-3, "weight_decay": 0.1}),
    ("pytorch_optimizer.Adan", po.Adan, {"lr": 1e-3, "weight_decay": 0.1, "weight_decouple": True, "foreach": True}),
    ("pytorch_optimizer.ADOPT", po.ADOPT, {"lr": 1e-3, "weight_decay": 0.1, "weight_decouple": True}),
    ("pytorch_optimizer.ADOPT", po.ADOPT, {"lr": 1e-3, "weight_decay": 0.01}),
    ("pytorch_optimizer.Lamb", po.Lamb, {"lr": 1e-3, "weight_decay": 0.1}),
    ("pytorch_optimizer.Lamb", po.Lamb, {"lr": 1e-3, "weight_decay": 0.1, "weight_decouple": False, "foreach": True}),
    ("pytorch_optimizer.LARS", po.LARS, {"lr": 0.5, "weight_decay": 1e-3}),
    ("pytorch_optimizer.LARS", po.LARS, {"lr": 0.5, "weight_decay": 1e-3, "nesterov": True, "dampening": 0.1}),
    ("pytorch_optimizer.MARS", po.MARS, {"lr": 1e-3, "weight_decay": 0.1}),
    ("pytorch_optimizer.MARS", po.MARS, {"lr": 3e-4, "mars_type": "lion", "weight_decay": 0.1, "foreach": True}),
    ("pytorch_optimizer.Prodigy", po.Prodigy, {"lr": 1.0, "weight_decay": 0.1}),
    ("pytorch_optimizer.SophiaH", po.SophiaH, {"lr": 1e-3, "weight_decay": 0.1}),
]
MEASURED: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (po.SOAP, {"lr": 1e-3, "weight_decay": 0.01}),
    (po.ScalableShampoo, {"lr": 1e-3}),
    (po.Shampoo, {"lr": 1e-3}),
    (po.AdaBelief, {"lr": 1e-3}),
    (po.AdaMuon, {"lr": 1e-3}),
]
IDS = [f"{cls.__name__}-{i}" for i, (_, cls, _) in enumerate(REBUILT)]


def run_of(cls: type[Optimizer], told: dict[str, Any], steps: int) -> tuple[Any, Optimizer]:
    _CLASSES.pop(cls, None)
    case = normed()
    params: list[Any] = list(case.params.values())
    if cls is po.AdaMuon:
        params = [
            {"params": [p for p in params if p.ndim > 1], "use_muon": True},
            {"params": [p for p in params if p.ndim < 2], "use_muon": False},
        ]
    optimizer = cls(params, **told)  # type: ignore[call-arg]
    if hasattr(optimizer, "train"):
        optimizer.train()
    run = train(case, optimizer, 0)
    for step in range(steps):
        case.model.zero_grad()
        case.loss(step).backward(create_graph=cls is po.SophiaH and step % 10 == 0)
        with watched(case, run.laws, optimizer) as reading:
            optimizer.step()
        run.readings += reading
    return run, optimizer


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(("key", "cls", "told"), fast(REBUILT, REBUILT[::3]), ids=IDS)
def test_their_laws_are_rebuilt(key: str, cls: type[Optimizer], told: dict[str, Any]) -> None:
    run, optimizer = run_of(cls, told, 30)
    rule = rule_of(optimizer)
    assert rule is not None
    assert rule.key == key
    assert law_of(optimizer) == "rebuilt"
    assert max(by_kind(run).values()) <= 1e-13
    moved = (run.observed[-1] - run.observed[0]).abs().max() / run.scale.max()
    assert moved > 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(("key", "cls", "told"), REBUILT, ids=IDS)
def test_their_laws_hold_for_a_thousand_steps(key: str, cls: type[Optimizer], told: dict[str, Any]) -> None:
    run, _ = run_of(cls, told, 1000)
    worst = max(by_kind(run).values())
    print(f"\n{key} {told}: {worst:.1e}")
    assert worst <= 1e-12


@pytest.mark.parametrize(("cls", "told"), MEASURED, ids=lambda x: getattr(x, "__name__", None))
def test_the_torque_of_others_is_measured_and_said(cls: type[Optimizer], told: dict[str, Any]) -> None:
    run, optimizer = run_of(cls, told, 20)
    assert law_of(optimizer) == "measured"
    assert distance(run).max() <= 1e-13


@pytest.mark.parametrize(("key", "cls", "told"), fast(REBUILT, REBUILT[::3]), ids=IDS)
def test_the_monitor_replays_them(key: str, cls: type[Optimizer], told: dict[str, Any]) -> None:
    if cls is po.SophiaH:
        pytest.skip("wants a graph of its gradients")
    draw = torch.Generator().manual_seed(0)
    params = {n: nn.Parameter(torch.randn(s, generator=draw)) for n, s in (("w", (6, 4)), ("b", (5,)))}
    optimizer = cls(params.values(), **told)  # type: ignore[call-arg]
    if hasattr(optimizer, "train"):
        optimizer.train()
    sample = Sample({n: p.shape for n, p in params.items()})
    check, reader = StepCheck(params, sample), StepReader(params, sample)
    for k in range(40):
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=draw) + 0.1 * p.detach()
        step = reader.ahead(optimizer, k + 1, torch.finfo(torch.float32).eps)
        check.before(step)
        optimizer.step()
        assert check.after(reader.behind(step, None)).steps == ()


def test_what_a_rule_does_not_cover_is_told_and_measured() -> None:
    params = [nn.Parameter(torch.randn(4, 3))]
    _CLASSES.clear()
    optimizer = po.Lion(params, cautious=True)
    with pytest.warns(UserWarning, match="pytorch_optimizer.optimizer.lion.Lion is not recognised as the Lion of"):
        assert law_of(optimizer) == "measured"
    _CLASSES.clear()
