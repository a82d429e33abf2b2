"""A run in the terminal: in words that a person knows, each piece of advice once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

import neuromech
from neuromech import errors
from neuromech.record import read
from neuromech.report import render, told
from neuromech.report.facts import gather
from neuromech.report.no_symmetry import why_nothing
from neuromech.report.page import _tiles
from tests.report.simulate import train


def laws_of(text: str) -> list[str]:
    return [line.strip() for line in text.split("\nlaws:\n")[1].splitlines()]


def test_laws_are_told_in_words() -> None:
    (line,) = laws_of(told(train(20)))
    assert line.startswith("3 predicted: held to rounding, off by at most ")
    (line,) = laws_of(told(train(20, optimizers=[{"class": "X", "law": "measured", "groups": []}])))
    assert line.startswith("3 measured: balanced, as identities do")
    (line,) = laws_of(told(train(200, dtype=torch.bfloat16)))
    assert line.startswith("3 predicted: within what coarse rounding can do, off by at most ")


def test_advice_is_given_once() -> None:
    run = train(20)
    for name in ("loss", "weight norm"):
        run.append("metrics", {"step": range(1, 21), "name": name, "value": np.geomspace(1, 1e9, 20)})
    text = " ".join(told(run).split())
    assert text.count("exploded from step 8 on: from 1 to 1×10⁹ at step 20") == 3  # in the headline too
    assert text.count("to do: lower the learning rate, or warm it up") == 1


def test_what_is_no_number_is_not_counted_among_what_is_broken() -> None:
    def meddle(step: int, model: nn.Module) -> None:
        with torch.no_grad():
            if step == 5:
                model[0].weight.mul_(1.5)
            if step == 9:
                model[2].bias.fill_(torch.inf)

    facts = gather(train(12, meddle=meddle))
    statuses = [f.verdict.status for f in facts.families]
    (tile,) = [t for t in _tiles(facts) if t[0] == "broken"]
    assert statuses.count("diverged") > 0
    assert tile[1:] == (str(statuses.count("broken")), f"of 3 followed; {statuses.count('diverged')} not a number")


def test_why_a_model_has_no_symmetry_is_said_of_this_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = neuromech.instrument(model, run=tmp_path / "run")
    for _ in range(2):
        optimizer.zero_grad()
        (model(torch.randn(4, 3)) ** 2).mean().backward()
        optimizer.step()
    probe.remove()
    assert [w.split(":")[0] for w in errors.swallowed] == ["NM-none-found"]
    errors.swallowed.clear()
    text = why_nothing(gather(read(tmp_path / "run")))
    assert "Its hidden units (0.weight[i], 0.bias[i], 2.weight[:, i]) may change places" in text
    assert "Sigmoid and Tanh, which the model holds, let no factor pass." in text
    assert "The loss sees the whole output" in text
    assert text in render(read(tmp_path / "run"))
    meta = json.loads((tmp_path / "run" / "run.json").read_text())
    meta["sessions"][0]["meta"] |= {"functions": [3, "ReLU"], "permutations": [7, {"name": None}], "loss": None}
    (tmp_path / "run" / "run.json").write_text(json.dumps(meta))
    text = why_nothing(gather(read(tmp_path / "run")))
    assert text.startswith("Symmetries would come from ReLU-like")
    (found,) = neuromech.find_symmetries(model, torch.randn(4, 3)).permutations
    assert repr(found) == str(found)
