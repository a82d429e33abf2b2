"""The recursions against the update rule written out, elements and all."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuromech.dynamics import Settings
from neuromech.dynamics.discrete import Linear, Quadratic, QuadraticDrive, linear_step, quadratic_step

STEPS = st.lists(
    st.builds(
        Settings,
        lr=st.sampled_from([0.0, 0.01, 0.3]),
        momentum=st.sampled_from([0.0, 0.5, 0.9]),
        dampening=st.sampled_from([0.0, 0.2]),
        weight_decay=st.sampled_from([0.0, 0.1]),
        nesterov=st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


def descend(theta: Tensor, b: Tensor | None, g: Tensor, s: Settings) -> tuple[Tensor, Tensor | None]:
    """The update rule of torch.optim.SGD, one line each."""
    g = g + s.weight_decay * theta
    if s.momentum:
        b = g if b is None else s.momentum * b + (1 - s.dampening) * g
        g = g + s.momentum * b if s.nesterov else b
    return theta - s.lr * g, b


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 10**6))
def test_recursions_are_exact_for_any_sequence_of_settings(sequence: list[Settings], seed: int) -> None:
    """Also where torch keeps a buffer that it does not use: momentum set to 0 in mid-run, and back."""
    r = torch.Generator().manual_seed(seed)
    theta, c, d = (torch.randn(9, generator=r, dtype=torch.float64) for _ in range(3))
    zero = torch.zeros(1, dtype=torch.float64)
    b: Tensor | None = None
    quadratic = Quadratic((theta * d * theta).sum()[None], zero, zero)
    linear = Linear((c * theta).sum()[None], zero)
    for s in sequence:
        g = torch.randn(9, generator=r, dtype=torch.float64)
        memory = (b * d * g).sum()[None] if b is not None else 0.0
        drive = QuadraticDrive((g * d * g).sum()[None], memory, (g * d * theta).sum()[None])
        first = bool(s.momentum) and b is None
        quadratic = quadratic_step(quadratic, drive, s, first)
        linear = linear_step(linear, (c * g).sum()[None], s, first)
        theta, b = descend(theta, b, g, s)
        buffer = b if b is not None else torch.zeros_like(theta)
        truth = torch.stack([(theta * d * theta).sum(), (buffer * d * theta).sum(), (buffer * d * buffer).sum()])
        torch.testing.assert_close(torch.cat(quadratic), truth, rtol=1e-11, atol=1e-11)
        truth = torch.stack([(c * theta).sum(), (c * buffer).sum()])
        torch.testing.assert_close(torch.cat(linear), truth, rtol=1e-11, atol=1e-11)


def test_a_hundred_thousand_steps_do_not_overflow_or_drift() -> None:
    """Under a steady drive the charge ends where the balance of the recursion puts it (`Quadratic` at rest)."""
    s = Settings(0.1, 0.9, weight_decay=5e-3)
    state = Quadratic(1.0, 0.0, 0.0)  # type: ignore[arg-type]  # numbers are tensors enough, and faster
    for step in range(100_000):
        state = quadratic_step(state, QuadraticDrive(1.0, 0.0, 0.0), s, step == 0)
    # At rest C+ = C gives 2 P1 = lr K, with P1 = mu P + lam C and P = P1 - lr K: C = lr K (1 + mu) / (2 lam), and
    # K (1 - mu^2) = <G, DG> + 2 mu <b, DG> = 1 + lam^2 C + 2 mu lam P with P = -lr K / 2.
    mu, lam, lr = s.momentum, s.weight_decay, s.lr
    kinetic = 1 / (1 - mu**2 - lam * lr * (1 + mu) / 2 + mu * lam * lr)
    assert math.isclose(float(state.kinetic), kinetic, rel_tol=1e-12)
    assert math.isclose(float(state.charge), lr * kinetic * (1 + mu) / (2 * lam), rel_tol=1e-12)
