"""What a run is, as plain data for its records."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

import neuromech
from neuromech.detect.find import Findings
from neuromech.dynamics.descent import has_exact_law
from neuromech.params import named_parameters
from neuromech.symmetry import Symmetry


def of_model(model: nn.Module) -> dict[str, Any]:
    parameters = list(named_parameters(model).values())
    return {
        "neuromech": neuromech.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})),
        "device": ", ".join(sorted({str(p.device) for p in parameters})),
    }


def of_findings(found: Findings, params: dict[str, nn.Parameter]) -> dict[str, Any]:
    def dtype(s: Symmetry) -> str:
        coarsest = max((params[n].dtype for n in s.parameters), key=lambda d: torch.finfo(d).eps)
        return str(coarsest).removeprefix("torch.")

    symmetries = [s.to_dict() | {"dtype": dtype(s)} for s in found]
    return found.to_dict() | {"symmetries": symmetries, "loss": "; ".join(found.notes)}


def of_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    keys = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

    def plain(x: Any) -> Any:
        return x.item() if isinstance(x, Tensor) else x

    groups = [
        {k: plain(g[k]) for k in keys if k in g} | {"parameters": len(g["params"])} for g in optimizer.param_groups
    ]
    return {"class": type(optimizer).__name__, "law": has_exact_law(optimizer), "groups": groups}
