"""The evidence: what holds, what fails and what dies are told apart; what was answered is not asked again."""

import json
import os
import sys
from pathlib import Path

import pytest

from experiments import evidence
from experiments.evidence import CLAIMS, Claim, ask, try_all

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser(); parser.add_argument("--out", type=pathlib.Path); parser.add_argument("--dies")
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
with (options.out / "asked").open("a") as f:
    f.write("x")
sys.exit(3 if options.dies else 0)
"""
ANALYSIS = """
import pathlib, sys
_, runs, _, figures = sys.argv
(pathlib.Path(figures) / "drawn.png").write_bytes(b"not empty")
print("measured: seen in", pathlib.Path(runs).name)
sys.exit("bad" in runs)
"""
BROKEN = "raise SystemExit(1)"


@pytest.fixture
def claims(tmp_path, monkeypatch) -> dict[str, Claim]:
    """Four experiments of the cheapest kind: it holds, it fails, it dies, its analysis dies."""
    for package in ("experiments", "analysis"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(
            f"__path__ = [{str(tmp_path / package)!r}, {str(ROOT / package)!r}]"
        )
        for name in ("good", "bad", "dead", "silent"):
            body = EXPERIMENT if package == "experiments" else BROKEN if name == "silent" else ANALYSIS
            (tmp_path / package / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.chdir(tmp_path)
    small = {"dead": ("--dies", "now")}
    made = {name: Claim(f"it is {name}", "so", small.get(name, ())) for name in ("good", "bad", "dead", "silent")}
    monkeypatch.setattr(evidence, "CLAIMS", made)
    return made


def test_verdicts_are_told_apart_and_answers_are_kept(claims, tmp_path) -> None:
    out = tmp_path / "out"
    answers = try_all(claims, out, jobs=2)
    assert {name: a.verdict for name, a in answers.items()} == {
        "good": "holds",
        "bad": "FAILS",
        "dead": "NOT TRIED",
        "silent": "NOT TRIED",
    }
    assert answers["bad"].measured == "seen in bad"
    assert "ended with 3" in answers["dead"].measured
    again = try_all(claims, out, jobs=1)
    assert again["good"] == answers["good"]
    counts = {name: len((out / name / "asked").read_text()) for name in claims}
    assert counts == {"good": 1, "bad": 2, "dead": 2, "silent": 2}  # only what holds is not asked again
    claims["good"] = Claim("it is better", "so")
    assert try_all(claims, out, jobs=1)["good"].claim == "it is better"  # another claim is another question


def test_torn_answers_are_asked_again(claims, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evidence.json").write_text('[{"name": "go')
    assert try_all({"good": claims["good"]}, tmp_path / "out", jobs=1)["good"].verdict == "holds"
    assert "cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(("names", "code"), [(["good"], 0), (["good", "bad"], 1), (["bad", "dead"], 2)])
def test_the_exit_code_and_the_page(names, code, claims, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["evidence", "--out", str(tmp_path / "out"), "--jobs", "2", "--only", *names])
    assert evidence.main() == code
    page = (tmp_path / "out" / "evidence.html").read_text()
    assert all(f"it is {name}" in page for name in names)
    assert "data:image/png;base64,bm90IGVtcHR5" in page
    assert f"of {len(names)} claims hold" in capsys.readouterr().out


def test_every_experiment_has_its_claim_and_its_analysis() -> None:
    shared = {"__init__", "evidence", "motions", "runs", "seeds", "tiny_imagenet", "training"}
    unclaimed = {"loss_spikes"}  # asked, and answered by no: nothing foresees them well enough to claim it
    made = {p.stem for p in (ROOT / "experiments").glob("*.py")} - shared
    assert set(CLAIMS) == (made - unclaimed) | {"silent_bugs"}
    assert all((ROOT / "analysis" / f"{name}.py").exists() for name in CLAIMS)


@pytest.mark.slow
def test_one_claim_from_beginning_to_end(tmp_path) -> None:
    """The real thing, in its smallest size."""
    pytest.importorskip("sklearn")
    claim = Claim("charges are predicted", "rounding", ("--steps", "8", "--only", "vit-adamw-0.001"))
    answer = ask("neural_mechanics", claim, tmp_path)
    assert (answer.verdict, answer.measured[:25]) == ("holds", "exact laws off by at most")
    assert list((tmp_path / "figures").glob("*.png"))
    assert json.loads((tmp_path / "neural_mechanics" / "vit-adamw-0.001" / "run.json").read_text())
