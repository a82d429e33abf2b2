"""Which weights the forward itself writes to, told by their bits: nobody has edited those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neuromech.hooks import ForwardHooks
from neuromech.monitor.checksum import checksums


class OwnWrites:
    """Listens to all forwards, with and without a gradient: `Embedding(max_norm=)` writes in evaluation too."""

    def __init__(self, hooks: ForwardHooks) -> None:
        hooks.listeners.append(self)
        self._watched: dict[str, Tensor] = {}
        self._began: Tensor | None = None
        self._spans: list[tuple[Tensor, Tensor]] = []  # checksums, at the begin and at the end of each forward

    def watch(self, params: Mapping[str, Tensor]) -> None:
        """These the forward was seen to write to."""
        self._watched = dict(params)

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._watched:
            self._began = checksums(list(self._watched.values()))

    def after(self, model: nn.Module, output: Any) -> None:
        if self._began is not None:
            self._spans.append((self._began, checksums(list(self._watched.values()))))
            self._began = None

    def explain(self, left: Mapping[str, int], now: Mapping[str, int]) -> frozenset[str]:
        """The weights that are otherwise than they were `left`, by nothing but forwards. Forgets the forwards."""
        spans, self._spans = [(a.tolist(), b.tolist()) for a, b in self._spans], []
        out = set()
        for i, name in enumerate(self._watched):
            at = left.get(name)
            for began, ended in spans:
                at = ended[i] if at == began[i] else None
            if at == now.get(name) != left.get(name):
                out.add(name)
        return frozenset(out)
