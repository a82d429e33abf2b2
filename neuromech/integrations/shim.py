"""What the callbacks of all frameworks share: one probe for one training, its options, and the state to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from neuromech.errors import InstrumentError, warn
from neuromech.monitor import Reaction
from neuromech.probe import Probe, instrument

Which = str | Callable[[Any], nn.Module] | None
"""Of a module of the framework, the model to instrument: where it hangs ("net"), a function that picks it, or all."""


Watch = bool | Reaction | Mapping[str, Any]
"""Whether to watch every step: True, what to do at a fault, or all arguments of `probe.monitor()`."""


class Shim:
    """A probe from the start of a training to its end."""

    def __init__(self, which: Which, monitor: Watch, options: Mapping[str, Any]) -> None:
        self.probe: Probe | None = None
        self.saved: dict[str, Any] | None = None
        self._which, self._monitor, self._options = which, _arguments(monitor), dict(options)
        self._live = False

    def begin(self, module: nn.Module, resumed: bool = False) -> None:
        """Instrument, and go on from the state that was saved. Call it once weights and optimizer are in place.

        `resumed`: the training goes on from a checkpoint.
        """
        if self._live:
            return
        options = dict(self._options)
        if options.get("run") is not None:
            options.setdefault("resume", resumed or self.saved is not None)
        self.probe = instrument(_picked(module, self._which), **options)
        self._live = True
        if self._monitor is not None:
            self.probe.monitor(**self._monitor)
        if self.saved:
            self.probe.load_state_dict(self.saved)
        elif resumed:
            short = "the checkpoint holds no state of the instrument"
            warn(f"{short}: steps count from 0, and predictions start from here", "no state", short=short)

    def state(self) -> dict[str, Any]:
        """What to save in a checkpoint; nothing before the first step."""
        return self.probe.state_dict() if self._live and self.probe is not None else self.saved or {}

    def end(self, error: BaseException | None = None) -> None:
        """Take the instrument off; the probe keeps its records, and another training would go on from here."""
        if self._live and self.probe is not None:
            self.saved = self.state()
            self._live = False
            self.probe.__exit__(type(error) if error else None, error, None)

    def numbers(self) -> dict[str, float]:
        """`scalars()`, grouped for a logger."""
        live = self.probe.scalars() if self._live and self.probe is not None else {}
        return {f"neuromech/{tag}": x for tag, x in live.items()}


def _arguments(monitor: Watch) -> dict[str, Any] | None:
    """Of `probe.monitor()`; None: it is not called."""
    if isinstance(monitor, bool):
        return {} if monitor else None
    return dict(monitor) if isinstance(monitor, Mapping) else {"on_fault": monitor}


def _picked(module: nn.Module, which: Which) -> nn.Module:
    if which is None:
        return module
    try:
        return module.get_submodule(which) if isinstance(which, str) else which(module)
    except AttributeError as error:
        raise InstrumentError(f"model={which!r}: {error}. Pass the attribute that holds it, as in 'net'") from error
