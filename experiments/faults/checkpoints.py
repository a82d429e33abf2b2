"""Faults of checkpoints: what a run that was restored has lost."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor

import neuromech
from experiments.faults.injection import (
    ANY_MODEL,
    ANY_OPTIMIZER,
    DTYPES,
    fault,
    random_loop,
    settings_of,
)
from experiments.faults.loop import Loop, loop


@fault("momentum lost")
def momentum_lost_in_mid_run(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, ("momentum", "nesterov", "adam", "adamw")).watch()
    how = r.randrange(3)

    def lose() -> None:
        if how == 0:
            run.optimizer.state.clear()
        elif how == 1:
            run.optimizer = type(run.optimizer)(run.model.parameters(), **settings_of(run.optimizer))
        else:
            for state in run.optimizer.state.values():
                for key, t in state.items():
                    if isinstance(t, Tensor) and key != "step":
                        t.zero_()

    run.at(at, "begin", lose)
    return run


@fault("momentum lost")
def checkpoint_without_momentum(r: random.Random, seed: int, at: int) -> Loop:
    return _restored(r, seed, at, ("momentum", "nesterov", "adam", "adamw"), "momentum")


@fault("step count lost")
def step_count_lost(r: random.Random, seed: int, at: int) -> Loop:
    if r.random() < 0.5:
        return _restored(r, seed, at, ("adam", "adamw"), "steps")
    run = random_loop(r, seed, ("adam", "adamw")).watch()
    run.at(at, "begin", lambda: [state["step"].zero_() for state in run.optimizer.state.values()])
    return run


@fault("wrong checkpoint")
def checkpoint_with_older_weights(r: random.Random, seed: int, at: int) -> Loop:
    return _restored(r, seed, at, ANY_OPTIMIZER, "weights")


@fault("schedule lost")
def checkpoint_without_schedule(r: random.Random, seed: int, at: int) -> Loop:
    return _restored(r, seed, at, ANY_OPTIMIZER, "schedule")


def _restored(r: random.Random, seed: int, at: int, optimizers: tuple[str, ...], lost: str) -> Loop:
    """A run that was saved at step `at`, and goes on in fresh objects; `lost` is what was not restored."""
    name, kind, dtype = r.choice(ANY_MODEL), r.choice(optimizers), r.choice(DTYPES)
    first = loop(name, kind, dtype, seed, schedule=True).watch()
    older = copy.deepcopy(first.model.state_dict())
    first.run(at // 2)
    older = copy.deepcopy(first.model.state_dict()) if lost == "weights" else older
    first.run(at - 1 - at // 2)
    assert first.probe is not None
    saved: dict[str, Any] = copy.deepcopy(
        {
            "model": first.model.state_dict(),
            "optimizer": first.optimizer.state_dict(),
            "probe": first.probe.state_dict(),
        }
    )
    first.probe.remove()
    run = loop(name, kind, dtype, seed + 1000, schedule=True)
    run.x, run.y = first.x, first.y
    run.model.load_state_dict(older if lost == "weights" else saved["model"])
    if lost == "steps":
        for state in saved["optimizer"]["state"].values():
            state["step"] = torch.zeros_like(state["step"])
    rate = run.optimizer.param_groups[0]["lr"]
    if lost == "momentum":
        saved["optimizer"]["state"] = {}
    run.optimizer.load_state_dict(saved["optimizer"])
    if lost == "schedule":
        for group in run.optimizer.param_groups:
            group["lr"] = rate
    run.probe = neuromech.instrument(run.model)
    run.probe.load_state_dict(saved["probe"])
    run.monitor = run.probe.monitor(run.faults.append)
    run.faults += first.faults
    run.step = at - 1
    run.schedule = None
    return run
