"""The Noether monitor: if a law that must hold exactly does not, something is wrong with the run.

Ahead of every step and behind it, the facts are read once (facts.py), and each check asks a question of its own:

    checks/integrity.py    are weights and optimizer state, bit for bit, what the last step left?
    checks/gradients.py    does the gradient leave the loss where its symmetries leave it; is it that of the backward?
    checks/step.py         did the step do to a sample of elements what its settings say?
    checks/laws.py         did every charge go where its exact law sends it?
    checks/order.py        who steps what, and when?
    checks/settings.py     with which settings?
    checks/mode.py         in the mode in which training began?
    checks/replicas.py     do all ranks agree?

What is wrong becomes `Evidence`, and `diagnose` says what it means. The monitor reads and never writes; it draws no
random numbers. Reading its verdicts waits for the device, twice a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.compat import has_stand_ins, is_sharded, local
from neuromech.detect import Graph
from neuromech.dynamics import Laws, Reading, share_of
from neuromech.errors import FaultWarning, InstrumentError, warn
from neuromech.hooks import BackwardWatch, ForeignSteps, ForwardHooks, ForwardModes, ForwardWatch, OuterSteps, Ranks
from neuromech.monitor.checks.check import NOTHING, Check
from neuromech.monitor.checks.delivery import GradientDelivery, reached
from neuromech.monitor.checks.gradients import GradientIntegrity, TorqueCheck
from neuromech.monitor.checks.integrity import StateIntegrity
from neuromech.monitor.checks.laws import LawCheck
from neuromech.monitor.checks.mode import ModeCheck
from neuromech.monitor.checks.movement import MovementCheck
from neuromech.monitor.checks.order import StepOrder
from neuromech.monitor.checks.penalty import PenaltyCheck
from neuromech.monitor.checks.replicas import ReplicaCheck, gather_all
from neuromech.monitor.checks.settings import SettingsCheck
from neuromech.monitor.checks.step import StepCheck
from neuromech.monitor.copies import OtherCopies, held_by
from neuromech.monitor.diagnosis import diagnose
from neuromech.monitor.evidence import Broken, Evidence, Names
from neuromech.monitor.facts import Step, StepReader
from neuromech.monitor.fault import Fault, Faults, stop
from neuromech.monitor.joint_stop import JointStop
from neuromech.monitor.missing_gradient import GradientHistory, padded
from neuromech.monitor.model_gradient import ModelGradient, coarsest
from neuromech.monitor.options import Options
from neuromech.monitor.own_writes import OwnWrites
from neuromech.monitor.practices import noticed
from neuromech.monitor.sample import Sample
from neuromech.monitor.torque import Total, of_all_processes
from neuromech.params import named_parameters
from neuromech.record import Journal, Progress, Record
from neuromech.symmetry import Symmetry

if TYPE_CHECKING:
    import pandas as pd


class Monitor:
    """Watches one run; made by `Probe.monitor`. `faults`: what was found so far, each once."""

    def __init__(
        self, model: nn.Module, hooks: ForwardHooks, record: Record, journal: Journal, options: Options, run: Progress
    ) -> None:
        """`hooks`: on the model as it is called, with its wrappers."""
        self.step, self._model, self._guard, self._run = 0, model, hooks.guard, run
        self._options, self._record, self._journal = options, record, journal
        self._faults, self._unreported = Faults(options.no_faults), list[Fault]()
        self._failure: Exception | None = None
        self._last: weakref.ref[Optimizer] | None = None  # that stepped, of those that are measured
        self._moved_on = False  # an outer step has written to weights behind the step that it took by another one
        self._armed, self._laws_of = False, ""  # a share of their members, said
        self._total: Total | None = None
        self._violated = NOTHING  # by the first gradient
        self._model_gradient: ModelGradient | None = None
        self._ahead: Step | None = None
        self._postponed: Evidence | None = None  # against an optimizer that may only hand its step on
        self._modes = ForwardModes(model, next(model.parameters()).device, self._forward_begins)
        hooks.listeners.append(self._modes)
        self._own = OwnWrites(hooks)
        self._watch()
        self._together = JointStop(self._reader.device) if options.on_fault == "raise" and JointStop.asked() else None
        record.update_meta({"monitor": options.described()})

    def _watch(self) -> None:
        """Watch the model as it is now."""
        model, options = self._model, self._options
        every = self._watched = list(model.parameters())
        params = {n: p for n, p in named_parameters(model).items() if p.is_floating_point() and p.numel()}
        sample = Sample({n: (local(p) if is_sharded(p) else p).shape for n, p in params.items()})
        self._reader = StepReader(params, sample)
        self._backward = BackwardWatch(params, self._backward_ended, self._guard)
        self._copies = OtherCopies(dict(model.named_parameters()))
        self._foreign = ForeignSteps(every, self._foreign_begins, self._foreign_step)
        self._outer = OuterSteps(every, self._outer_step)
        self._history = GradientHistory(params)
        self._integrity = StateIntegrity(params, sample, self._own)
        self._gradients = GradientIntegrity(params, sample, options.clip_norm)
        self._order = StepOrder(model, params, self._backward, self._history, self._modes.rebuilt)
        self._settings = SettingsCheck(options.expect, options.scheduled, list(params))
        self._checks: list[Check] = [
            self._integrity,
            ModeCheck(self._modes),
            self._gradients,
            self._order,
            self._settings,
            GradientDelivery(self._backward),
            StepCheck(params, sample),
            MovementCheck(self._run),
        ]
        if options.replicas:
            self._checks.append(ReplicaCheck(params, options.replicas if callable(options.replicas) else gather_all))
        self._padded = padded(model)
        kinds = {options.precision or torch.float64, *(p.dtype for p in params.values())}
        self._eps = max(torch.finfo(kind).eps for kind in kinds)

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
        found = "; ".join(f"step {f.step}: {f.suspects[0].title}" for f in self.faults)
        found = found or ("no fault" if self.step else "nothing has been checked")
        return f"Monitor after {self.step} steps: {found}{self._laws_of}"

    # -- what the probe calls ------------------------------------------------------------------------------------------

    def arm(self, laws: Laws, inactive: Names, ranks: Ranks | None = None) -> None:
        """The symmetries are known, and measured by `laws`; `inactive` parameters do not reach the loss.

        `ranks`: the processes over which parameters are sharded. If laws see a part of the members they are judged by
        these; torques are measured here, of all.
        """
        if self._armed:
            return
        self._armed = True
        reader, symmetries, members = self._reader, laws.symmetries, laws.members
        self._total = ranks.total if ranks is not None else None
        measured = share_of(symmetries, members)
        if measured < 1:
            self._laws_of = f"; its laws are judged by {measured:.2g} of their members"
            self._record.update_meta({"monitor": self._options.described() | {"laws_judged_by": measured}})
        reader.arm(symmetries, laws.slices, self._total, measured == 1)
        self._history.expect_none(inactive)
        eps = [max(torch.finfo(reader.params[n].dtype).eps for n in s.parameters) for s in symmetries]
        torque = TorqueCheck(reader.params, reader.judge, self._history, lambda: self._backward.uncleared, self._modes)
        padded = [i for i, s in enumerate(symmetries) if s.is_linear and self._padded.intersection(s.parameters)]
        torque.unjudged.update(padded)
        # It asks who had a gradient at every step so far: ahead of the check that notes this step.
        explained = PenaltyCheck(torque, self._model_gradient, "penalty" in self._options.allow)
        self._checks.insert(self._checks.index(self._order), explained)
        self._checks.append(LawCheck(symmetries, laws.slices, eps, members))

    def begin(self, violated: Sequence[tuple[Symmetry, float]], graph: Graph | None, forwards: ForwardWatch) -> None:
        """What is known of the first forward that trained, ahead of the first step.

        `violated`: symmetries of the forward that its gradient violates, by how much. `graph`: what it computed, if it
        was recorded. `forwards`: has that forward, and the next ones for the asking.
        """
        self._keep_up()
        self._eps = max(self._eps, coarsest(graph), torch.finfo(forwards.autocast).eps if forwards.autocast else 0.0)
        sharded = any(is_sharded(p) for p in self._reader.params.values())
        self._own.watch({n: p for n, p in self._reader.params.items() if graph and n in graph.written})
        self._model_gradient = None if sharded else ModelGradient(self._model, forwards)
        torques = tuple(
            Broken(-1, s.name, s.parameters, s.kind, s.size, s.size, by)
            for s, by in violated
            if not (s.kind == "translation" and self._padded.intersection(s.parameters))
        )
        self._violated = Evidence(torques=torques, since_start=bool(torques))

    def before(self, optimizer: Optimizer, changed: bool) -> tuple[bool | None, bool]:
        """Ahead of a step, its gradients ready: judge everything that can be wrong before it is taken.

        Returns whether weights or state were edited since the last step (None: nothing to compare with), and whether
        the gradients are others than those of the backward, bit for bit, or taken at other weights; `changed`: they
        are known to be.
        """
        if self._failure is not None:
            raise self._failure
        known = self._integrity.knows
        not_finite = Evidence(infinite=self._gradients.infinite_at(self._reader.waiting, optimizer))
        step = self._ahead = self._reader.ahead(
            optimizer, self.step + 1, max(self._modes.eps, self._eps), self._modes.exchanged()
        )
        new = self._order.is_new(optimizer)
        found = reduce(or_, (check.before(step) for check in self._checks), not_finite) | self._violated
        self._violated = NOTHING
        self._postponed = found if new else None
        if not new:
            self._judge(step.number, found)
        edits = found.edits or found.own_writes or found.lost or found.returned
        edited, self._moved_on = bool(edits or self._moved_on), False
        # An edit that no code is seen to make may have come behind the backward: of a single element, by a flipped bit.
        changed = changed or edited or bool(step.changed or step.elsewhere or found.rebuilt or step.backward is None)
        if self._total is not None:
            # A law of sharded parameters is one of sums over all processes: all start over and measure, or none.
            flags = torch.tensor([edited, changed], dtype=torch.float64, device=self._reader.device)
            edited, changed = (x > 0 for x in self._total(flags).tolist())
        return edited if known else None, changed

    def after(self, optimizer: Optimizer, reading: Reading | None) -> bool:
        """Behind a step: did it do what it says? Returns whether a law was left: predictions have to start over."""
        self.step += 1
        self._copies.stepped()
        self._modes.now = self.step
        if self._postponed is not None:
            self._judge(self.step, self._postponed)
            self._postponed = None
        if self._ahead is None or self._ahead.optimizer is not optimizer:
            return False
        if reading is not None and self._total is not None:
            reading = of_all_processes(reading, self._total)
        step, self._ahead, self._last = self._reader.behind(self._ahead, reading), None, weakref.ref(optimizer)
        found = reduce(or_, (check.after(step) for check in self._checks), NOTHING)
        self._judge(self.step, found)
        return bool(found.laws)

    def empty_step(self, optimizer: Optimizer) -> None:
        """A step without any gradient, before anything was measured: had the last backward computed some?"""
        raw, held = self._reader.waiting, {self._reader.names.get(p) for p in held_by(optimizer)}
        if raw is not None and (gone := reached(raw, list(self._reader.params)) & held):
            self._judge(self.step + 1, Evidence(zeroed=tuple(sorted(map(str, gone))), zeroed_all=True))

    def averaged(self, of: str, told: float, taken: float) -> None:
        """An average of the weights took them in otherwise than it was told."""
        self._judge(self.step, Evidence(averaged=((of, told, taken),)))
        self.react(in_step=False)

    def react(self, in_step: bool = True) -> None:
        """Report what was found since the last time: warn, call, or raise `FaultError`.

        `in_step`: every process of a distributed run is here, in a step, so that all can stop together.
        """
        if self._settings.refused:
            refused, self._settings.refused = self._settings.refused, ""
            raise InstrumentError(refused)
        if self._together is not None:
            if not in_step:
                return  # the next step will tell
            self._together(self._unreported[0] if self._unreported else None)
        waiting, self._unreported = self._unreported, []
        for fault in waiting:
            if self._options.on_fault == "warn":
                short = f"step {fault.step}: {fault.suspects[0].title}"
                warn(str(fault), fault.cause, FaultWarning, short)
            elif self._options.on_fault == "raise":
                stop(fault)
            elif callable(self._options.on_fault):
                self._options.on_fault(fault)

    def state_dict(self) -> dict[str, Any]:
        return {"integrity": self._integrity.state_dict(), "rates": self._settings.state_dict()}

    def go_on(self, step: int, saved: Mapping[str, Any] | None) -> None:
        """Go on after `step`, from a saved state if there is one: the next step is compared with it."""
        self.step = self._modes.now = step
        if saved is not None:
            self._integrity.load_state_dict(saved["integrity"] if "integrity" in saved else saved["custody"])
            self._settings.load_state_dict(saved["rates"])

    def remove(self) -> None:
        self._faults.bring(self._record)
        for watch in (self._backward, self._foreign, self._outer):
            watch.remove()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _keep_up(self) -> None:
        """Ahead of training, a model may still be sharded, cast or rebuilt: it has other parameters then."""
        if [*map(id, self._model.parameters())] != [*map(id, self._watched)]:
            self.remove()
            self._modes.renew()
            self._watch()

    def _backward_ended(self) -> None:
        """What fails here must not fail the backward of the user."""
        try:
            with torch.no_grad():
                self._reader.finished(self._modes.steps < self.step, self._modes.count, self._modes.kind)
        except Exception as error:
            self._failure = error

    def _forward_begins(self) -> None:
        """If the last gradients were not finite, no step has taken them."""
        if not self._armed and not has_stand_ins(self._model):
            self._keep_up()
        names = self._gradients.infinite(self._reader.waiting)
        if names and self.step:
            self._reader.forget()
            if self._gradients.left_out():
                self._judge(self.step + 1, Evidence(infinite=names, skipped=True))
                self.react(in_step=False)

    def _foreign_begins(self, optimizer: Optimizer) -> None:
        if not self._guard.down:
            self._guard(self._copies.begins, optimizer)

    def _foreign_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped that holds nothing of ours: has it a copy of the model, and ours waits?"""
        if self._guard.down or (raw := self._reader.waiting) is None:
            return
        names = reached(raw, list(self._reader.params))
        if self._guard(self._copies.accuses, optimizer, names, raw.theta, self._backward.finished):
            self._judge(self.step + 1, Evidence(unheld=tuple(sorted(names)), copied=type(optimizer).__name__))
            self.react(in_step=False)
        self._reader.served()

    def _outer_step(self, optimizer: Optimizer) -> None:
        """What an optimizer that steps by means of another one writes behind its step, its own step has written."""
        inner = self._last() if self._last is not None else None
        if self._guard.down or self._ahead is not None or inner is None or inner is optimizer:
            return
        if self._reader.moved:
            with torch.no_grad():
                left = self._reader.look(inner)
            self._integrity.leave(left)
            self._moved_on = True

    def _judge(self, step: int, evidence: Evidence) -> None:
        for practice, text in noticed(evidence):
            self._journal.once(f"practice {practice}", step, "practice", f"step {step}: {text}", warn=False)
        if (added := self._faults.add(step, diagnose(evidence), evidence)) is None:
            return
        fault, new = added
        if new or fault.times & (fault.times - 1) == 0:  # a fault that goes on is recorded at every doubling
            self._record.append("faults", fault.rows())
        if new:
            self._journal.event(fault.step, "fault", str(fault))
            self._record.flush()
            self._unreported.append(fault)
