"""Experiments that train instrumented: what was broken off begins anew, what is done is left as it is."""

from pathlib import Path

import pytest

from analysis.mended_charges import drift
from analysis.predicted_charges import largest_residuals
from experiments import mended_charges, predicted_charges
from experiments.runs import RECORD, is_done
from neuromech.errors import RecordError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "config", "other"),
    [
        (
            predicted_charges,
            predicted_charges.Config(steps=20, widths=(2, 4)),
            predicted_charges.Config(steps=30, widths=(2, 4)),
        ),
        (
            mended_charges,
            mended_charges.Config(time=0.4, hidden=4),
            mended_charges.Config(time=0.2, hidden=4),
        ),
    ],
)
def test_a_run_that_was_broken_off_begins_anew(
    experiment, config, other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    directory = tmp_path / "order1-lr0.1"
    with monkeypatch.context() as broken:
        broken.setattr(experiment, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config, directory)
    assert not is_done(directory)
    with pytest.raises(RecordError, match="another configuration"):
        experiment.run(other, directory)
    experiment.run(config, directory)
    assert is_done(directory)
    written = (directory / RECORD / "charges.csv").stat().st_mtime_ns
    experiment.run(config, directory)
    assert (directory / RECORD / "charges.csv").stat().st_mtime_ns == written
    if experiment is predicted_charges:
        assert (largest_residuals(directory)["exact"] < 1e-12).all()
    else:
        assert drift(directory)["step"].tolist() == list(range(config.steps + 1))
