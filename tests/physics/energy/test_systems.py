"""Ground truth: against analytic motion, another integrator, and the laws that the systems have."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neuromech.errors import PhysicsError
from neuromech.physics import Trajectories, load_pendulum, simulate, systems
from neuromech.physics.energy import data
from tests.families import fast

SHORT = {"cahn-hilliard-2d": 5, "cahn-hilliard": 20, "kdv": 50}


@pytest.mark.parametrize("name", fast(systems.SYSTEMS, list(systems.SYSTEMS)[::2]))
def test_laws(name: str) -> None:
    system = systems.make(name)
    path = simulate(system, 2, steps=SHORT.get(name, 30))
    assert path.u.shape == (2, len(path.t), *system.shape)
    h = system.energy(path.u.flatten(0, 1)).reshape(2, -1)
    scale = float(h.abs().max())
    if system.structure.law == "conserves":
        assert float((h - h[:, :1]).abs().max()) <= 1e-11 * scale
    else:
        assert float(h.diff(dim=1).max()) <= 1e-13 * scale
        assert float((h[:, -1] - h[:, 0]).max()) < 0
    if name in ("kdv", "cahn-hilliard", "cahn-hilliard-2d"):
        total = path.u.flatten(2).sum(-1)
        torch.testing.assert_close(total, total[:, :1].expand_as(total), rtol=0, atol=1e-10)


def test_mass_spring_turns() -> None:
    path = simulate(systems.mass_spring(), 4)
    q, p = path.u[:, :1].unbind(-1)
    c, s = torch.cos(2 * path.t), torch.sin(2 * path.t)
    torch.testing.assert_close(path.u, torch.stack([q * c + p * s, p * c - q * s], -1), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_wave_is_a_sum_of_its_modes() -> None:
    """Every Fourier mode of the grid turns at omega = 2 sin(pi k / n) / dx, whatever the others do."""
    n = 20
    system = systems.wave(n)
    path = simulate(system, 2)
    q = torch.fft.rfft(path.u[..., :n])
    omega = 2 * n * torch.sin(math.pi * torch.arange(n // 2 + 1, dtype=torch.float64) / n)
    torch.testing.assert_close(q, q[:, :1] * torch.cos(omega * path.t[:, None]), rtol=0, atol=1e-9)


PRECISE = ["pendulum", "damped-pendulum", "2-body", "3-body", "kdv", "cahn-hilliard"]


@pytest.mark.parametrize("name", fast(PRECISE, ["2-body"]))
def test_true_to_ten_digits(name: str) -> None:
    """Another method of integration, from the same states, agrees to 1e-10."""
    from scipy.integrate import solve_ivp

    system = systems.make(name)
    steps = {"kdv": 100, "cahn-hilliard": 50}.get(name, 12)
    path = simulate(system, 1, steps=steps)

    def rate(_, y):
        with torch.no_grad():
            return system.velocity(torch.from_numpy(y).reshape(1, *system.shape)).reshape(-1).numpy()

    times = path.t.numpy()
    other = solve_ivp(rate, (0, times[-1]), path.u[0, 0].numpy(), "RK45", times, rtol=3e-14, atol=1e-13).y.T
    torch.testing.assert_close(path.u[0], torch.from_numpy(other), rtol=0, atol=1e-10)


def test_initial_states_are_where_the_papers_draw_them() -> None:
    generator = torch.Generator().manual_seed(0)
    h = systems.mass_spring().energy(systems.mass_spring().initial(1000, generator))
    assert 0.2 - 1e-12 <= float(h.min()) < 0.25 < 0.95 < float(h.max()) <= 1
    radius = systems.pendulum().initial(1000, generator).norm(dim=1)
    assert 1.3 <= float(radius.min()) < float(radius.max()) <= 2.3
    noise = systems.cahn_hilliard().initial(10, generator)
    assert float(noise.abs().max()) <= 0.05
    kdv = systems.kdv()
    assert (kdv.initial(10, generator) > 0).all()
    for name in ("2-body", "3-body"):
        u = systems.make(name).initial(10, generator)
        p = u[:, u.shape[1] // 2 :].reshape(10, -1, 2)
        torch.testing.assert_close(p.sum(1), torch.zeros(10, 2, dtype=torch.float64))


@pytest.mark.slow
def test_a_soliton_of_kdv_keeps_its_shape_as_the_grid_is_refined() -> None:
    """(k/cosh)^2 moves left at speed 4 k^2; central differences are of order 2 in dx."""
    errors = []
    for n in (100, 200):
        system = systems.kdv(n, length=20.0)
        x = torch.arange(n, dtype=torch.float64) * 20 / n
        t = torch.tensor([0.0, 0.5], dtype=torch.float64)
        u = 2 / torch.cosh(x - 10) ** 2
        moved = 2 / torch.cosh(x - 10 + 4 * 0.5) ** 2
        errors.append(float((data.solve(system, u[None], t)[0, 1] - moved).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


def test_same_seed_same_data() -> None:
    one, two, other = (simulate(systems.pendulum(), 3, seed=s, steps=3) for s in (1, 1, 2))
    assert torch.equal(one.u, two.u)
    assert not torch.equal(one.u, other.u)


def test_pairs_follow_one_another() -> None:
    path = Trajectories(torch.tensor([0.0, 1.0, 3.0]), torch.arange(6.0).reshape(2, 3, 1))
    pairs = path.pairs()
    assert pairs.before.flatten().tolist() == [0, 1, 3, 4]
    assert pairs.after.flatten().tolist() == [1, 2, 4, 5]
    assert pairs.dt.tolist() == [1, 2, 1, 2]
    assert len(pairs.take(torch.tensor([2]))) == 1


def test_measured_pendulum(tmp_path: Path) -> None:
    file = tmp_path / "real_pend_h_1.txt"
    file.write_text("% trial t theta omega\n0 0.0 1.0 -0.1\n0 0.17, 0.9 -0.2\n\n0 0.30 0.8 -0.3\n")
    path = load_pendulum(file)
    assert path.t.tolist() == [0.0, 0.17, 0.30]
    assert path.u.tolist() == [[[1.0, -0.1], [0.9, -0.2], [0.8, -0.3]]]


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(PhysicsError, match=r"there is no file.*your own copy"):
        load_pendulum(tmp_path / "nothing")
    file = tmp_path / "file"
    file.write_text("0 0 1 2\n0 1 two 3\n")
    with pytest.raises(PhysicsError, match="line 2"):
        load_pendulum(file)
    file.write_text("0 0 1 2\n")
    with pytest.raises(PhysicsError, match="1 rows"):
        load_pendulum(file)
    file.write_text("0 0 1 2\n0 0 1 2\n")
    with pytest.raises(PhysicsError, match="times increase"):
        load_pendulum(file)
    with pytest.raises(PhysicsError, match=r"not all finite, the first bad one at .* \[0, 1, 0\]"):
        Trajectories(torch.arange(2.0), torch.tensor([[[0.0], [torch.nan]]]))
    with pytest.raises(PhysicsError, match=r"\[N, T, \.\.\.\] at times \[T\]"):
        Trajectories(torch.arange(3.0), torch.zeros(1, 2, 1))
    with pytest.raises(PhysicsError, match="there is no system 'spring'"):
        systems.make("spring")
    for count in (0, 2.5):
        with pytest.raises(PhysicsError, match="at least one"):
            simulate(systems.pendulum(), count)  # type: ignore[arg-type]
    for dt in (0.0, -0.1, math.nan):
        with pytest.raises(PhysicsError, match="time between two states is positive"):
            simulate(systems.pendulum(), 2, dt=dt)

    def collision(count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.tensor([[1.0, 0, -1, 0, 0, 0, 0, 0]], dtype=torch.float64)

    with pytest.raises(PhysicsError, match="2-body: the motion could not be followed past"):
        simulate(replace(systems.two_body(), initial=collision), 1)
