"""Several forwards of parts of one model, written down into one graph; see `hooks/parts.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from neuromech.compat import innermost_function_mode, version
from neuromech.detect.capture import backward_graph
from neuromech.detect.follow import Follower, tensors_in
from neuromech.detect.graph import Graph, Value
from neuromech.errors import CaptureError


class JointFollower(Follower):
    """To be entered ahead of each call of a part, and left behind it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, (), {})
        self._values: list[Value] = []
        self._reached: set[str] = set()
        self._custom: list[str] = []
        self._versions: Any = WeakTensorKeyDictionary()  # of what parts have returned

    def take_in(self, arguments: Any, made: Collection[Any]) -> None:
        """The arguments of the next call. `made`: the nodes of autograd that end what the parts have returned.

        Raises `CaptureError` if other code has computed one of them from parameters.
        """
        for t in tensors_in(arguments):
            if t in self._twins and self._versions.get(t, version(t)) == version(t):
                continue
            reached, _ = backward_graph([t] if t.grad_fn is not None else [], made)
            if names := sorted(name for p in reached for name in self._name(p)):
                raise CaptureError(
                    f"{names[0]} is used outside of the parts of {type(self._model).__name__} that are called: move "
                    "that into the forward of one of them"
                )
            self._twins.pop(t, None)
            self._announce(t, "input")

    def give_out(self, t: Tensor, made: Collection[Any]) -> None:
        """A tensor that a part has returned."""
        if t not in self._twins:
            self._announce(t, "constant")
        self._versions[t] = version(t)
        self._values.append(self._recorder.read(self._twins[t]))
        reached, custom = backward_graph([t], made)
        self._reached |= {name for p in reached for name in self._named.get(p, ())[:1]}
        self._custom += custom

    def follows(self) -> bool:
        """True inside of a call."""
        return innermost_function_mode() is self

    def joint(self) -> Graph:
        """What was written down, with all that the parts returned for its results. Raises as `graph` does."""
        return self._graph_of(self._values, self._reached, self._custom)
