"""The page of a physical model: the numbers of its audit, and how far off each law is step by step."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from neuromech.errors import RecordError
from neuromech.physics import Audit, audit
from neuromech.report import audit_page
from neuromech.report.rendering import decompressed
from neuromech.report.words import share


def euler(u: Tensor) -> Tensor:
    """An oscillator by Euler's method, which gains energy by 1 + h^2 a step."""
    return u + 0.1 * torch.stack([u[:, 1], -u[:, 0]], 1)


def energy(u: Tensor) -> Tensor:
    return u.square().sum(-1) / 2


def test_the_page_holds_the_audit_and_its_curves(tmp_path: Path) -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    found = audit(euler, states, energy=energy, steps=20)
    text = audit_page(found, tmp_path / "p.html", "<b>Euler").read_text()
    assert "&lt;b&gt;Euler" in text
    assert f"kept least is energy: off by {share(found['energy'].mean)} of its size" in text
    assert f">{found.about}.</p>" in text
    assert found.about == "Samples: 2; steps: 20; states of shape (2,)"
    for left_out, why in found.left_out.items():
        assert f"<dt>{left_out}</dt><dd>{why}</dd>" in text
    (chart,) = decompressed(text)["overlays"]
    values = np.frombuffer(base64.b64decode(chart["lines"][0]["value"]), "<f4")
    assert values[-1] / values[1] == pytest.approx((1.01**20 - 1) / 0.01, rel=1e-5)


def test_an_audit_of_nothing_and_a_place_that_takes_no_page(tmp_path: Path) -> None:
    assert "Nothing could be asked of it." in audit_page(Audit(()), tmp_path / "p.html").read_text()
    with pytest.raises(RecordError, match="cannot write"):
        audit_page(Audit(()), tmp_path)
