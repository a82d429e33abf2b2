"""The experiments on learned motion, at toy sizes: every configuration builds, nothing made is made again or lost."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis import learned_motion as judge
from analysis import phase_separation as judge_phases
from experiments import learned_motion, motions, phase_separation, runs
from experiments.learned_motion import FULL, SMALL
from neuromech.errors import RecordError
from tests.families import fast

TOY = {
    "mass-spring": replace(
        SMALL["mass-spring"], train=2, test=2, length=8, hidden=4, steps=3, rollout=40, adaptive=False
    ),
    "kdv": replace(SMALL["kdv"], train=2, test=2, length=4, hidden=4, steps=3, batch=4, rollout=5),
    "cahn-hilliard": replace(SMALL["cahn-hilliard"], train=2, length=4, hidden=4, steps=3, batch=4, rollout=5),
}


@pytest.mark.parametrize("name", fast(TOY, ["mass-spring"]))
def test_from_data_to_table_and_figures(tmp_path: Path, name: str) -> None:
    config = TOY[name]
    directory = learned_motion.run(config, tmp_path)
    system = learned_motion.system_of(config)
    exact = judge.truth(directory, config, system)
    found = judge.predictions(directory)
    rows = judge.table(directory, exact)
    own = {name: judge.own_energy(config, directory, name, u) for name, u in found.items()}
    judge.motion_figures.plot(directory, system, exact, found, own)
    assert set(rows["model"]) == set(found)
    assert float(rows.set_index("model").loc[judge.OURS, "own energy"]) < 1e-13
    assert (rows["energy error"] > 0).all()
    assert (directory / "energy.png").stat().st_size > 1e4
    assert len(judge.spread([rows, rows])) == len(rows)
    made = {p: p.stat().st_mtime_ns for p in directory.glob("*-prediction.pt")}
    learned_motion.run(config, tmp_path)
    assert made == {p: p.stat().st_mtime_ns for p in directory.glob("*-prediction.pt")}
    with pytest.raises(RecordError, match="another configuration"):
        learned_motion.run(replace(config, seed=1), tmp_path)


def test_a_prediction_that_was_killed_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(motions, "PART", 10)
    scheme = learned_motion.models(TOY["mass-spring"])["discrete gradient"]().double()
    start = torch.randn(3, 2, dtype=torch.float64)
    motions.predict(tmp_path, "whole", scheme, start, 0.2, 35)
    write, left = motions.write, [3]

    def dies(path: Path, content: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        write(path, content)  # type: ignore[arg-type]

    monkeypatch.setattr(motions, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        motions.predict(tmp_path, "killed", scheme, start, 0.2, 35)
    monkeypatch.setattr(motions, "write", write)
    assert len(judge.predictions(tmp_path)["killed"]) == 21
    motions.predict(tmp_path, "killed", scheme, start, 0.2, 35)
    found = judge.predictions(tmp_path)
    assert len(found["whole"]) == 36
    assert torch.equal(found["whole"], found["killed"])


def test_a_motion_that_diverges_is_kept_as_far_as_it_went(tmp_path: Path) -> None:
    class Blow(torch.nn.Module):
        def velocity(self, u: torch.Tensor) -> torch.Tensor:
            return 10 * u**3

    scheme = learned_motion.ExplicitScheme(Blow(), "rk4")
    motions.predict(tmp_path, "blow", scheme, torch.ones(1, 2), 0.1, 50)
    kept = torch.load(tmp_path / "blow-prediction.pt", weights_only=True)
    assert "diverges" in kept["gave_up"]
    assert 1 < len(kept["u"]) < 20
    motions.predict(tmp_path, "blow", scheme, torch.ones(1, 2), 0.1, 50)  # nothing is tried again


@pytest.mark.parametrize("config", fast(FULL.values(), list(FULL.values())[:1]), ids=FULL)
def test_full_configurations_make_their_first_step(config: learned_motion.Config) -> None:
    system = learned_motion.system_of(config)
    dtype = getattr(torch, config.dtype)
    u = system.initial(3, torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        after = u + system.dt * system.velocity(u.double()).to(dtype)
    for name, make in learned_motion.models(config).items():
        scheme = motions.reproducible(0, make, dtype, "cpu")
        loss = ((scheme(u, after, system.dt) - (after - u) / system.dt) ** 2).mean()
        loss.backward()
        assert torch.isfinite(loss), name
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in scheme.parameters()), name


@pytest.mark.slow
def test_phases(tmp_path: Path) -> None:
    config = phase_separation.Config(n=6, length=4, train=2, test=1, hidden=4, steps=8, batch=4)
    directory = phase_separation.run(config, tmp_path)
    states = {"exact": torch.load(directory / "data.pt", weights_only=True)["u"][2:].transpose(0, 1)}
    kernels = {"exact": judge_phases.FIVE_POINT}
    for name, scheme in phase_separation.schemes(config).items():
        scheme.load_state_dict(torch.load(directory / f"{name}.pt", weights_only=True)["module"])
        states[name] = u = torch.load(directory / f"{name}-prediction.pt", weights_only=True)["u"]
        kernels[name] = scheme.model.structure.kernel()
        with torch.no_grad():
            energy = torch.stack([scheme.model.energy(x) for x in u])
        assert judge_phases.judge(name, kernels[name], energy, u.flatten(2).mean(-1), config.n) == []
    judge_phases.plot(directory, config, states, kernels)
    assert (directory / "phases.png").stat().st_size > 1e4


def test_a_device_that_is_not_there_is_refused() -> None:
    assert runs.device("cpu") == "cpu"
    with pytest.raises(argparse.ArgumentTypeError, match="'nonsense' is no device"):
        runs.device("nonsense")


def test_stencils_that_are_not_as_promised_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    energy, total = torch.linspace(1, 0, 5)[:, None], torch.zeros(5, 1)
    bad = judge_phases.FIVE_POINT.clone()
    bad[0, 1] = 3.0
    missed = judge_phases.judge("bad", bad, energy.flip(0), total + torch.arange(5.0)[:, None], 8)
    assert [m.split(": ")[1].split(" is ")[0] for m in missed] == [
        "sum of the entries",
        "change under a quarter turn",
        "largest eigenvalue but that of the constants",
        "largest growth of its energy in a step",
        "largest change of the total",
    ]
    assert capsys.readouterr().out.count("DOES NOT HOLD") == 5
