"""The continuous laws: their order in lr, their propagator, and the stamps of the paper's public code, to be beaten."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuromech.dynamics import Laws, Settings, regime
from neuromech.dynamics.charge import Forms
from neuromech.dynamics.discrete import Quadratic
from neuromech.dynamics.flow import Oscillator, Push, continuous_step, gradient_flow, propagator
from neuromech.dynamics.forms.sums import Block
from tests.families import fast

from .cases import Case, Run, backward, normed, smooth, train, watched

STEADY: Callable[[float], float] = lambda x: 1.0  # noqa: E731
DROP: Callable[[float], float] = lambda x: 1.0 if x < 0.5 else 0.25  # noqa: E731
COSINE: Callable[[float], float] = lambda x: 0.5 * (1 + math.cos(math.pi * x))  # noqa: E731

MOMENTA = {
    "heavy ball": {"momentum": 0.5},
    "dampening": {"momentum": 0.5, "dampening": 0.3},
    "nesterov": {"momentum": 0.5, "nesterov": True},
}


def end_error(
    law: str, lr: float, schedule: Callable[[float], float], groups: bool = False, warm: float = 0.0, **options: float
) -> Tensor:
    """|predicted - observed| of each family at t = 2. `groups`: a weight decay for each layer, so that torques matter;
    `warm`: how long it trains before the laws start."""
    case, time = smooth(), 2.0
    layers = [{"params": list(layer.parameters())} for layer in case.model.children()]  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(layers, lr=lr, weight_decay=0.1, **options)  # type: ignore[arg-type]
    if groups:
        optimizer.param_groups[1]["weight_decay"] = 0.02
    steps = round(time / lr)

    def each(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step / steps)

    started = round(warm / lr)
    train(case, optimizer, started, each=each)
    run = train(case, optimizer, steps - started, each=each, start=started)
    error = (getattr(run, law) - run.observed)[-1].abs()
    return torch.stack([error[rows].max() for rows in run.laws.slices])


def slopes(law: str, schedule: Callable[[float], float] = STEADY, **options: float) -> list[float]:
    """d ln(error) / d ln(lr), of each family."""
    coarse, fine = (end_error(law, lr, schedule, **options) for lr in (0.02, 0.01))
    return torch.log2(coarse / fine).tolist()


# The most general one is tried among the fast tests, the others among the slow ones.
SOME = [pytest.param(o, id=k, marks=() if k == "nesterov" else pytest.mark.slow) for k, o in MOMENTA.items()]


@pytest.mark.parametrize("options", fast([{}, *MOMENTA.values()], [MOMENTA["nesterov"]]), ids=["plain", *MOMENTA])
def test_gradient_flow_is_the_limit_of_small_lr(options: dict[str, float]) -> None:
    assert slopes("flow", **options) == pytest.approx([1.0] * 3, abs=0.1)


@pytest.mark.parametrize("schedule", fast([STEADY, DROP, COSINE], [COSINE]), ids=["steady", "drop", "cosine"])
@pytest.mark.parametrize("options", SOME)
def test_oscillator_is_of_second_order(options: dict[str, float], schedule: Callable[[float], float]) -> None:
    assert slopes("continuous", schedule, **options) == pytest.approx([2.0] * 3, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("options", SOME)
def test_torque_and_a_start_in_mid_run_keep_the_order(options: dict[str, float]) -> None:
    assert slopes("continuous", groups=True, **options)[0] == pytest.approx(2.0, abs=0.2)
    assert slopes("continuous", warm=0.5, **options) == pytest.approx([2.0] * 3, abs=0.25)


@pytest.mark.slow
def test_without_momentum_the_flow_errs_only_by_its_decay() -> None:
    """(1 - lr lam)^n against exp(-n lr lam): of first order with the small constant lam^2, and exact for lam = 0."""
    assert slopes("continuous") == pytest.approx([1.0] * 3, abs=0.1)
    case = smooth()
    run = train(case, torch.optim.SGD(case.model.parameters(), lr=0.1), 50)
    assert run.error("continuous") < 1e-14
    assert run.error("flow") > 1e-3


def rest(gamma: float, omega2: float, steps: int = 2000) -> Tensor:
    """The propagator by brute force: classical Runge-Kutta on the equation itself."""
    a = torch.tensor([[0.0, 1.0], [-omega2, -2 * gamma]], dtype=torch.float64) / steps
    one = torch.eye(2, dtype=torch.float64)
    step = one + a @ (one + a @ (one / 2 + a @ (one / 6 + a / 24)))
    return torch.linalg.matrix_power(step, steps)


@pytest.mark.parametrize(
    ("gamma", "omega2"),
    [
        *((0.05, 0.0), (0.05, 1e-9), (0.05, 1e-3), (0.05, 0.0025), (0.05, 0.0025 + 1e-12), (0.05, 0.0025 - 1e-12)),
        *((0.05, 0.1), (0.0, 0.0), (0.0, 0.5), (20.0, 3.0), (0.3, 4.0), (-0.05, 0.01)),
    ],
)
def test_propagator_solves_the_equation_in_every_regime(gamma: float, omega2: float) -> None:
    a, response, b = propagator(gamma, omega2)
    found = torch.tensor([[a, response], [-omega2 * response, b]], dtype=torch.float64)
    torch.testing.assert_close(found, rest(gamma, omega2), rtol=1e-10, atol=1e-12)


@given(st.floats(0.0, 2.0), st.floats(0.0, 4.0))
def test_two_steps_of_the_propagator_are_one_of_twice_the_length(gamma: float, omega2: float) -> None:
    def matrix(scale: float) -> Tensor:
        a, response, b = propagator(scale * gamma, scale**2 * omega2)
        return torch.tensor([[a, scale * response], [-scale * omega2 * response, b]], dtype=torch.float64)

    torch.testing.assert_close(matrix(1.0) @ matrix(1.0), matrix(2.0), rtol=1e-12, atol=1e-13)


def test_propagator_survives_absurd_settings() -> None:
    assert all(math.isnan(x) for x in propagator(math.nan, 1.0))
    assert all(math.isnan(x) for x in propagator(1.0, math.inf))
    assert propagator(1.0, -1e9)[0] == math.inf


def test_settings_of_the_runs_cover_all_regimes() -> None:
    found = {
        regime(*Settings(0.1, mu, weight_decay=lam).oscillator(2)) for mu in (0.5, 0.99) for lam in (0.0, 1e-4, 0.1)
    }
    assert found == {"free", "overdamped", "underdamped"}


@pytest.mark.parametrize(("momentum", "weight_decay"), fast([(0.5, 0.1), (0.99, 1e-4)], [(0.99, 1e-4)]))
def test_long_runs_do_not_overflow(momentum: float, weight_decay: float) -> None:
    """Integrals weighted by e^(gamma t) leave float64 after 6,700 steps at momentum 0.9.

    Under a steady drive the charge comes to mass <u, D u> / weight_decay.
    """
    one = torch.ones(1, dtype=torch.float64)
    settings, nothing = Settings(0.1, momentum, weight_decay=weight_decay), Quadratic(one, 0 * one, 0 * one)
    state = Oscillator(one, 0 * one)
    for _ in range(20_000):
        state = continuous_step(state, nothing, Push(one, 0.0, 0.0), settings, False)
    assert float(state.charge) == pytest.approx(settings.mass / weight_decay, rel=0.2 * (1 - momentum) + 1e-3)
    assert state.velocity.isfinite().all()


def test_a_step_of_lr_0_wears_out_the_velocity_and_leaves_the_charge() -> None:
    one = torch.ones(1, dtype=torch.float64)
    nothing = Quadratic(one, 0 * one, 0 * one)
    charge, velocity = continuous_step(Oscillator(one, one), nothing, Push(0.0, 0.0, 0.0), Settings(0.0, 0.9), False)
    assert charge == one
    assert float(velocity) == pytest.approx(math.exp(-2 * 0.1 / 1.9))


def test_gradient_flow_has_no_limit_without_friction() -> None:
    assert gradient_flow(torch.ones(1), 0.0, Settings(0.1, 1.0), 2).isnan().all()


# The paper's own discretisation, from its public code: sources stamped at the start of the step, start at rest.


def measured_kinetic(case: Case, optimizer: torch.optim.Optimizer, steps: int) -> tuple[Run, list[Tensor]]:
    """A run, and <b, D b> after each step, read from the buffers."""
    names = {p: name for name, p in case.params.items()}
    forms = Forms([Block.of(s) for s in case.symmetries], case.params)
    run, kinetic = Run(case.laws()), []
    run.readings.append(run.laws.initial(case.params))
    for step in range(steps):
        backward(case, step)
        with watched(case, run.laws, optimizer) as reading:
            optimizer.step()
        run.readings += reading
        buffers = {names[p]: state["momentum_buffer"] for p, state in optimizer.state.items()}
        kinetic.append(forms([(buffers, buffers)])[0])
    return run, kinetic


def oscillate(run: Run, kinetic: list[Tensor], settings: Settings, better: bool) -> Tensor:
    """x'' + 2 gamma x' + omega^2 x = 2 <b, D b>, with the stamps of the paper's code, or with drives through the step
    (midpoints) and a matched start."""
    lr, first = settings.lr, run.observed[0]
    linear = torch.zeros(len(first), dtype=torch.bool)
    for s, rows in zip(run.laws.symmetries, run.laws.slices, strict=True):
        linear[rows] = s.is_linear
    out = []
    for degree in (1, 2):
        gamma, omega2 = settings.oscillator(degree)
        system = torch.tensor([[0, 1, 0], [-omega2, -2 * gamma, 1], [0, 0, 0]], dtype=torch.float64)
        e = torch.linalg.matrix_exp(system)
        speed = degree * settings.weight_decay / (1 + settings.momentum) if better else 0.0
        x, v, states = first, -lr * speed * first, [first]
        for k in kinetic:
            source = 2 * lr**2 * k * (degree == 2)
            v = v if better else v + source
            x, v = e[0, 0] * x + e[0, 1] * v, e[1, 0] * x + e[1, 1] * v
            if better:
                x, v = x + e[0, 2] * source, v + e[1, 2] * source
            states.append(x)
        out.append(torch.stack(states))
    return torch.where(linear, out[0], out[1])


def deviation(run: Run, predicted: Tensor) -> Tensor:
    """max |predicted - observed| / max |observed - observed at the start|, of each family."""
    off, moved = (predicted - run.observed).abs(), (run.observed - run.observed[0]).abs()
    return torch.stack([off[:, rows].max() / moved[:, rows].max() for rows in run.laws.slices])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lr", "momentum", "weight_decay", "least"),
    fast([(0.1, 0.9, 5e-4, 40), (0.1, 0.8, 1e-3, 20), (0.01, 0.99, 5e-4, 300)], [(0.1, 0.9, 5e-4, 40)]),
)
def test_the_stamps_of_the_papers_code_are_beaten(
    lr: float, momentum: float, weight_decay: float, least: float
) -> None:
    case = normed()
    settings = Settings(lr, momentum, weight_decay=weight_decay)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    run, kinetic = measured_kinetic(case, optimizer, 200)
    paper, midpoint = (deviation(run, oscillate(run, kinetic, settings, better)) for better in (False, True))
    ours = deviation(run, run.continuous)
    print(f"momentum {momentum}: paper {paper.tolist()}, midpoints {midpoint.tolist()}, ours {ours.tolist()}")
    print(f"    paper / ours {(paper / ours).tolist()}, midpoints / ours {(midpoint / ours).tolist()}")
    assert (paper / ours).min() > least
    exact = deviation(run, run.exact)
    print(f"    paper / exact law {(paper / exact).tolist()}")
    assert (paper / exact).min() > 1e6
    quadratic = [i for i, s in enumerate(case.symmetries) if not s.is_linear]
    assert (midpoint / ours)[quadratic].min() > 2


@pytest.mark.slow
def test_end_stamps_without_momentum_beat_start_stamps() -> None:
    case, lr, weight_decay = normed(), 0.1, 5e-4
    optimizer = torch.optim.SGD(case.model.parameters(), lr=lr, weight_decay=weight_decay)
    forms = Forms([Block.of(s) for s in case.symmetries], case.params)
    states = [forms.charges(case.params)[0]]

    def each(step: int) -> None:
        grads = {name: p.grad for name, p in case.params.items() if p.grad is not None}
        drive = lr**2 * forms([(grads, grads)])[0]
        states.append(math.exp(-2 * lr * weight_decay) * (states[-1] + drive))

    run = train(case, optimizer, 200, each=each)
    start, end = deviation(run, torch.stack(states)), deviation(run, run.continuous)
    quadratic = [i for i, s in enumerate(case.symmetries) if not s.is_linear]
    print("start stamps / end stamps", (start / end)[quadratic].tolist())
    assert (start / end)[quadratic].min() > 5
    exact = deviation(run, run.exact)
    print("start stamps / exact law", (start / exact)[quadratic].tolist())
    assert (start / exact)[quadratic].min() > 1e6


WRONG = [
    ({"nesterov": True}, {"nesterov": False}),
    ({"nesterov": False}, {"nesterov": True}),
    ({"dampening": 0.1}, {"dampening": 0.0}),
    ({"momentum": 0.9}, {"momentum": 0.89}),
    ({"weight_decay": 5e-3}, {"weight_decay": 0.0}),
    ({"lr": 0.05}, {"lr": 0.051}),
]


@pytest.mark.parametrize(("true", "claimed"), fast(WRONG, WRONG[-1:]))
def test_the_law_of_another_optimizer_is_seen_to_be_wrong(true: dict[str, float], claimed: dict[str, float]) -> None:
    case = normed()
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-3} | true
    optimizer = torch.optim.SGD(case.model.parameters(), **options)  # type: ignore[arg-type]
    laws: Laws = case.laws()
    right, wrong = train(case, optimizer, 0), Run(laws)
    for step in range(100):
        backward(case, step)
        true_group = {name: optimizer.param_groups[0][name] for name in claimed}
        optimizer.param_groups[0].update(claimed)
        with watched(case, laws, optimizer) as told_wrong:
            optimizer.param_groups[0].update(true_group)
            with watched(case, right.laws, optimizer) as told_right:
                optimizer.step()
        right.readings += told_right
        wrong.readings += told_wrong
    for law, bound in (("exact", 1e-12), ("continuous", 1e-3)):
        assert wrong.error(law) > 1e-3
        assert right.error(law) < bound
