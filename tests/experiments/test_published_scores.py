"""What the documentation tells of the scores is that of the largest run."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import silent_bugs


def test_a_smaller_run_leaves_what_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(silent_bugs, "PUBLISHED", tmp_path / "scores")
    bugs = pd.DataFrame({"bug": ["a"], "source": ["b"], "cause": ["c"], "delay": [0], "rank": [1]})
    clean = pd.DataFrame({"kind": ["optimizer"] * 3, "steps": [4] * 3, "alarms": [0] * 3})
    for rows, told in ((3, 3), (2, 3), (3, 3)):
        silent_bugs.publish(bugs, clean[:rows])
        assert pd.read_csv(tmp_path / "scores" / "clean_runs.csv")["runs"].sum() == told
    assert capsys.readouterr().out.count("not published") == 1
