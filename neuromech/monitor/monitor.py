"""The Noether monitor: a law that should hold exactly and does not means that something is wrong with the run.

Beside every step it asks, and each question has an exact answer:

    are weights, momentum and gradients, bit for bit, what the last one to write to them left?   custody.py
    does the gradient leave the loss where its symmetries leave it?                              monitor/torque.py
    are the gradients of the step those of the backward?                                         monitor/torn.py
    did the step do to a sample of elements what its settings say?                               stepcheck.py
    did every charge go where its exact law sends it?                                            lawcheck.py
    who steps what, when, and with which settings?                                               rhythm.py
    do all ranks agree?                                                                          replicas.py

What is wrong becomes `Evidence`, and `diagnose` says what it means. The monitor reads and never writes; it draws no
random numbers. Reading its verdicts waits for the device, twice a step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from neuromech.dynamics import Laws, Reading
from neuromech.errors import FaultWarning, InstrumentError, warn
from neuromech.hooks import BackwardWatch, ForwardHooks, ForwardModes
from neuromech.monitor.causes import CAUSES
from neuromech.monitor.checks.gradients import GradientCheck, Past
from neuromech.monitor.checks.integrity import Custody, state_of
from neuromech.monitor.checks.laws import LawCheck
from neuromech.monitor.checks.order import Rhythm
from neuromech.monitor.checks.replicas import Gather, disagreement, gather_all
from neuromech.monitor.checks.settings import Expect, Expectations
from neuromech.monitor.checks.step import StepCheck
from neuromech.monitor.checksum import checksums
from neuromech.monitor.diagnose import diagnose
from neuromech.monitor.evidence import Broken, Evidence, Names, Replica, Setting
from neuromech.monitor.fault import Fault, Faults, Reaction, stop
from neuromech.monitor.sample import Sample
from neuromech.params import named_parameters
from neuromech.record import Journal, Record
from neuromech.symmetry import Symmetry

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Options:
    """What `Probe.monitor` was asked for. Raises `InstrumentError` for what makes no sense."""

    on_fault: Reaction = "warn"
    clip_norm: float | None = None
    expect: Expect | None = None
    scheduled: Collection[str] = ("lr", "momentum", "betas")
    precision: torch.dtype | None = None
    replicas: bool | Gather = False
    ignore: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.on_fault not in ("warn", "raise") and not callable(self.on_fault):
            raise InstrumentError(f"on_fault={self.on_fault!r}: pass 'warn', 'raise', or a function of the fault")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InstrumentError(f"clip_norm={self.clip_norm}: pass the norm that gradients are clipped to, or None")
        if self.precision is not None and not self.precision.is_floating_point:
            raise InstrumentError(f"precision={self.precision}: pass the number format of the coarsest computation")
        if unknown := sorted(set(self.ignore) - CAUSES.keys()):
            raise InstrumentError(f"ignore={unknown}: the causes are {', '.join(CAUSES)}")

    def described(self) -> dict[str, Any]:
        """As plain data, for the record of the run."""
        names = ("clip_norm", "scheduled", "precision", "ignore")
        return {name: getattr(self, name) for name in names} | {"replicas": bool(self.replicas)}


class Measured(Protocol):
    """What the monitor needs of the measurement beside it."""

    @property
    def laws(self) -> Laws: ...

    def start_over(self) -> None:
        """Called where predictions can no longer be right."""


class Monitor:
    """Watches one run; made by `Probe.monitor`. `faults`: what was found so far, each once."""

    def __init__(
        self, model: nn.Module, hooks: ForwardHooks, record: Record, journal: Journal, options: Options
    ) -> None:
        """`hooks`: on the model as it is called, with its wrappers."""
        self.step = 0
        self._options, self._record, self._journal = options, record, journal
        self._params = {n: p for n, p in named_parameters(model).items() if p.is_floating_point() and p.numel()}
        self._names: dict[Tensor, str] = {p: n for n, p in self._params.items()}
        sample = Sample({n: p.shape for n, p in self._params.items()})
        self._faults = Faults(tuple(options.ignore))
        self._untold: list[Fault] = []
        self._failure: Exception | None = None
        self._custody = Custody(self._params, sample)
        self._gradients = GradientCheck(self._params, sample)
        self._steps = StepCheck(self._params, sample)
        self._expectations = Expectations(options.expect, options.scheduled, list(self._params))
        self._backward = BackwardWatch(self._params, self._finished, hooks.guard)
        self._rhythm = Rhythm(model, self._params, self._backward)
        self._modes = ForwardModes(model, next(iter(self._params.values())).device, self._begun)
        hooks.listeners.append(self._modes)
        record.update_meta({"monitor": options.described()})
        self._laws: LawCheck | None = None
        self._start_over: Callable[[], None] = lambda: None
        self._torque: Tensor | None = None
        self._betrayed: tuple[Broken, ...] = ()
        self._late: dict[str, Any] | None = None  # evidence against an optimizer that may only hand its step on
        self._rates: tuple[float, float] | None = None  # learning rates of the first and the last step
        self._saved_rates: tuple[float, float] | None = None

    # -- what a user reads ---------------------------------------------------------------------------------------------

    @property
    def faults(self) -> list[Fault]:
        """What was found so far, in the order in which it was; a fault that goes on is one, and counts its times."""
        return self._faults.all

    def table(self) -> pd.DataFrame:
        """One row a suspected cause of each fault."""
        import pandas as pd

        tables = [pd.DataFrame(f.rows()) for f in self.faults]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def __repr__(self) -> str:
        told = "; ".join(f"step {f.step}: {f.suspects[0].title}" for f in self.faults)
        return f"Monitor after {self.step} steps: {told or 'no fault'}"

    # -- what the probe calls ------------------------------------------------------------------------------------------

    def arm(self, symmetries: Sequence[Symmetry], inactive: Names, measured: Measured) -> None:
        """The symmetries are known; `inactive` parameters do not reach the loss, and are not expected to move."""
        self._start_over = measured.start_over
        if self._laws is None:
            self._gradients.arm(symmetries)
            self._rhythm.excuse(inactive)
            eps = [max(torch.finfo(self._params[n].dtype).eps for n in s.parameters) for s in symmetries]
            self._laws = LawCheck(symmetries, measured.laws.slices, eps)

    def accuse(self, betrayed: Sequence[tuple[Symmetry, float]]) -> None:
        """Symmetries of the forward that its gradient violates, by how much: told ahead of the first step."""
        self._betrayed = tuple(Broken(-1, s.name, s.parameters, s.kind, s.size, s.size, by) for s, by in betrayed)

    def before(self, optimizer: Optimizer) -> None:
        """Ahead of a step, its gradients ready: everything that can be wrong before it is taken."""
        if self._failure is not None:
            raise self._failure
        state = state_of(optimizer, self._names)
        found = dict(vars(self._custody.check(optimizer, state)))
        as_left = not any(x.what == "weight" for x in found["edits"])
        moving = sorted(self._names[p] for p in _held(optimizer) if p in self._names and p.grad is not None)
        found |= {"infinite": self._gradients.infinite(), "mode": self._modes.changed()}
        past = Past(self._steps.last, self._rhythm.steady(), self._backward.uncleared.difference(moving))
        checked = self._gradients.check(moving, self._eps(), self._options.clip_norm, past)
        found["edits"] += checked.fields.pop("edits", ())
        found |= checked.fields
        if self._betrayed:
            found |= {"torques": (*found.get("torques", ()), *self._betrayed), "since_start": True}
            self._betrayed = ()
        found |= self._rhythm.check(optimizer, moving, checked.silent)
        found["settings"] = self._expectations.check(optimizer, self._names, self.step + 1)
        found["restarted"] = self._restarted(optimizer)
        if self._options.replicas:
            found["replicas"] = self._compare_replicas()
        if found["edits"] or found["lost"]:
            self._start_over()
        self._torque = checked.torques.torque if checked.torques else None
        self._late = found if self._rhythm.is_new(optimizer) else None
        if self._late is None:
            self._judge(self.step + 1, Evidence(**found))
        self._steps.before(optimizer, self._names, state, self._custody.theta(as_left))

    def after(self, optimizer: Optimizer, reading: Reading | None) -> None:
        """Behind a step: did it do what it says?"""
        self.step += 1
        self._modes.now = self.step
        if self._late is not None:
            self._judge(self.step, Evidence(**self._late))
            self._late = None
        lr = float(optimizer.param_groups[0]["lr"])
        state = state_of(optimizer, self._names)
        done = self._steps.after(optimizer, state)
        laws = self._laws(reading, self._torque, _gain(optimizer)) if self._laws and reading else ()
        self._judge(self.step, Evidence(steps=done.differences, clock=done.clock, laws=laws, lr=lr))
        if laws:
            self._start_over()
        self._custody.leave(optimizer, state, done.theta, done.vectors)
        self._rhythm.stepped(optimizer)
        self._rates = (self._rates[0] if self._rates else lr, lr)

    def react(self) -> None:
        """Tell what was found since the last time: warn, call, or raise `FaultError`."""
        waiting, self._untold = self._untold, []
        for fault in waiting:
            if self._options.on_fault == "warn":
                warn(str(fault), FaultWarning)
            elif self._options.on_fault == "raise":
                stop(fault)
            elif callable(self._options.on_fault):
                self._options.on_fault(fault)

    def state_dict(self) -> dict[str, Any]:
        return {"custody": self._custody.state_dict(), "rates": list(self._rates or ())}

    def go_on(self, step: int, saved: Mapping[str, Any] | None) -> None:
        """Go on after `step`, from a saved state if there is one: the next step is compared with it."""
        self.step = self._modes.now = step
        if saved is not None:
            self._custody.load_state_dict(saved["custody"])
            self._saved_rates = tuple(saved["rates"]) or None

    def remove(self) -> None:
        self._backward.remove()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _finished(self) -> None:
        """A backward has ended. What fails here must not fail the backward of the user."""
        try:
            with torch.no_grad():
                self._gradients.finished(stepped=self._modes.steps < self.step)
        except Exception as error:
            self._failure = error

    def _begun(self) -> None:
        """A forward begins: if the last gradients were not finite, no step has taken them."""
        names = self._gradients.infinite()
        if names and self.step:
            self._gradients.forget()
            if self._gradients.search_is_over():
                self._judge(self.step + 1, Evidence(infinite=names, skipped=True))
                self.react()

    def _judge(self, step: int, evidence: Evidence) -> None:
        added = self._faults.add(step, diagnose(evidence), evidence)
        if added is None:
            return
        fault, new = added
        if new or fault.times & (fault.times - 1) == 0:  # a fault that goes on is recorded at every doubling
            self._record.append("faults", fault.rows())
        if new:
            self._journal.event(fault.step, "fault", str(fault))
            self._record.flush()
            self._untold.append(fault)

    def _eps(self) -> float:
        kinds = {p.dtype for p in self._params.values()} | ({self._options.precision} - {None})
        return max(self._modes.eps, *(float(torch.finfo(kind).eps) for kind in kinds if kind))

    def _compare_replicas(self) -> tuple[Replica, ...]:
        names = list(self._params)
        zero = torch.zeros(1, dtype=torch.int8, device=next(iter(self._params.values())).device)
        grads = [zero if p.grad is None else p.grad for p in self._params.values()]
        own = checksums([*self._params.values(), *grads])
        gather = self._options.replicas if callable(self._options.replicas) else gather_all
        weights, gradients = gather(own).cpu().split(len(names), dim=1)
        found = disagreement("weight", names, weights), disagreement("gradient", names, gradients)
        return tuple(x for x in found if x)

    def _restarted(self, optimizer: Optimizer) -> Setting | None:
        """The learning rate of the first step again, after a saved state that was further on."""
        saved, self._saved_rates = self._saved_rates, None
        lr = float(optimizer.param_groups[0]["lr"])
        return Setting("lr", saved[1], lr, ()) if saved and saved[0] == lr != saved[1] else None


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _gain(optimizer: Optimizer) -> float:
    """By how much a torque of one gradient can move a quadratic charge in all: 2 lr / (1 - momentum)."""
    groups = optimizer.param_groups
    memory = max(float(g.get("momentum") or (g["betas"][0] if "betas" in g else 0.0)) for g in groups)
    return 2.0 * max(abs(float(g["lr"])) for g in groups) / max(1.0 - memory, torch.finfo(torch.float64).eps)
