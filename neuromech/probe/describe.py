"""What a run is, as plain data for its records."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuromech._version import __version__
from neuromech.detect import Findings
from neuromech.dynamics import listed
from neuromech.params import named_parameters
from neuromech.probe.arguments import Asked
from neuromech.symmetry import Symmetry


def of_model(model: nn.Module) -> dict[str, Any]:
    parameters = list(named_parameters(model).values())
    return {
        "neuromech": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})),
        "device": ", ".join(sorted({str(p.device) for p in parameters})),
        "modules": [m for name, module in model.named_modules() if (m := _module(name, module))["shapes"]],
        "functions": sorted({type(m).__name__ for m in model.modules() if next(m.parameters(), None) is None}),
    }


def _module(name: str, module: nn.Module) -> dict[str, Any]:
    shapes = {k: list(p.shape) for k, p in module.named_parameters(recurse=False)}
    return {"name": name, "type": type(module).__name__, "shapes": shapes}


def of_run(asked: Asked) -> dict[str, Any]:
    """How the run is recorded, and what its user says of it."""
    return {k: getattr(asked, k) for k in ("every", "members", "name", "config")} | {"coverage": float(asked.coverage)}


def how(coverage: float, path: Path | None) -> str:
    """What a probe says of itself behind what it has measured."""
    part = f", measures {coverage:.3g} of the members of each family" if coverage < 1 else ""
    return part + (f", records in {path}" if path else "")


def of_findings(
    found: Findings, params: dict[str, nn.Parameter], followed: Sequence[Symmetry], members: Sequence[range]
) -> dict[str, Any]:
    """`followed`: the families that have laws, which come first, as they are followed; `members`: those of each that
    are measured."""

    def dtype(s: Symmetry) -> str:
        coarsest = max((params[n].dtype for n in s.parameters), key=lambda d: torch.finfo(d).eps)
        return str(coarsest).removeprefix("torch.")

    every = listed(found.symmetries, followed, members)
    symmetries = [s.to_dict() | {"dtype": dtype(s)} | extra for s, extra in every]
    return found.to_dict() | {"symmetries": symmetries, "loss": "; ".join(found.notes)}
