"""The page of a physical model: the numbers of its audit, and how far it drifts."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from neuromech.errors import RecordError
from neuromech.physics import audit
from neuromech.report import physics_report
from neuromech.report.rendering import decompressed
from neuromech.report.words import share


def euler(u: Tensor) -> Tensor:
    """An oscillator by Euler's method, which gains energy by 1 + h^2 a step."""
    return u + 0.1 * torch.stack([u[:, 1], -u[:, 0]], 1)


def energy(u: Tensor) -> Tensor:
    return u.square().sum(-1) / 2


def test_the_page_holds_the_audit_and_the_drift(tmp_path: Path) -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    found = audit(euler, states, energy=energy, steps=20)
    path = [states]
    for _ in range(20):
        path.append(euler(path[-1]))
    page = physics_report(found, tmp_path / "p.html", title="<b>Euler", drifts={"energy": energy(torch.stack(path))})
    text = page.read_text()
    assert "&lt;b&gt;Euler" in text
    assert f"furthest off is energy: {share(found['energy'].mean)} of its size" in text
    for left_out, why in found.left_out.items():
        assert f"<dt>{left_out}</dt><dd>{why}</dd>" in text
    (chart,) = decompressed(text)["overlays"]
    largest = next(line for line in chart["lines"] if line["label"] == "largest")
    values = np.frombuffer(base64.b64decode(largest["value"]), "<f4")
    assert values[-1] == pytest.approx(2.0 * (1.01**20 - 1), rel=1e-6)


def test_shapes_that_are_no_rollout_are_refused(tmp_path: Path) -> None:
    found = audit(euler, torch.ones(2, 2), energy=energy, steps=2)
    with pytest.raises(RecordError, match="T at least 2"):
        physics_report(found, tmp_path / "p.html", drifts={"energy": torch.ones(1)})
