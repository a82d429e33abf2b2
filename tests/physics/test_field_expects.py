"""What the field expects: odeint, windows, readers, figures and films."""

import pickle

import h5py
import numpy as np
import pytest
import torch

from neuromech.errors import PhysicsError
from neuromech.physics import (
    EnergyModel,
    Laplacian,
    MLPEnergy,
    Rollout,
    Symplectic,
    Trajectories,
    Windows,
    audit,
    load_hnn,
    load_pdebench,
    odeint,
    plots,
    rollout,
    systems,
)
from neuromech.report import audit_page
from neuromech.report.rendering import decompressed


@pytest.fixture(scope="module")
def moved():
    system = systems.mass_spring()
    model = EnergyModel(system.energy, Symplectic())
    u0 = system.initial(3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model, u0, rollout(model, u0, 0.1, 5)


def test_odeint_is_the_call_of_solvers(moved) -> None:
    model, u0, out = moved
    times = 0.1 * torch.arange(6, dtype=torch.float64)
    torch.testing.assert_close(odeint(model, u0, times), out.u)
    q, p = odeint(lambda u: torch.cat([2 * u[:, 1:], -2 * u[:, :1]], -1), tuple(u0.chunk(2, -1)), times)
    exact = q[0] * torch.cos(torch.tensor(1.0)) + p[0] * torch.sin(torch.tensor(1.0))
    torch.testing.assert_close(q[5], exact, atol=1e-4, rtol=0)
    with pytest.raises(PhysicsError, match="is not a motion"):
        odeint(3, u0, times)


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        (1, [1]),
        (-1, [3]),
        (slice(1, 3), [1, 2]),
        ([3, 0], [3, 0]),
        (np.array([2, 2]), [2, 2]),
        (torch.tensor([True, False, False, True]), [0, 3]),
    ],
)
@pytest.mark.parametrize("own_times", [False, True])
def test_trajectories_are_chosen_as_rows_are(rows, same, own_times) -> None:
    t = torch.arange(5.0)
    data = Trajectories(t + torch.rand(4, 1) if own_times else t, torch.randn(4, 5, 2), condition=torch.ones(4) > 0)
    chosen = data[rows]
    assert torch.equal(chosen.u, data.u[same])
    assert torch.equal(chosen.t, data.t[same] if own_times else t)
    assert len(chosen.condition) == len(same)


def test_what_chooses_no_trajectories_is_told() -> None:
    data = Trajectories(torch.arange(5.0), torch.randn(4, 5, 2))
    for rows in ("a", 1.5, None, [], [7], (slice(None), 0), True):
        with pytest.raises(PhysicsError, match="chooses none of 4 trajectories"):
            data[rows]
    with pytest.raises(IndexError):
        data[4]


def test_data_move_as_tensors_do_and_masks_stay_masks() -> None:
    data = Trajectories(torch.arange(5.0), torch.randn(4, 5, 2), condition=torch.ones(4) > 0)
    for to in (
        lambda x: x.to(torch.float64),
        lambda x: x.to(dtype=torch.float64),
        lambda x: x.to(torch.zeros(1).double()),
    ):
        assert to(data).u.dtype == to(data).t.dtype == to(data.pairs()).before.dtype == torch.float64
        assert to(data).condition.dtype == to(data.pairs()).condition.dtype == torch.bool
    with pytest.raises(PhysicsError, match="cannot become torch"):
        data.to(torch.int64)


def test_windows_for_a_data_loader() -> None:
    t = torch.arange(6.0)
    u = torch.arange(24.0).reshape(2, 6, 2)
    windows = Windows(Trajectories(t, u, inputs=torch.zeros(2, 5, 1)), 3, stride=2)
    assert len(windows) == 4
    batch = next(iter(torch.utils.data.DataLoader(windows, 4)))
    assert batch["u"].shape == (4, 3, 2)
    assert batch["inputs"].shape == (4, 2, 1)
    torch.testing.assert_close(windows[3]["u"], u[1, 2:5])
    torch.testing.assert_close(windows[-1]["t"], t[2:5])
    with pytest.raises(PhysicsError, match="windows of 7 states"):
        Windows(Trajectories(t, u), 7)


def grid_of(file, cells: int, times: int) -> None:
    file["x-coordinate"] = np.linspace(0, 1, cells, endpoint=False)
    file["t-coordinate"] = np.linspace(0, 1, times + 1)


def test_the_three_layouts_of_pdebench(tmp_path) -> None:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((3, 4, 8))
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["tensor"] = u
        grid_of(file, 8, 4)
    one = load_pdebench(tmp_path / "one.h5", samples=slice(0, 2))
    torch.testing.assert_close(one.trajectories.u, torch.from_numpy(u[:2]).float())
    assert one.dx == pytest.approx((0.125,))
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["density"], file["Vx"] = u, 2 * u
        grid_of(file, 8, 4)
    many = load_pdebench(tmp_path / "many.h5", fields=("density", "Vx"))
    assert many.trajectories.u.shape == (3, 4, 2, 8)
    assert many.path.shape == (4, 3, 8, 2)
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for k in range(2):
            group = file.create_group(f"{k:04d}")
            group["data"] = rng.standard_normal((5, 6, 4, 2))
            for name, count in (("t", 5), ("x", 6), ("y", 4)):
                group[f"grid/{name}"] = np.linspace(0, 1, count)
    groups = load_pdebench(tmp_path / "groups.h5")
    assert groups.trajectories.u.shape == (2, 5, 2, 6, 4)
    (tmp_path / "bad.h5").write_text("no")
    with pytest.raises(PhysicsError, match="not an HDF5 file"):
        load_pdebench(tmp_path / "bad.h5")
    with pytest.raises(PhysicsError, match="holds Vx, density"):
        load_pdebench(tmp_path / "many.h5", fields=("Vz",))


class Trap:
    def __reduce__(self):
        return (print, ("run",))


def test_pickles_of_arrays_and_of_nothing_else(tmp_path, capsys) -> None:
    path = tmp_path / "spring.pkl"
    path.write_bytes(pickle.dumps({"x": np.ones((4, 2)), "meta": {"a": 1}}))
    assert load_hnn(path)["x"].shape == (4, 2)
    path.write_bytes(pickle.dumps({"x": Trap()}))
    with pytest.raises(PhysicsError, match="no more is loaded"):
        load_hnn(path)
    assert "run" not in capsys.readouterr().out
    path.write_bytes(b"\x80nothing")
    with pytest.raises(PhysicsError, match="not a pickle"):
        load_hnn(path)


@pytest.mark.slow
def test_figures_and_a_film(moved, tmp_path) -> None:
    model, _, out = moved
    assert len(plots.phase_portrait(out).lines) == 6
    axes = plots.energy_curve(out, model.energy)
    assert max(float(np.abs(line.get_ydata()).max()) for line in axes.lines) < 1e-13
    assert plots.save(axes, tmp_path / "energy.png", dt=0.1).stat().st_size > 1000
    assert '"dt": 0.1' in (tmp_path / "energy.json").read_text()
    assert plots.film(out, tmp_path / "film.gif", every=2).read_bytes()[:3] == b"GIF"
    waves = Trajectories(torch.arange(4.0), torch.randn(2, 4, 9))
    assert plots.space_time(waves, dx=0.1).collections[0].get_array().shape == (4, 9)
    assert plots.arrows(lambda x: x, torch.rand(5, 2)) is not None
    with pytest.raises(PhysicsError, match="is not a motion"):
        plots.phase_portrait(3)
    named = plots.phase_portrait(out, label="springs")
    assert [text.get_text() for text in named.get_legend().get_texts()] == ["springs"]
    assert len({line.get_color() for line in named.lines}) == 1


def test_pictures_that_cannot_be_are_refused_before_they_are_drawn(tmp_path) -> None:
    waves = Trajectories(torch.arange(4.0), torch.randn(2, 4, 9))
    model = EnergyModel(MLPEnergy(9, 2), Laplacian(1.0))
    with torch.no_grad():
        axes = plots.energy_curve(waves, model)
    assert len(axes.lines) == 2
    assert plots.save(axes, tmp_path / "new" / "a.svg").is_file()
    for make, words in (
        (lambda: plots.energy_curve(waves, lambda u: u), "one number a sample; of 2 states found"),
        (lambda: plots.space_time(waves, sample=2), "no sample 2 among 2"),
        (lambda: plots.film(waves, tmp_path / "a.gif", sample=-3), "no sample -3 among 2"),
        (lambda: plots.film(waves, tmp_path / "a.mp4"), "ends in .gif"),
        (lambda: plots.save(axes, tmp_path / "a.xyz"), "not a name of a picture"),
    ):
        with pytest.raises(PhysicsError, match=words):
            make()
    with pytest.raises(PhysicsError, match="the model is str"):
        audit("model", waves.u[0])


def test_times_of_each_sample_are_drawn_where_they_are() -> None:
    """As many samples as times, so that nothing but the type tells which axis is which."""
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 5.0], [1.0, 2.0, 3.0]])
    u = torch.arange(27.0).reshape(3, 3, 3)
    for motion in (Trajectories(t, u), Rollout(t.T, u.transpose(0, 1))):
        lines = plots.energy_curve(motion, lambda x: x[:, 0]).lines
        for k, line in enumerate(lines):
            assert list(line.get_xdata()) == t[k].tolist()
            assert list(line.get_ydata()) == (u[k, :, 0] - u[k, 0, 0]).tolist()
    edges = plots.space_time(Trajectories(t, u), sample=1).collections[0].get_coordinates()[:, 0, 1]
    assert edges.tolist() == [-1.0, 1.0, 3.5, 6.5]  # in the middle between the times


def test_a_page_of_an_audit(tmp_path) -> None:
    x = torch.arange(16, dtype=torch.float64) / 16
    path = torch.stack([torch.sin(2 * torch.pi * (x - 0.1 * k)) + 2 + 0.01 * k for k in range(6)])[:, None].repeat(
        1, 3, 1
    )
    found = audit(None, path, kind="path", dx=1 / 16)
    assert found["total"].curve[5] == pytest.approx(5 * found["total"].curve[1], rel=1e-3)
    text = audit_page(found, tmp_path / "audit.html", "A <wave>").read_text()
    assert "A &lt;wave&gt;" in text
    assert [chart["title"] for chart in decompressed(text)["overlays"]] == ["How far off total is"]
    assert "no function energy= was given" in text
