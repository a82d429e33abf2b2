"""The law of every optimizer against the optimizer itself, over every kind of family; and what users do to optimizers.

Residuals are relative to the largest scale that a charge has had so far, as the report judges them. Rounding adds up as
a random walk, like the square root of the number of steps, where nothing decays; under decoupled weight decay
torch multiplies by a factor rounded once, whose error adds up in proportion to the steps until the charge has decayed.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromech.dynamics import Computed, Laws, Moving, Update, law_of, read, register
from neuromech.dynamics.updates import _TAUGHT
from neuromech.optimizers.registry import RULES
from tests.families import fast

from .cases import EXACT, Case, Run, backward, normed, train, watched
from .optimizers import ALL, MEASURED, REBUILT, Factory, Halving, Lion, gradients, steps_of

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-4}
FAST = ("SGD Nesterov", "SGDW momentum", "AdamW, no decay of vectors", "Lion", "Muon and AdamW", "a step of its own")


def case_in(dtype: torch.dtype) -> Case:
    case = normed()
    model = case.model.to(dtype)
    x, y = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)).to(dtype), torch.arange(64) % 3
    case.loss = lambda step: F.cross_entropy(model(x[(rows := slice(16 * step % 64, 16 * step % 64 + 16))]), y[rows])
    return case


def run_with(
    case: Case, factory: Factory, steps: int, each: Callable[[int], None] = lambda step: None
) -> tuple[Run, torch.optim.Optimizer]:
    optimizer = factory(list(case.params.values()))
    run = train(case, optimizer, 0)
    for step in range(steps):
        backward(case, step)
        each(step)
        for one in steps_of(optimizer):
            with watched(case, run.laws, one) as reading:
                one.step()
            run.readings += reading
    return run, optimizer


def distance(run: Run, law: str = "exact") -> torch.Tensor:
    """|predicted - observed| relative to the largest scale so far: [steps, rows]."""
    return (getattr(run, law) - run.observed).abs() / run.scale.cummax(0).values


def by_kind(run: Run) -> dict[str, float]:
    worst = distance(run).max(0).values
    out: dict[str, float] = {}
    for s, rows in zip(run.laws.symmetries, run.laws.slices, strict=True):
        out[s.kind] = max(out.get(s.kind, 0.0), float(worst[rows].max()))
    return out


def check_law(name: str, dtype: torch.dtype, steps: int) -> None:
    run, _ = run_with(case_in(dtype), ALL[name], steps)
    worst = by_kind(run)
    early, late = distance(run)[steps // 8], distance(run)[-1]
    grown = math.log(float(late.median() / early.median().clamp(min=1e-18)) + 1e-18) / math.log(8)
    line = "  ".join(f"{kind} {off:.1e}" for kind, off in worst.items())
    print(f"{name:28s} {dtype}, {steps} steps, off {line}   ~ steps^{grown:.1f}")
    assert max(worst.values()) <= BOUNDS[dtype], name


@pytest.mark.parametrize("dtype", fast(BOUNDS, [torch.float64]))
@pytest.mark.parametrize("name", FAST)
def test_every_kind_of_optimizer_has_a_law(name: str, dtype: torch.dtype) -> None:
    check_law(name, dtype, 64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_has_a_law(name: str, dtype: torch.dtype) -> None:
    check_law(name, dtype, 1000)


@pytest.mark.parametrize("name", [n for n in REBUILT if n not in FAST])
def test_rebuilt_updates_are_those_of_torch(name: str) -> None:
    run, optimizer = run_with(case_in(torch.float64), REBUILT[name], 12)
    assert {law_of(one) for one in steps_of(optimizer)} == {"rebuilt"}
    assert distance(run).max() <= 1e-14
    assert distance(run, "flow").max() > 1e-7


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_unknown_is_measured(name: str) -> None:
    run, optimizer = run_with(case_in(torch.float64), MEASURED[name], 12)
    assert law_of(optimizer) == "measured"
    assert distance(run).max() <= 1e-14


def test_a_step_that_does_something_else_breaks_the_law_that_took_its_word() -> None:
    """The law of AdamW, told of a step that moves half as far."""
    case = case_in(torch.float64)
    halving = Halving(list(case.params.values()), lr=1e-3)
    RULES[Halving] = RULES[torch.optim.AdamW]
    try:
        run, _ = run_with(case, lambda params: halving, 20)
    finally:
        del RULES[Halving]
    assert distance(run)[1].max() > 1e-4


def test_the_torque_is_what_breaks_the_law() -> None:
    """Without it the charge of Adam would be off by far more than all else that is small."""
    run, _ = run_with(case_in(torch.float64), REBUILT["Adam"], 100)
    gains = torch.stack([r.gains for r in run.readings]).sum(0)
    quadratic = run.laws.slices[2]
    assert (gains[3].abs() / run.scale[0])[quadratic].max() > 1e-2
    assert not gains[1:3].any()


def test_register_teaches_the_laws_an_optimizer() -> None:
    class Signs(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad.sign(), alpha=self.param_groups[0]["lr"])

    def rule(m: Moving) -> Update:
        return Update(1.0, m.number("lr"), Computed(lambda w: m.gradient(w).sign()))

    with pytest.deprecated_call(match="register_optimizer"):
        register(Signs, rule)
    try:
        run, optimizer = run_with(case_in(torch.float64), lambda params: Signs(params, {"lr": 1e-3}), 50)
        assert law_of(optimizer) == "rebuilt"
    finally:
        del _TAUGHT[Signs]
    assert law_of(optimizer) == "measured"
    assert distance(run).max() <= EXACT


# What users do


def test_settings_may_change_at_every_step() -> None:
    case = case_in(torch.float64)
    optimizer = torch.optim.AdamW(case.params.values(), lr=1e-3)

    def each(step: int) -> None:
        group = optimizer.param_groups[0]
        group |= {"lr": 1e-3 * (step % 7), "weight_decay": 0.1 * (step % 3), "betas": (0.5 + 0.04 * (step % 5), 0.9)}

    run, _ = run_with(case, lambda params: optimizer, 60, each)
    assert distance(run).max() <= EXACT
    assert torch.equal(run.observed[1], run.observed[0])  # lr = 0 in the first step


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW", "Lion"])
def test_clipping_and_accumulation_are_gradients_like_others(name: str) -> None:
    case = case_in(torch.float64)

    def each(step: int) -> None:
        case.loss(step + 1).backward()
        if step % 2:
            torch.nn.utils.clip_grad_norm_(case.params.values(), 0.1)

    run, _ = run_with(case, ALL[name], 60, each)
    assert distance(run).max() <= EXACT


def test_clipping_by_value_breaks_the_symmetry_of_gradients_and_not_the_law_of_adam() -> None:
    """Under SGD the symmetry no longer protects the gradient: the law must notice."""
    for name, holds in (("AdamW", True), ("SGD momentum", False)):
        case = case_in(torch.float64)
        clip = lambda step, case=case: torch.nn.utils.clip_grad_value_(case.params.values(), 1e-3)  # noqa: E731
        run, _ = run_with(case, ALL[name], 30, clip)
        assert (distance(run).max() <= EXACT) == holds


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_with_skipped_steps(cls: type[torch.optim.Optimizer], fused: bool) -> None:
    case = case_in(torch.float64)
    optimizer = cls(case.params.values(), lr=1e-2, fused=fused)  # type: ignore[call-arg]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
    run, laws = train(case, optimizer, 0), case.laws()
    run.laws = laws
    names = {p: name for name, p in case.params.items()}
    seen: list[int] = []

    def begin(opt: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        motions = read(opt, names)
        seen.append(len(motions))
        laws.before(case.params, {n: p.grad for n, p in case.params.items() if p.grad is not None}, motions)

    optimizer.register_step_pre_hook(begin)
    optimizer.register_step_post_hook(lambda *_: run.readings.append(laws.after(case.params)))
    for step in range(30):
        case.model.zero_grad()
        scaler.scale(case.loss(step)).backward()
        if step % 7 == 3:
            gradients(case.params.values())[0][0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert distance(run).max() <= EXACT
    assert seen.count(0) == (4 if fused else 0)
    assert len(run.readings) == (31 if fused else 27)


def test_tensor_learning_rates() -> None:
    case = case_in(torch.float64)
    lr = torch.tensor(1e-3, dtype=torch.float64)
    run, _ = run_with(case, lambda ps: torch.optim.AdamW(ps, lr=lr), 40, lambda step: lr.mul_(0.99) and None)  # type: ignore[arg-type]
    assert distance(run).max() <= EXACT


def test_a_gradient_that_is_no_number_goes_through() -> None:
    case = case_in(torch.float64)

    def each(step: int) -> None:
        if step == 5:
            gradients([case.params["0.weight"]])[0][0, 0] = torch.nan

    run, _ = run_with(case, ALL["AdamW"], 10, each)
    assert run.observed[5].isfinite().all()
    assert not run.observed[6].isfinite().all()
    assert torch.equal(run.observed[6].isfinite(), run.exact[6].isfinite())


@pytest.mark.parametrize(
    "second", fast(["SGD momentum", "AdamW", "Lion", "Adadelta", "a step of its own"], ["SGD momentum", "AdamW"])
)
def test_two_optimizers_share_all_parameters(second: str) -> None:
    """Each with buffers of its own, in turns: what is known of the other's buffer must not be used."""
    case = case_in(torch.float64)
    params = list(case.params.values())
    both = torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=5e-3), ALL[second](params)
    run = train(case, both[0], 0)
    for step in range(60):
        backward(case, step)
        for optimizer in both if step % 3 else both[:1]:
            with watched(case, run.laws, optimizer) as reading:
                optimizer.step()
            run.readings += reading
            backward(case, step)
    assert distance(run).max() <= EXACT


def test_optimizers_may_be_exchanged_in_mid_run() -> None:
    case = case_in(torch.float64)
    run, first = run_with(case, ALL["SGD momentum"], 20)
    for name in ("AdamW", "SGD Nesterov", "Adadelta", "a step of its own", "Lion"):
        optimizer = ALL[name](list(case.params.values()))
        run.readings += train(case, optimizer, 20, laws=run.laws).readings
    run.readings += train(case, first, 20, laws=run.laws).readings  # and back, with the buffers that it has kept
    assert distance(run).max() <= EXACT


def test_one_charge_moved_by_two_optimizers() -> None:
    """SGD with momentum on some of its parameters, AdamW on the others."""
    case = case_in(torch.float64)
    sgd = torch.optim.SGD([case.params[n] for n in ("0.weight", "3.weight", "5.bias")], lr=0.05, momentum=0.9)
    adam = torch.optim.AdamW([p for n, p in case.params.items() if n not in ("0.weight", "3.weight", "5.bias")])
    run = train(case, sgd, 0)
    for step in range(60):
        backward(case, step)
        for optimizer in (sgd, adam):
            with watched(case, run.laws, optimizer) as reading:
                optimizer.step()
            run.readings += reading
    assert run.laws.split_ever == {0, 2, 3}
    assert distance(run).max() <= EXACT


def test_predictions_may_start_in_mid_run() -> None:
    case = case_in(torch.float64)
    optimizer = torch.optim.AdamW(case.params.values(), lr=1e-3)
    train(case, optimizer, 20)
    assert distance(train(case, optimizer, 30, start=20)).max() <= EXACT


def test_lion_may_have_groups_and_parameters_without_gradients() -> None:
    case = case_in(torch.float64)
    params = list(case.params.values())
    optimizer = Lion([{"params": params[:3], "weight_decay": 0.1}, {"params": params[3:], "lr": 1e-3}], lr=1e-4)

    def each(step: int) -> None:
        if step % 4 == 1:
            params[4].grad = None

    run, _ = run_with(case, lambda _: optimizer, 40, each)
    assert distance(run).max() <= EXACT


def test_layouts_in_memory_do_not_matter() -> None:
    """Weights in channels_last, with the buffers that an optimizer makes of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    from neuromech.symmetry import Symmetry, SymmetrySet, Term

    family = Symmetry("rescale", 4, (Term("0.weight", 0, 1), Term("0.bias", 0, 1), Term("2.weight", 1, -1)))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    readings = []
    for layout in (torch.contiguous_format, torch.channels_last):
        twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
        twin.load_state_dict(model.state_dict())
        twin = twin.to(memory_format=layout)  # type: ignore[call-overload]
        case = Case(twin, SymmetrySet([family]), lambda step, twin=twin: twin(x).square().mean())
        run, _ = run_with(case, ALL["AdamW"], 20)
        assert distance(run).max() <= EXACT
        readings.append(run.exact)
    torch.testing.assert_close(*readings, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_gains_sum_to_the_change_of_the_exact_law() -> None:
    for name in ALL:
        run, _ = run_with(case_in(torch.float64), ALL[name], 8)
        gains = torch.stack([r.gains for r in run.readings]).sum(1)
        change = run.exact[1:] - run.exact[:-1]
        assert ((gains[1:] - change).abs() / run.scale[1:]).max() < 1e-13, name


def test_restart_is_a_look_and_not_a_new_beginning() -> None:
    """What is compiled stays; predictions start over from what is found."""
    case = case_in(torch.float64)
    laws: Laws = case.laws()
    optimizer = torch.optim.SGD(case.params.values(), lr=0.05, momentum=0.9)
    train(case, optimizer, 5, laws=laws)
    with torch.no_grad():
        case.params["3.weight"].mul_(1.5)
    charge, scale = laws.observe(case.params)
    again = laws.restart(case.params)
    assert torch.equal(again.exact, charge)
    assert torch.equal(again.scale, scale)
    assert laws._plans
    run = train(case, optimizer, 20, laws=laws)
    assert distance(run).max() <= EXACT
