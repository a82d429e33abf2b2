"""Every rule of the book against the real optimizer, in every consumer: one table of cases, float64 and float32."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics.optimizers import SGDW, Halving, Lion
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

import neuromech
from neuromech.dynamics import Drift, law_of, read
from neuromech.eom import Rule as FlowRule
from neuromech.errors import InstrumentError, NeuromechWarning
from neuromech.monitor.checks.step import StepCheck
from neuromech.monitor.facts import StepReader
from neuromech.monitor.sample import Sample
from neuromech.optimizers import (
    Elements,
    ParameterReader,
    Rule,
    known_rule,
    optimizer_table,
    rule_named,
    rule_of,
    unregister_optimizer,
)
from neuromech.optimizers.registry import OWN, RULES
from neuromech.report.forecasts import knobs
from tests.families import fast

o = torch.optim
MUON: Any = getattr(o, "Muon", None)  # since torch 2.9
CASES: list[tuple[str, type[Optimizer], dict[str, Any]]] = [
    ("SGD", o.SGD, {"lr": 0.05, "weight_decay": 0.01}),
    ("SGD", o.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", o.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True}),
    ("SGDW", SGDW, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGDW", SGDW, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    ("Adam", o.Adam, {"lr": 1e-2, "weight_decay": 0.1}),
    ("Adam", o.Adam, {"lr": 1e-2, "amsgrad": True, "maximize": True}),
    ("AdamW", o.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    ("NAdam", o.NAdam, {"lr": 1e-2, "weight_decay": 0.1}),
    ("NAdam", o.NAdam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", o.RAdam, {"lr": 1e-2, "weight_decay": 0.1}),
    ("RAdam", o.RAdam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adamax", o.Adamax, {"lr": 1e-2, "weight_decay": 0.1}),
    ("RMSprop", o.RMSprop, {"lr": 1e-2, "weight_decay": 0.1}),
    ("RMSprop", o.RMSprop, {"lr": 1e-2, "momentum": 0.9, "centered": True, "eps": 1e-3}),
    ("Rprop", o.Rprop, {"lr": 1e-2}),
    ("Adagrad", o.Adagrad, {"lr": 1e-2, "lr_decay": 1e-2, "weight_decay": 0.1}),
    ("Adadelta", o.Adadelta, {"lr": 0.5, "weight_decay": 0.1}),
    ("Adafactor", o.Adafactor, {"lr": 1e-2, "weight_decay": 0.1}),
    ("ASGD", o.ASGD, {"lr": 1e-2, "lambd": 1e-2, "t0": 5, "weight_decay": 0.1}),
    ("Lion", Lion, {"lr": 1e-3, "weight_decay": 0.1}),
    *([("Muon", MUON, {"lr": 1e-2, "weight_decay": 0.1})] if MUON else []),
]
IDS = [f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)]
STEPS = 60


class Training:
    """Random gradients that pull weakly towards zero, of sizes from 1e-3 to 10, through one optimizer."""

    def __init__(self, cls: type[Optimizer], told: dict[str, Any], dtype: torch.dtype) -> None:
        self.draw = torch.Generator().manual_seed(0)
        shapes = {"w": (6, 4)} if cls is MUON else {"w": (6, 4), "b": (5,)}
        self.params = {n: nn.Parameter(torch.randn(s, generator=self.draw).to(dtype)) for n, s in shapes.items()}
        self.names: dict[Tensor, str] = {p: n for n, p in self.params.items()}
        self.optimizer = cls(self.params.values(), **told)  # type: ignore[call-arg]

    def backward(self, k: int) -> None:
        for p in self.params.values():
            size = 10.0 ** (k % 5 - 3)
            p.grad = size * (torch.randn(p.shape, generator=self.draw).to(p.dtype) + 0.1 * p.detach())


def test_every_rule_of_the_book_has_a_case() -> None:
    """Those of packages are in test_packages.py, those that no package has in test_hypersphere.py."""
    elsewhere = {"AdamH", "MuonH"} | (set() if MUON else {"Muon"})
    assert {rule.name for rule in OWN if not rule.package} - elsewhere == {name for name, _, _ in CASES}


@pytest.mark.parametrize(
    ("dtype", "bound"),
    fast(BOUNDS := [(torch.float64, 1e-13), (torch.float32, 2e-5)], BOUNDS[:1]),
    ids=["double", "single"],
)
@pytest.mark.parametrize(("name", "cls", "told"), CASES, ids=IDS)
def test_both_halves_of_a_rule_are_those_of_the_optimizer(
    name: str, cls: type[Optimizer], told: dict[str, Any], dtype: torch.dtype, bound: float
) -> None:
    """`update` of the state that is there, and of the one that `advance` foretells; relative to what the step does."""
    run, rule = Training(cls, told, dtype), rule_named(name)
    assert rule_of(run.optimizer) is rule
    for k in range(STEPS):
        run.backward(k)
        said = []
        for p in run.params.values():
            reader = ParameterReader(rule, run.optimizer, run.optimizer.param_groups[0], p, None)
            e = reader.elements()
            foretold, old = {key: x.clone() for key, x in rule.advance(e).items()}, p.detach().double().clone()
            said.append((reader, old, foretold, rule.direction(e).double(), rule.decay(e), rule.rate(e)))
        run.optimizer.step()
        for p, (reader, old, foretold, u, decay, rate) in zip(run.params.values(), said, strict=True):
            new = p.detach().double()
            size = old.abs().max() + rate * u.abs().max()
            assert (decay * old - rate * u - new).abs().max() <= bound * size
            state = run.optimizer.state[p]
            for key, x in foretold.items():
                torch.testing.assert_close(x, state[key], rtol=bound, atol=bound * float(state[key].abs().max()))
            if rule.late:
                u = rule.direction(reader.elements(), reader.after()).double()
                assert (decay * old - rate * u - new).abs().max() <= bound * size


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "cls", "told"), fast(CASES, CASES[::3]), ids=IDS)
def test_the_monitor_replays_it_and_sees_half_a_step(
    name: str, cls: type[Optimizer], told: dict[str, Any], dtype: torch.dtype
) -> None:
    def steps(factor: float) -> tuple[Any, ...]:
        run = Training(cls, told, dtype)
        sample = Sample({n: p.shape for n, p in run.params.items()})
        check, reader = StepCheck(run.params, sample), StepReader(run.params, sample)
        for k in range(STEPS):
            run.backward(k)
            step = reader.ahead(run.optimizer, k + 1, torch.finfo(dtype).eps)
            check.before(step)
            before = {n: p.detach().clone() for n, p in run.params.items()}
            run.optimizer.step()
            if factor != 1.0 and k == 30:
                with torch.no_grad():
                    for n, p in run.params.items():
                        p.copy_(before[n] + factor * (p - before[n]))
            done = check.after(reader.behind(step, None))
            if done.steps or done.clock:
                return (k, {(d.what, d.by) for d in done.steps})
        return ()

    assert steps(1.0) == ()
    assert steps(0.5) == (30, {("weight", "step")})


@pytest.mark.parametrize(("name", "cls", "told"), CASES, ids=IDS)
def test_laws_report_and_flow_know_it(name: str, cls: type[Optimizer], told: dict[str, Any]) -> None:
    run, rule = Training(cls, told, torch.float64), rule_named(name)
    run.backward(0)
    assert law_of(run.optimizer) == ("exact" if rule.exact else "rebuilt")
    motion = read(run.optimizer, run.names)["w"]
    assert isinstance(motion.settings, Drift) != rule.exact
    group = {k: x for k, x in run.optimizer.param_groups[0].items() if k != "params"}
    found = knobs({"optimizers": [{"class": cls.__name__, "rule": name, "groups": [group]}]})
    assert found is not None
    assert found.power == rule.power
    decoupled = name in ("SGDW", "AdamW", "Lion", "Muon", "Adafactor") or bool(told.get("decoupled_weight_decay"))
    assert rule.decoupled(group) == decoupled
    assert found.separable == (decoupled or name in ("SGD", "ASGD") or not told.get("weight_decay"))
    if name in ("SGD", "SGDW", "Adam", "AdamW", "RMSprop") and not {"amsgrad", "maximize", "centered"} & told.keys():
        flow = FlowRule.of(run.optimizer)
        assert flow.weight_decay == told.get("weight_decay", 0.0)
        assert flow.decoupled == decoupled


# Teaching


class Signs(Optimizer):
    """Sign descent with a decoupled decay, and a clock of its own."""

    def __init__(self, params: Any, lr: float = 1e-2, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(p.grad.sign(), alpha=group["lr"])


SIGNS = Rule(
    "Signs",
    "this test",
    ("lr", "weight_decay"),
    lambda e, after: e.gradient.sign(),
    decay=lambda e: 1.0 - e.number("lr") * e.number("weight_decay"),
    decoupled=lambda group: True,
)


def test_one_door_teaches_all_four() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = Signs(model.parameters())
    assert law_of(optimizer) == "measured"
    neuromech.register_optimizer(Signs, SIGNS)
    assert law_of(optimizer) == "rebuilt"
    probe = neuromech.instrument(model, optimizer=optimizer)
    told: list[Any] = []
    probe.monitor(told.append)
    x, y = torch.randn(16, 4, dtype=torch.float64), torch.arange(16) % 3
    for k in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if k == 6:  # behind the step's back
            optimizer.step = lambda closure=None: None  # type: ignore[method-assign]
    probe.flush()
    assert float(probe.history["residual"].max()) < 1e-13
    assert probe._record.meta["optimizers"][0]["rule"] == "Signs"
    found = knobs(probe._record.meta)
    assert found is not None
    assert found.separable
    assert [row.name for row in optimizer_table()][-1] == "Signs"
    assert not told


def test_an_optimizer_is_registered_once_or_replaced_on_purpose() -> None:
    neuromech.register_optimizer(Signs, SIGNS)
    with pytest.raises(InstrumentError, match=r"Signs has a rule already .* replace=True"):
        neuromech.register_optimizer(Signs, SIGNS)
    neuromech.register_optimizer(Signs, SIGNS, replace=True)
    with pytest.raises(InstrumentError, match="SGD has a rule already"):
        neuromech.register_optimizer(torch.optim.SGD, SIGNS)
    unregister_optimizer(Signs)
    with pytest.raises(InstrumentError, match="no optimizer called 'Signs'"):
        unregister_optimizer(Signs)


def wrong(**changes: Any) -> Rule:
    return replace(SIGNS, **changes)


@pytest.mark.parametrize(
    ("cls", "rule", "says"),
    [
        (Signs, wrong(update=lambda e, after: e.gradient), "in step 1 the weights came out otherwise"),
        (Signs, wrong(decay=lambda e: 1.0), "in step 1 the weights came out otherwise"),
        (Signs, wrong(rate=lambda e: 2 * e.number("lr")), "in step 1 the weights came out otherwise"),
        (Signs, wrong(rate=lambda e: e.number("speed")), r"step 1 cannot be worked out .*KeyError: 'speed'"),
        (Signs, wrong(advance=lambda e: {"m": e.gradient}), "after step 1 the state holds no m"),
        (Halving, rule_named("AdamW"), "in step 1 the weights came out otherwise"),
        (type("Later", (torch.optim.Adamax,), {"step": torch.optim.Adamax.step}), rule_named("Adam"), "step 1 cannot"),
    ],
)
def test_a_rule_that_does_something_else_is_refused(cls: type[Optimizer], rule: Rule, says: str) -> None:
    with pytest.raises(InstrumentError, match=says):
        neuromech.register_optimizer(cls, rule)
    assert cls not in RULES


def test_what_cannot_be_made_is_said_to_be_untested_or_made_as_told() -> None:
    class Needs(Signs):
        def __init__(self, params: Any, schedule: Callable[[int], float]) -> None:
            super().__init__(params, schedule(0))

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)

    with pytest.warns(NeuromechWarning, match="could not be tested"):
        neuromech.register_optimizer(Needs, SIGNS)
    bad = wrong(decay=lambda e: 1.0)
    with pytest.raises(InstrumentError, match="the rule is not that of Needs"):
        neuromech.register_optimizer(Needs, bad, make=lambda ps: Needs(ps, lambda k: 0.1), replace=True)
    neuromech.register_optimizer(Needs, SIGNS, make=lambda ps: Needs(ps, lambda k: 0.1), replace=True)


def test_a_name_is_put_to_the_test_when_it_is_met() -> None:
    class Imposter(Lion):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad, alpha=group["lr"])

    Imposter.__name__ = "Lion"
    params: Sequence[nn.Parameter] = [nn.Parameter(torch.ones(3))]
    state = torch.get_rng_state()
    with pytest.warns(NeuromechWarning, match="Lion is not recognised as the Lion of Chen et al"):
        assert law_of(Imposter(params)) == "measured"
    assert law_of(Imposter(params)) == "measured"  # said once
    assert law_of(Lion(params)) == "rebuilt"
    assert torch.equal(torch.get_rng_state(), state)
    neuromech.register_optimizer("Signs", SIGNS)
    assert rule_of(Signs(params)) is SIGNS


def test_bad_input() -> None:
    with pytest.raises(InstrumentError, match=r"no optimizer called 'Adem' is known: there are ASGD, .*mean Adam\?"):
        rule_named("Adem")
    assert known_rule("Adem") is None
    with pytest.raises(InstrumentError, match="takes a class of optimizers or the name of one"):
        neuromech.register_optimizer(nn.Linear, SIGNS)  # type: ignore[arg-type]
    with pytest.raises(InstrumentError, match=r"takes a neuromech.optimizers.Rule; got function"):
        neuromech.register_optimizer(Signs, lambda m: m)  # type: ignore[arg-type]


def test_the_table_says_what_each_consumer_knows() -> None:
    assert [row.name for row in optimizer_table()] == [rule.name for rule in OWN]
    rows = {row.name: row for row in optimizer_table() if row.package in ("torch", "any")}
    assert rows["AdamW"].weight_decay == "decoupled"
    assert rows["Adam"].weight_decay == "coupled"
    assert rows["Rprop"].weight_decay == "none"
    assert rows["RAdam"].weight_decay == "coupled or decoupled"
    assert rows["Lion"].known_by == "name"
    flows = {"SGD", "SGDW", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Lion", "Muon"}
    assert {row.name for row in rows.values() if row.flow == "yes"} == flows


def test_formulas_read_only_what_they_are_given() -> None:
    """`update` reads no entry of the old state that `advance` has not read: the monitor reads none after the step."""
    for name, cls, told in CASES:
        run, rule = Training(cls, told, torch.float64), rule_named(name)
        for k in range(2):
            run.backward(k)
            e = ParameterReader(rule, run.optimizer, run.optimizer.param_groups[0], run.params["w"], None).elements()
            asked: list[set[str]] = [set(), set()]

            def noting(which: int, e: Elements = e, asked: list[set[str]] = asked) -> Elements:
                return e._replace(kept=lambda key: asked[which].add(key) or e.kept(key))  # type: ignore[func-returns-value]

            after = rule.advance(noting(0))
            rule.update(noting(1), after)
            assert asked[1] <= asked[0], name
            run.optimizer.step()
