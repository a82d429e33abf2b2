"""The ways that a forward may take, recorded one by one: claims are to hold on all of them.

Layers that are dropped at random, states that a forward keeps for the next call, and examples of several kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from neuromech.compat import tree_map_only
from neuromech.detect.calling import Attributes, call, copies, state_of
from neuromech.detect.capture import Path, record
from neuromech.detect.graph import Graph
from neuromech.detect.patterns import compressed
from neuromech.errors import CaptureError
from neuromech.rng import preserved_rng

_DECISIONS = 32  # by random numbers, that are turned round one at a time
_SEEDS = 8  # of generators that are not torch's


def recordings(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Callable[[Any], Any] | None
) -> tuple[list[Graph], list[str]]:
    """The forward on one example, along every way that it is seen to take; and notes on why there are several.

    Raises `CaptureError` as `record` does.
    """
    graphs, notes = [record(model, args, kwargs, loss)], []
    first = graphs[0]
    others = [Path((i, answer)) for i, some in enumerate(first.decisions[:_DECISIONS]) for answer in some]
    if first.drew:
        others += [Path(seed=k) for k in range(_SEEDS)]
    if others:
        notes.append(
            "random numbers decide which way the forward takes: what is claimed holds on all that were recorded"
        )
    if first.replaced:
        kept = ", ".join(compressed(first.replaced)[:5])
        notes.append(f"the forward keeps {kept} for its next call: what is claimed holds for the first and later calls")
        others.append(Path(given=_left(model, args, kwargs)))
    failed = None
    for path in others:
        try:
            graphs.append(record(model, args, kwargs, loss, path))
        except CaptureError as error:
            failed = error
    if failed:
        notes.append(f"one of these ways failed, and does not count: {failed}")
    return graphs, notes


def _left(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Attributes:
    """The attributes that a first call leaves, as numbers of which nothing is known."""
    left: Attributes = {}
    with preserved_rng(), torch.no_grad():
        inputs, named = copies((args, kwargs))
        call(model, inputs, named, state_of(model, copies), left=left)
    return {at: tree_map_only(torch.Tensor, lambda t: t.detach().clone(), value) for at, value in left.items()}
