"""Measuring: what happens at every optimizer step, once the symmetries are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from neuromech.detect.find import Findings
from neuromech.dynamics.descent import Motion, has_exact_law, read
from neuromech.dynamics.laws import Laws, Reading
from neuromech.params import named_parameters
from neuromech.probe import describe
from neuromech.probe.journal import Journal, some
from neuromech.probe.ledger import FIELDS, Ledger
from neuromech.record import Record


class Measurement:
    """Charges observed and predicted, step by step. `before` and `after` enclose one step of one optimizer."""

    def __init__(
        self, model: nn.Module, found: Findings, record: Record, journal: Journal, every: int, members: int | None
    ) -> None:
        self.step, self.time = 0, 0.0
        self._model, self._record, self._journal, self._every = model, record, journal, every
        self._params = named_parameters(model)
        self._names: dict[Tensor, str] = {p: name for name, p in self._params.items()}
        self._owners = _owners(model, self._params)
        self._symmetries = found.symmetries
        self._laws = Laws(self._symmetries, self._params)
        self._ledger = Ledger(record, self._laws.slices, members, journal)
        # Weakly: an optimizer that is no longer used must give its momentum buffers back.
        self._optimizers: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._moving: WeakKeyDictionary[Optimizer, frozenset[str]] = WeakKeyDictionary()
        self._described: list[dict[str, Any]] = []
        self._observed: Tensor | None = None
        self._weights: Marks | None = None  # as the last step left them; None: not known
        self._buffers: Marks = {}
        record.update_meta(describe.of_findings(found, self._params))
        if not len(found):
            message = "no symmetry was found, so there is nothing to predict"
            journal.once("none found", 0, "none found", message)

    def begin(self) -> None:
        """Read the initial charges: the row of step 0."""
        self._keep(0, 0.0, self._laws.initial(self._params))
        self._weights = _marks(self._params)

    def before(self, optimizer: Optimizer) -> None:
        """The gradients of a step are ready: measure what drives the charges."""
        if optimizer not in self._optimizers:
            self._meet(optimizer)
        motions = read(optimizer, self._names)
        self._notice(optimizer, frozenset(motions))
        self._check_untouched(motions)
        gradients = {name: g for name in motions if (g := self._params[name].grad) is not None}
        self._laws.before(self._params, gradients, motions)

    @property
    def laws(self) -> Laws:
        return self._laws

    def after(self, optimizer: Optimizer) -> Reading:
        """The step is done: observe the charges, and advance every prediction."""
        reading = self._laws.after(self._params)
        lr = float(optimizer.param_groups[0]["lr"])
        self.step += 1
        self.time += lr
        self._keep(self._optimizers[optimizer], lr, reading)
        self._weights = _marks(self._params)
        self._buffers |= _buffers(read(optimizer, self._names))
        return reading

    def flush(self) -> None:
        """Bring everything measured to the record."""
        new = named_parameters(self._model).keys() - self._params.keys()
        if new:
            self._journal.once(
                f"added {sorted(new)}",
                self.step,
                "added",
                f"{some(new)} came into the model by step {self.step}: they are not measured, and symmetries of the "
                "model as it was may no longer hold",
            )
        self._ledger.flush()

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        state = {"step": self.step, "time": self.time, "laws": self._laws.state_dict()}
        return state | ({} if self._observed is None else {"observed": self._observed})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._laws.load_state_dict(state["laws"])
        self.step, self.time = int(state["step"]), float(state["time"])
        if "observed" in state:
            self._observed = state["observed"].to(next(iter(self._params.values())).device)

    def _keep(self, optimizer: int, lr: float, reading: Reading) -> None:
        self._observed = reading.observed
        kept = self.step % self._every == 0
        fields = torch.stack([getattr(reading, name) for name in FIELDS]) if kept else None
        self._ledger.add(self.step, optimizer, lr, self.time, fields)

    def _meet(self, optimizer: Optimizer) -> None:
        description = describe.of_optimizer(optimizer)
        if description in self._described:  # made anew with equal settings, as at every epoch
            self._optimizers[optimizer] = self._described.index(description)
            return
        self._optimizers[optimizer] = len(self._described)
        self._described.append(description)
        self._record.update_meta({"optimizers": self._described})
        if not has_exact_law(optimizer):
            name = type(optimizer).__name__
            message = f"there is no exact law for {name} yet: the charges that it moves are observed, not predicted"
            self._journal.event(self.step, "no law", message)

    def _notice(self, optimizer: Optimizer, moving: frozenset[str]) -> None:
        """Say which parameters stop or start moving, and which were exchanged for others."""
        before = self._moving.get(optimizer, moving)
        self._moving[optimizer] = moving
        for names, what in (
            (before - moving, "stand still: no gradient, or a step that is skipped"),
            (moving - before, "move"),
        ):
            if names:
                self._journal.event(self.step, "moving", f"from step {self.step + 1} on {some(names)} {what}")
        for name, (owner, attribute) in self._owners.items():
            if owner._parameters.get(attribute) is not self._params[name]:
                self._journal.once(
                    f"replaced {name}",
                    self.step,
                    "replaced",
                    f"{name} was replaced by another tensor before step {self.step + 1}: what is observed from then on "
                    "is the tensor that it was, no longer the model",
                )

    def _check_untouched(self, motions: Mapping[str, Motion]) -> None:
        """Start over if anything but a step has moved weights or momentum since the last one: no law speaks of that."""
        buffers = _buffers(motions)
        other = {f"momentum of {name}" for name, b in buffers.items() if self._buffers.get(name, b) != b}
        now = _marks(self._params)
        if self._weights is None or self._weights != now:
            touched = {name for name, mark in now.items() if self._weights is None or self._weights[name] != mark}
            if self._moved(touched):
                other |= touched
        if not other:
            return
        self._laws = Laws(self._symmetries, self._params)
        self._buffers = buffers
        message = (
            f"before step {self.step + 1}, {some(other)} changed otherwise than by an optimizer step (load_state_dict, "
            "clipping, averaging, ...): no law covers that, so the predictions start over from the values found there"
        )
        self._journal.event(self.step, "changed", message)
        self._journal.warn_once("changed", message)

    def _moved(self, touched: set[str]) -> bool:
        """True if charges differ, by more than rounding, from those after the last step."""
        if self._observed is None:
            return False
        reading = Laws(self._symmetries, self._params).initial(self._params)
        eps = max((torch.finfo(self._params[name].dtype).eps for name in touched), default=0.0)
        return bool(((reading.observed - self._observed).abs() > 8 * eps * reading.scale).any())


Marks = dict[str, tuple[int, int]]


def _marks(tensors: Mapping[str, Tensor]) -> Marks:
    """Where each tensor lies in memory, and how often it has been written to: it changes when the values do."""
    return {name: (t.data_ptr(), t._version) for name, t in tensors.items()}


def _buffers(motions: Mapping[str, Motion]) -> Marks:
    return _marks({name: motion.buffer for name, motion in motions.items() if motion.buffer is not None})


def _owners(model: nn.Module, names: dict[str, nn.Parameter]) -> dict[str, tuple[nn.Module, str]]:
    """Where each parameter hangs: its module and the attribute there."""
    modules = dict(model.named_modules())
    paths = {name: name.rpartition(".") for name in names}
    return {name: (modules[path], attribute) for name, (path, _, attribute) in paths.items()}
