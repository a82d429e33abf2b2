"""What `instrument` and `load_state_dict` were given: checked, and put to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.detect import Findings, check_budget, find_symmetries, unready, wants_target
from neuromech.dynamics import check_share
from neuromech.errors import InstrumentError, RecordError, SymmetryError
from neuromech.hooks import held
from neuromech.params import named_parameters


@dataclass(frozen=True)
class Asked:
    """What `instrument` was asked for, beside the model; its docstring says what each means."""

    loss: Callable[..., Any] | None = None
    example: Any = None
    optimizer: Optimizer | None = None
    run: str | Path | None = None
    every: int = 1
    members: int | None = 8
    resume: bool = False
    strict: bool = False
    name: str | None = None
    config: Mapping[str, Any] | None = None
    to: Any = None
    coverage: float = 1.0
    budget: float | None = 60.0


def check(model: nn.Module, asked: Asked) -> None:
    """Raise `InstrumentError` for what cannot work, before anything is touched."""
    if not isinstance(model, nn.Module):
        raise InstrumentError(f"expected a torch.nn.Module, got {type(model).__name__}: pass the model itself")
    name, every, members = type(model).__name__, asked.every, asked.members
    if reason := unready(model):
        raise InstrumentError(reason)
    if not any(p.requires_grad for p in model.parameters()):
        raise InstrumentError(f"{name} has no trainable parameters: there is nothing to measure")
    if asked.optimizer is not None and not held(asked.optimizer, list(model.parameters())):
        raise InstrumentError(
            f"this {type(asked.optimizer).__name__} holds none of the parameters of {name}: was it made before the "
            "model was copied or moved? Make it from model.parameters()"
        )
    if not isinstance(every, int) or every < 1:
        raise InstrumentError(f"every={every}: record every step (1) or every so many (2, 3, ...)")
    check_share(asked.coverage)
    check_budget(asked.budget)
    if members is not None and (not isinstance(members, int) or members < 0):
        raise InstrumentError(f"members={members}: pass how many to record singly (0, 1, ...), or None for all of them")
    if asked.config is not None and not isinstance(asked.config, Mapping):
        raise InstrumentError(f"config= takes a dict of settings, not {type(asked.config).__name__}: try vars(args)")
    if asked.loss is not None and asked.example is None:
        raise InstrumentError(
            "loss= needs example= to be evaluated on: pass both, or neither, and the loss is recognised by the first "
            "gradient that it sends back"
        )


def find_now(model: nn.Module, loss: Callable[..., Any], example: Any, budget: float | None = None) -> Findings:
    """The symmetries under a loss that can be evaluated on the example: `(inputs, target)`, or inputs alone."""
    if not wants_target(loss):
        return find_symmetries(model, example, loss, budget=budget)
    if not (isinstance(example, (tuple, list)) and len(example) == 2):
        raise InstrumentError("this loss takes (output, target): pass example=(inputs, target)")
    return find_symmetries(model, example[0], loss, example[1], budget=budget)


def findings_in(state: Any, model: nn.Module) -> Findings:
    """What was found, in a probe's saved state. Raises `RecordError` for what is none, or is of another model."""
    if not (isinstance(state, dict) and state.keys() >= {"found", "measurement"}):
        what = f"a dict of {sorted(map(str, state))}" if isinstance(state, dict) else type(state).__name__
        raise RecordError(f"expected what state_dict() of a probe returns (found, measurement), got {what}")
    found = Findings.from_dict(state["found"])
    try:
        for s in found:
            s.check(named_parameters(model))
    except SymmetryError as error:
        raise RecordError(f"the saved state is of another model: {error}") from error
    return found
