"""The flows that the experiments are judged by are solutions; what is trained has the derivatives that it says."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from analysis import optimal_transport as transport_judge
from analysis.euler_ball import followed, judged, results
from experiments import euler_ball, gas, hodge, taylor_green
from experiments.euler_ball import ROOT, Config, Flow, divergence, exact, momentum, on_sphere
from experiments.optimal_transport import Convex
from neuromech.physics.fields.taylor import jacobian
from neuromech.record import read


def curl(j: torch.Tensor) -> torch.Tensor:
    return torch.stack([j[:, 2, 1] - j[:, 1, 2], j[:, 0, 2] - j[:, 2, 0], j[:, 1, 0] - j[:, 0, 1]], -1)


def test_bessel_against_closed_forms(float64) -> None:
    s = torch.linspace(1.0, ROOT, 30)  # below, the closed forms lose digits
    j1 = s.sin() / s**2 - s.cos() / s
    j2 = (3 / s**2 - 1) * s.sin() / s - 3 * s.cos() / s**2
    torch.testing.assert_close(euler_ball.bessel(1, s * s), j1 / s, rtol=0, atol=1e-14)
    torch.testing.assert_close(euler_ball.bessel(2, s * s), j2 / s**2, rtol=0, atol=1e-14)
    assert float(euler_ball.bessel(2, torch.zeros(()))) == pytest.approx(1 / 15)


def test_spheromak_solves_euler_in_the_turning_frame(float64) -> None:
    y = euler_ball.draw(100)
    y[0, 1:] = 0  # the middle is a point as any other
    v, dv = exact(y), jacobian(exact, y)

    def pressure(z):
        u, w = exact(z) + euler_ball.frame(z[:, 1:]), euler_ball.frame(z[:, 1:])
        return -(u.square() + w.square()).sum(-1, keepdim=True) / 2

    assert divergence(dv).abs().max() < 1e-13
    assert momentum(v, dv, jacobian(pressure, y)[:, 0, 1:]).abs().max() < 1e-13
    edge = on_sphere(y[1:])
    assert (exact(edge) * edge[:, 1:]).sum(-1).abs().max() < 1e-14
    u = exact(y) + euler_ball.frame(y[:, 1:])
    twist = curl(dv[..., 1:]) + torch.tensor([0.0, 0.0, 2 * euler_ball.SPIN])
    torch.testing.assert_close(twist, ROOT * u)
    assert dv[..., 0].abs().max() > 0.3  # it is not steady


def test_gas_and_vortex_are_solutions(float64) -> None:
    y = torch.rand(40, 2) * torch.tensor([gas.DURATION, 1.0])

    def state(z):
        """Newton's iteration has a fixed point: one step from there has the derivative."""
        return torch.stack(gas.exact(z[:, 0], z[:, 1]), -1)

    (rho, m), j = state(y).T, jacobian(state, y)
    assert (j[:, 0, 0] + j[:, 1, 1]).abs().max() < 1e-9
    u = m / rho
    assert (j[:, 1, 0] + 2 * u * j[:, 1, 1] + (rho**2 - u**2) * j[:, 0, 1]).abs().max() < 1e-9
    z = torch.rand(40, 3)
    u, du = taylor_green.exact(z), jacobian(taylor_green.exact, z)
    assert (du[:, 0, 1] + du[:, 1, 2]).abs().max() < 1e-13

    def force(q):
        d = jacobian(taylor_green.exact, q)
        return d[..., 0] + (d[..., 1:] @ taylor_green.exact(q).unsqueeze(-1)).squeeze(-1)

    bend = jacobian(force, z)
    torch.testing.assert_close(bend[:, 0, 2], bend[:, 1, 1])  # a gradient: there is a pressure


@pytest.mark.parametrize("method", euler_ball.METHODS)
def test_flows_in_the_ball_have_the_derivatives_they_say(method, float64) -> None:
    flow, y = Flow(Config(method, width=8, depth=2)), euler_ball.draw(12)
    v, dv, slope = flow.fields(y)
    torch.testing.assert_close(v, flow.velocity(y))
    torch.testing.assert_close(dv, jacobian(flow.velocity, y))
    torch.testing.assert_close(slope, jacobian(flow.net, y)[:, 3, 1:])
    if method != "pinn":
        assert divergence(dv).abs().max() < 1e-13
    if method == "ncl":
        edge = on_sphere(y)
        assert (flow.velocity(edge) * edge[:, 1:]).sum(-1).abs().max() < 1e-14


def test_gas_has_the_derivatives_it_says(float64) -> None:
    model, y = gas.Built(gas.Config()), torch.rand(20, 2)
    value, j = model.with_derivatives(y)
    torch.testing.assert_close(model(y), value)
    torch.testing.assert_close(jacobian(model, y), j)
    y0 = y * torch.tensor([0.0, 1.0])
    torch.testing.assert_close(model(y0)[:, 0], gas.density0(y0[:, 1:]))
    torch.testing.assert_close(gas.flux0(y0[:, 1:])[:, 0] - model(y0)[:, 1], model.start(y))


def test_a_run_that_died_goes_on_to_the_same_flow(tmp_path, monkeypatch) -> None:
    """By steps, so that it is the same run; the rows that were written stay."""
    config = Config("ncl", steps=12, width=8, depth=1, batch=16)
    whole = euler_ball.run(config, tmp_path / "ncl-0")
    died, times = tmp_path / "died", [0]

    def dies(*args):
        times[0] += 1
        if times[0] == 7:
            raise KeyboardInterrupt
        return measures(*args)

    measures = euler_ball.measures
    with monkeypatch.context() as patch:
        patch.setattr(euler_ball, "measures", dies)
        with pytest.raises(KeyboardInterrupt):
            euler_ball.run(config, died)
    assert len(read(died).frame("progress")) == 6  # it measures more often than there are steps
    euler_ball.run(config, died)
    errors = [read(d).frame("progress")[["step", "error", "loss"]] for d in (whole, died)]
    pd.testing.assert_frame_equal(*errors)
    table = judged(results(tmp_path))
    assert list(table["method"]) == ["ncl"]
    assert table["divergence"].item() < 1e-6
    assert table["wall"].item() < 1e-6
    with pytest.raises(SystemExit, match="no finished run"):
        results(tmp_path / "nowhere")


def test_particles_follow_the_exact_flow_and_stay_in_the_ball(float64) -> None:
    x = euler_ball.BALL.sample(30)
    ends = [followed(exact, x, 5, k)[-1] for k in (8, 16, 64)]
    assert (ends[-1].norm(dim=1) < 1 + 1e-6).all()
    order = math.log2(float((ends[0] - ends[2]).norm() / (ends[1] - ends[2]).norm()))
    assert 3.5 < order < 4.5


def test_transport_on_a_line_is_the_known_one(float64) -> None:
    """The exact cost by quantiles agrees with the closed form of Gaussians."""
    q = (torch.arange(20_000) + 0.5) / 20_000
    start, end = transport_judge.ends("gauss1")
    cost = (transport_judge.quantiles(start, q) - transport_judge.quantiles(end, q)).square().mean()
    assert float(cost) == pytest.approx(transport_judge.truth("gauss1"), rel=1e-3)


def test_convex_networks_are_convex_and_tell_values_from_gradients(float64) -> None:
    f, x = Convex(2, 16), torch.randn(40, 2)
    assert torch.linalg.eigvalsh(jacobian(lambda y: torch.func.grad(lambda z: f.value(z).sum())(y), x)).min() > 0
    with torch.no_grad():
        for p in f.parameters():
            p.add_(0.3 * torch.randn_like(p))
        f.root.zero_()  # the quadratic part away, what is left is convex too
    bend = jacobian(lambda y: torch.func.grad(lambda z: f.value(z).sum())(y), x)
    assert torch.linalg.eigvalsh(bend).min() >= -1e-12
    (slope,) = torch.autograd.grad(f.value(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(f(x), slope)


@pytest.mark.parametrize("case", hodge.CASES)
def test_known_parts_are_what_they_are_called(case, float64) -> None:
    """Curl-free, divergence-free, both; and along the walls, or across them, as the decomposition wants it."""
    domain, parts = hodge.domain_of(case), hodge.parts_of(case)
    x = domain.sample(30)
    slopes = {k: jacobian(f, x) for k, f in parts.items()}
    for name in ("gradient", "harmonic"):
        torch.testing.assert_close(slopes[name], slopes[name].mT)
    for name in ("divergence_free", "harmonic"):
        assert slopes[name].diagonal(dim1=1, dim2=2).sum(-1).abs().max() < 1e-12
    if domain.walls:
        edge = domain.to_wall(x)
        normal = nn.functional.normalize(domain.wall(edge)[1], dim=-1)
        assert (parts["divergence_free"](edge) * normal).sum(-1).abs().max() < 1e-12
        along = parts["gradient"](edge)
        along = along - (along * normal).sum(-1, keepdim=True) * normal  # its potential is zero on the wall
        assert along.abs().max() < 1e-12
