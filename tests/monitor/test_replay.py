"""Every rule against torch, in every precision: no element is ever beyond the bound; and what is wrong is named."""

from typing import Any

import pytest
import torch
from dynamics.optimizers import SGDW, Lion
from torch import nn

from neuromech.monitor.checks.step import StepCheck
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import StepReader
from neuromech.monitor.replay import explained
from neuromech.monitor.sample import Sample
from neuromech.optimizers import rule_of
from tests.families import fast

CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "maximize": True, "foreach": True}),
    (torch.optim.SGD, {"lr": torch.tensor(0.1), "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.0, "momentum": 0.9}),
    (torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "foreach": True}),
    (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "fused": True}),
    (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True, "maximize": True}),
    (torch.optim.RMSprop, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {"lr": 1e-2, "momentum": 0.9}),
    (torch.optim.RMSprop, {"lr": 1e-2, "centered": True, "eps": 1e-4}),
    (torch.optim.NAdam, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.NAdam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "foreach": True}),
    (torch.optim.RAdam, {"lr": 1e-2, "weight_decay": 0.1, "foreach": True}),
    (torch.optim.RAdam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (torch.optim.Adamax, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.Adadelta, {"lr": 0.1, "weight_decay": 0.1}),
    (torch.optim.ASGD, {"lr": 1e-2, "lambd": 1e-2, "t0": 10, "weight_decay": 0.1}),
    (torch.optim.Rprop, {"lr": 1e-2}),
    (Lion, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.Adafactor, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.Adafactor, {"lr": 1e-2, "weight_decay": 0.1, "foreach": True}),
    (SGDW, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    (torch.optim.Adagrad, {"lr": 1e-2, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
]


def steps(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], dtype: torch.dtype, meddle: Any = None
) -> Evidence:
    """40 steps of random gradients, of sizes from 1e-6 to 1e2; the first step that was off, else the last.

    `meddle(group)` changes the settings of step 20 after they were read.
    """
    g = torch.Generator().manual_seed(0)
    params = {
        "w": nn.Parameter(torch.randn(40, 7, generator=g).to(dtype)),
        "b": nn.Parameter(torch.ones(9, dtype=dtype)),
    }
    optimizer = kind(params.values(), **options)
    sample = Sample({n: p.shape for n, p in params.items()})
    check, reader = StepCheck(params, sample), StepReader(params, sample)
    for k in range(40):
        for p in params.values():
            p.grad = (torch.randn(p.shape, generator=g) * 10.0 ** (k % 9 - 6)).to(dtype)
        step = reader.ahead(optimizer, k + 1, torch.finfo(dtype).eps)
        check.before(step)
        if meddle and k == 20:
            meddle(optimizer.param_groups[0])
        optimizer.step()
        done = check.after(reader.behind(step, None))
        if done.steps or done.clock:
            return done
    return done


@pytest.mark.parametrize("dtype", fast([torch.float64, torch.float32, torch.bfloat16], [torch.bfloat16]))
@pytest.mark.parametrize(("kind", "options"), fast(CASES, CASES[::3]), ids=lambda x: getattr(x, "__name__", str(x)))
def test_rounding_is_never_taken_for_a_fault(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], dtype: torch.dtype
) -> None:
    done = steps(kind, options, dtype)
    assert done.steps == ()
    assert done.clock == ()


@pytest.mark.parametrize(
    ("options", "meddle", "expected"),
    [
        ({"momentum": 0.9}, {"lr": 0.03}, {"weight": ("step", -0.7)}),
        ({"momentum": 0.9}, {"lr": 0.0}, {"weight": ("step", -1.0)}),
        ({}, {"weight_decay": 0.02}, {"weight": ("weights", -0.002)}),
        ({"momentum": 0.9}, {"weight_decay": 0.02}, {"momentum_buffer": ("weights", 0.02)}),
        (
            {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.8},
            {"weight": ("momentum", 0.01), "momentum_buffer": ("momentum", -0.1)},
        ),
    ],
)
def test_what_a_step_did_instead_of_its_settings_is_measured(
    options: dict[str, Any], meddle: dict[str, Any], expected: dict[str, tuple[str, float]]
) -> None:
    done = steps(torch.optim.SGD, {"lr": 0.1} | options, torch.float64, lambda group: group.update(meddle))
    assert {d.name for d in done.steps} == {"w", "b"}
    for d in done.steps:
        by, factor = expected[d.what]
        assert (d.by, d.share) == (by, 1.0)
        assert d.factor == pytest.approx(factor, rel=1e-9)


def test_a_fit_is_bounded_by_the_errors_it_is_made_from() -> None:
    """The factor of least squares is off by what the errors allow, and no multiple is missed for it."""
    g = torch.Generator().manual_seed(0)
    eps = torch.full((200,), 1e-7, dtype=torch.float64)
    for _ in range(200):
        x, noise = torch.randn(200, generator=g).double(), 2 * torch.rand(200, generator=g).double() - 1
        slack = torch.rand(200, generator=g).double() * 1e-2
        assert "x" in explained(0.3 * x + noise * slack, slack, {"x": x}, eps)
        assert not explained(torch.randn(200, generator=g).double(), slack, {"x": x}, eps)


def test_unknown_rules_are_not_guessed() -> None:
    p = [nn.Parameter(torch.ones(2))]

    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            pass

    assert rule_of(Own(p, lr=0.1)) is None
    assert rule_of(torch.optim.LBFGS(p)) is None
    optimizer = torch.optim.SGD(p, lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps step
    assert rule_of(optimizer) is not None


def test_samples_lie_in_all_columns() -> None:
    sample = Sample({"w": (64, 64), "v": (128, 3, 3, 3), "s": ()})
    assert all(n <= 128 for n in sample.counts(["w", "v", "s"]))
    assert sample.counts(["s"]) == [1]
    index = torch.arange(64.0 * 64).reshape(64, 64)
    columns = sample.read(["w"], {"w": index}) % 64
    assert len(columns.unique()) > 50
    turned = torch.randn(128, 3, 3, 3)
    last = turned.contiguous(memory_format=torch.channels_last)
    assert torch.equal(sample.read(["v"], {"v": turned}), sample.read(["v"], {"v": last}))


def matrices(dtype: torch.dtype, meddle: Any = None) -> Evidence:
    """As `steps`, under Muon, which moves matrices alone: one of them is taken once more in each step."""
    g = torch.Generator().manual_seed(0)
    params = {n: nn.Parameter(torch.randn(12, 7, generator=g).to(dtype)) for n in ("v", "w")}
    optimizer = torch.optim.Muon(params.values(), lr=0.5, weight_decay=0.1)
    sample = Sample({n: p.shape for n, p in params.items()})
    check, reader = StepCheck(params, sample), StepReader(params, sample)
    for k in range(20):
        for p in params.values():
            p.grad = (torch.randn(p.shape, generator=g) * 10.0 ** (k % 9 - 6)).to(dtype)
        step = reader.ahead(optimizer, k + 1, torch.finfo(dtype).eps)
        check.before(step)
        if meddle and k == 10:
            meddle(optimizer, params)
        optimizer.step()
        done = check.after(reader.behind(step, None))
        if done.steps or done.clock:
            return done
    return done


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_updates_that_mix_elements_are_taken_once_more_as_wholes(dtype: torch.dtype) -> None:
    assert not matrices(dtype).steps
    found = matrices(dtype, lambda optimizer, params: optimizer.param_groups[0].update(lr=1.0)).steps
    assert [(d.name, d.what) for d in found] == [("w", "weight")]
    lost = matrices(dtype, lambda optimizer, params: optimizer.state[params["w"]]["momentum_buffer"].zero_()).steps
    assert {d.what for d in lost} == {"weight", "momentum_buffer"}
