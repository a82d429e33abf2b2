"""`instrument`: one line before the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.errors import InstrumentError
from neuromech.params import unwrapped
from neuromech.probe.arguments import Asked, check
from neuromech.probe.probe import Probe, watched


def instrument(
    model: nn.Module,
    *,
    loss: Callable[..., Any] | None = None,
    example: Any = None,
    optimizer: Optimizer | None = None,
    run: str | Path | None = None,
    every: int = 1,
    members: int | None = 8,
    resume: bool = False,
    strict: bool = False,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    to: Any = None,
    coverage: float = 1.0,
    budget: float | None = 60.0,
) -> Probe:
    """Turn a model into an instrumented physical system; training itself goes on bit for bit as without it.

    `example`: what the model is called with (tensor, tuple, dict), or `(inputs, target)` if `loss` takes a target; with
    both the symmetries are known at once. Without a loss they are found at the first step, and the loss is known by the
    gradient that it sends back. `optimizer`: to be checked now; without it, whichever steps the model's parameters.
    `run`: directory for the records; without it they are kept in memory. `every`: record every so many steps
    (predictions advance at all of them). `members`: how many members of each family to record singly, None for all.
    `resume`: go on in a run directory that holds a run already. `strict`: what goes wrong in the instrument is raised
    in the training loop; without it training goes on, and a warning, the probe and the report say what went wrong.
    `name`, `config`: what you call the run, and its settings, for the records and the report. `to`: where `scalars()`
    go at every recorded step: a `SummaryWriter`, `wandb` or a run of it, `mlflow`, a logger, f(dict, step), or a list.
    `coverage`: share of the members of each family to measure, in (0, 1]: a random run of them, drawn once. `budget`:
    seconds of CPU time, about, that finding symmetries may take; what is not settled by then is not claimed, and said.

    Raises `InstrumentError` for a model without trainable parameters, not initialised yet or instrumented already, or
    for an optimizer that holds none of its parameters; `RecordError` for a run directory that cannot be written.
    """
    asked = Asked(loss, example, optimizer, run, every, members, resume, strict, name, config, to, coverage, budget)
    check(model, asked)
    if unwrapped(model) in watched:
        already = f"this {type(model).__name__} is instrumented already"
        raise InstrumentError(f"{already}: use the probe that you have, or call its .remove() first")
    return Probe(model, asked)
