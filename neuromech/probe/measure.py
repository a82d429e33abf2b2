"""Measuring: what happens at every optimizer step, once the symmetries are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from neuromech.compat import keeps_parameter
from neuromech.detect import Findings
from neuromech.dynamics import (
    FIELDS,
    JoinedLaws,
    Laws,
    Looks,
    Motion,
    Newest,
    Reading,
    ReadingWriter,
    Rows,
    Totals,
    buffers,
    read,
    scalars_of,
)
from neuromech.hooks import GroupSettings, Known, KnownOptimizers, Mark, Ranks, marks, rank
from neuromech.optimizers import hyperparameters_of, known_rule
from neuromech.params import named_parameters, owners
from neuromech.probe import describe
from neuromech.probe.arguments import Asked
from neuromech.record import Journal, Record, some
from neuromech.report import evidence_of
from neuromech.rounding import coarsest, eps_of
from neuromech.symmetry import Symmetry, SymmetrySet


class Measurement:
    """Charges observed and predicted, step by step. `before` and `after` enclose one step of one optimizer."""

    def __init__(
        self,
        model: nn.Module,
        found: Findings,
        record: Record,
        journal: Journal,
        asked: Asked,
        have_laws: Sequence[Sequence[Symmetry]],
        members: Sequence[range],
        ranks: Ranks | None = None,
    ) -> None:
        """`have_laws`: families, search by search. `members`: those of each that are measured. `ranks`: the processes
        over which the parameters are sharded; each measures its part."""
        self.step, self.time = 0, 0.0
        self._model, self._record, self._journal, self._every, self._ranks = model, record, journal, asked.every, ranks
        self.params = named_parameters(model)
        self._names: dict[Tensor, str] = {p: name for name, p in self.params.items()}
        self._owners = owners(model, self.params)
        # States of an earlier version have no matrix families, which come last.
        self.symmetries = SymmetrySet([s for some in have_laws for s in some][: len(members)])
        self._observed: Tensor | None = None
        self._coverage, self._members = float(asked.coverage), asked.members
        self._told: dict[str, int] = {}
        eps = self._describe(found, members)
        self._laws = JoinedLaws(self.symmetries, self.params, eps, ranks is None, members, [*map(len, have_laws)])
        rows = self._rows = Rows(self._laws.slices, asked.members, self._laws.device, members)
        self._writer, self._totals = ReadingWriter(record, rows, journal), Totals(rows, eps)
        self._unprotected = torch.zeros(len(self.symmetries), dtype=torch.long, device=self._laws.device)
        self._looks = Looks(self.symmetries, self._laws.slices)
        self.beside(self._bring_looks)
        self.flush_if_due = self._writer.flush_if_due
        self._known = KnownOptimizers(record, journal, self._names)
        self._newest: dict[int, tuple[Newest, GroupSettings]] = {}  # of each optimizer, the newest last
        self._weights: dict[str, Mark] | None = None  # as the last step left them; None: not known
        if not len(found):
            journal.once("none found", 0, "none found", "no symmetry was found, so there is nothing to predict")

    def begin(self) -> None:
        """Read the initial charges: the row of step 0."""
        reading = self._laws.initial(self.params)
        self._totals.start(reading.observed)
        self._keep(0, 0.0, reading)
        self._weights = marks(self.params)

    def before(self, optimizer: Optimizer, edited: bool | None = None, changed: bool = False) -> None:
        """The gradients of a step are ready: measure what drives the charges.

        `edited`: whether weights or state were changed since the last step; None: nobody has looked closer than this.
        `changed`: whether gradients are others than those of the backward, or were taken at other weights.
        """
        known = self._known.meet(optimizer, self.step + 1)
        motions = read(optimizer, self._names)
        self._notice(known, frozenset(motions))
        if edited is None:
            self._check_untouched(known, motions)
        elif edited:
            self.start_over()
        gradients = {name: g for name in motions if (g := self.params[name].grad) is not None}
        self._laws.before(self.params, gradients, motions, changed)
        if self._ranks is None:
            self._looks.measure(self.step + 1, self.params, lambda: self._laws.squares(gradients))

    @property
    def iteration(self) -> int:
        """What the user calls a step: one of every optimizer."""
        return self._known.iteration

    @property
    def laws(self) -> Laws:
        """Of the families that were found at the start."""
        return self._laws.groups[0]

    def charges(self) -> Tensor:
        """Those of `laws` at the weights as the last step left them, or as they are: [rows]."""
        observed = self._laws.observe(self.params)[0] if self._observed is None else self._observed
        return observed[: sum(map(len, self.laws.members))]

    def beside(self, flush: Callable[[], None]) -> None:
        """Call `flush` whenever what was measured is brought to the record."""
        self._writer.beside.append(flush)

    def _bring_looks(self) -> None:
        for table, columns in self._looks.take().items():
            self._record.append(table, columns)

    def extend(self, found: Findings, new: Sequence[Symmetry], members: Sequence[range]) -> None:
        """Measure the families `new` too, from here on; `found` has all, those that are measured already first."""
        self._writer.flush()
        self.symmetries = SymmetrySet([*self.symmetries, *new])
        every = [*self._laws.members, *members]
        eps = self._describe(found, every)
        charges = self._laws.add(new, self.params, eps[-len(new) :], members)
        rows = self._rows = self._writer.rows = Rows(self._laws.slices, self._members, self._laws.device, every)
        self._totals = self._totals.extended(rows, eps, charges)
        self._observed = None if self._observed is None else torch.cat((self._observed, charges))
        self._unprotected = torch.cat((self._unprotected, self._unprotected.new_zeros(len(new))))
        self._looks = Looks(self.symmetries, self._laws.slices)
        self._newest.clear()  # readings of fewer rows

    def _describe(self, found: Findings, members: Sequence[range]) -> list[float]:
        """Tell the records what is measured; returns the eps of each family."""
        looked = self._ranks is None and not all(s.is_linear for s in self.symmetries)  # at what gradients do
        said = describe.of_findings(found, self.params, self.symmetries, members)
        self._record.update_meta(said | ({"torques": self._told} if looked else {}))
        meta = self._record.meta
        formats = [f"{s['dtype']}, {meta.get('autocast') or ''}" for s in meta["symmetries"]]
        return [*map(eps_of, formats)][: len(self.symmetries)]

    def start_over(self) -> None:
        """Predictions start over from the weights as they are: something has changed them, and has been told."""
        change = self._change(set(self.params))
        self._laws.restart(self.params)
        if change is not None:
            self._totals.outside(change)
        self._weights = marks(self.params)
        self._known.forget_buffers()

    def after(self, optimizer: Optimizer) -> Reading:
        """The step is done: observe the charges, and advance every prediction. Returns the reading of `laws`."""
        (reading, first), known = self._laws.after(self.params), self._known[optimizer]
        lr = float(optimizer.param_groups[0].get("lr", 0.0))
        self.step += 1
        self._known.stepped(known)
        self.time += lr
        self._totals.add(reading)
        broken = self._rows.sums(reading.broken) > 0
        self._unprotected = torch.where(broken & (self._unprotected == 0), self.step, self._unprotected)
        whole = self._keep(known.index, lr, reading)
        if whole is not None:
            self._newest.pop(known.index, None)
            self._newest[known.index] = Newest.of(whole), known.settings
        self._weights = marks(self.params)
        known.buffers |= marks(buffers(optimizer, self._names))
        return first

    def scalars(self) -> dict[str, float]:
        """What a logger should draw of the newest step; of sharded parameters, the newest recorded one, no angles."""
        held = {
            name: hyperparameters_of(known_rule(str(self._known.described[i].get("rule"))), told)
            for i, (_, settings) in self._newest.items()
            for group, told in zip(self._known.described[i]["groups"], settings, strict=False)
            for name in group["names"]
        }
        steered = [next((held[n] for n in s.parameters if n in held), None) for s in self.symmetries]
        evidence = [evidence_of(self._known.described, s.parameters, bool(s.broken_by)) for s in self.symmetries]
        return scalars_of(self.symmetries, evidence, steered, self._rows, [r for r, _ in self._newest.values()])

    def flush(self) -> None:
        """Bring everything measured to the record."""
        new = {n: p for n, p in named_parameters(self._model).items() if n not in self.params}
        known = {p: n for n, p in self.params.items()} if new else {}
        called = [f"{known[p]} is called {n}" for n, p in sorted(new.items()) if p in known]
        added = [n for n, p in sorted(new.items()) if p not in known]
        came = f"{some(added)} came into the model by step {self.step}: they are not measured" if added else ""
        renamed = f"{some(called)} by step {self.step}: they are measured as before" if called else ""
        if told := "; ".join(filter(None, (came, renamed))):
            text = f"{told}, and symmetries of the model as it was may no longer hold"
            self._journal.once(f"added {sorted(new)}", self.step, "added", text)
        self._tell_unprotected()
        self._writer.flush()

    def _tell_unprotected(self) -> None:
        """The families whose symmetry the gradients of a step have broken go to the records, with the first step."""
        steps = self._unprotected.tolist() if self._ranks is None else []  # a part of the torque says nothing
        first = {self.symmetries[i].name: k for i, k in enumerate(steps) if k}
        if new := first.keys() - self._told.keys():
            begun = min(first[name] for name in new)
            self._told = first
            self._record.update_meta({"torques": first})
            message = (
                f"from step {begun} on, the gradients that are stepped break {some(sorted(new))}: they were changed "
                "after the backward (clipped one by one or by value, noise, projections), taken at other weights, or "
                "the loss does not keep the symmetry. Their torque is measured: the law (`exact`) follows it, the flow "
                "does not, and `ideal` is the law without it"
            )
            self._journal.event(begun, "torque", message)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; of sharded parameters, the sums over all processes."""
        self.flush()
        laws, tally = self._laws.state_dict(), self._totals.state_dict()
        observed = {} if self._observed is None else {"observed": self._observed}
        if self._ranks is not None:
            laws["state"] = self._ranks.total(laws["state"])
            tally = {key: self._ranks.total(x) for key, x in tally.items()}
            observed = {}
        state = {"step": self.step, "iteration": self._known.iteration, "time": self.time, "laws": laws}
        state |= {"coverage": self._coverage, "covered": [[m.start, m.stop] for m in self._laws.members]}
        return state | observed | {"tally": tally, "unprotected": self._unprotected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        laws, tally = state["laws"], state["tally"]
        if self._ranks is not None and rank():  # sums begin where they are, on the first process
            laws = laws | {"state": 0 * laws["state"]}
            tally = {key: 0 * x for key, x in tally.items()}
        self._laws.load_state_dict(laws)
        self._totals.load_state_dict(tally, self._laws.device)
        self._unprotected = state.get("unprotected", self._unprotected).to(self._laws.device)
        self.step, self.time = int(state["step"]), float(state["time"])
        self._known.iteration = int(state.get("iteration", self.step))
        if self._ranks is not None:
            self._observed = self._laws.observe(self.params)[0]
        elif "observed" in state:
            self._observed = state["observed"].to(self._laws.device)

    def _keep(self, optimizer: int, lr: float, reading: Reading) -> Reading | None:
        """Hand a reading to the records; returns that of the whole model, None if it is not known."""
        self._observed = reading.observed
        kept = self.step % self._every == 0
        whole = reading if self._ranks is None else self._of_all(reading, self._ranks) if kept else None
        fields = torch.stack([getattr(whole, name) for name in FIELDS]) if kept else None
        with_terms = kept and self._ranks is None
        terms = self._totals.read(reading.observed, reading.scale, self.step) if with_terms else None
        self._writer.add(self.step, optimizer, lr, self.time, fields, terms, iteration=self.iteration)
        return whole

    @staticmethod
    def _of_all(reading: Reading, ranks: Ranks) -> Reading:
        """A reading of sharded parameters, added up over all processes: laws are linear in what they are made of."""
        fields = [getattr(reading, name) for name in FIELDS]
        total = ranks.total(torch.cat((torch.stack(fields), reading.gains)))
        own = dict(zip(FIELDS, total, strict=False))
        unknown = torch.full_like(reading.turn, torch.nan)
        return reading._replace(**own, gains=total[len(FIELDS) :], turn=unknown, leak=unknown)

    def _notice(self, known: Known, moving: frozenset[str]) -> None:
        """Say which parameters stop or start moving, and which were exchanged for others."""
        before = moving if known.moving is None else known.moving
        known.moving = moving
        for names, what in (
            (before - moving, "stand still: no gradient, or a step that is skipped"),
            (moving - before, "move"),
        ):
            if names:
                message = f"from step {self.step + 1} on {some(sorted(names))} {what}"
                self._journal.event(self.step + 1, "moving", message)
        for name, (owner, attribute) in self._owners.items():
            if not keeps_parameter(owner, attribute, self.params[name]):
                self._journal.once(
                    f"replaced {name}",
                    self.step + 1,
                    "replaced",
                    f"{name} was replaced by another tensor before step {self.step + 1}: what is observed from then on "
                    "is the tensor that it was, no longer the model",
                )

    def _check_untouched(self, known: Known, motions: Mapping[str, Motion]) -> None:
        """Start over if anything but a step has moved weights or momentum since the last one: no law speaks of that."""
        held = marks({name: b for name, m in motions.items() if (b := m.buffer) is not None})
        other = {f"momentum of {name}" for name, mark in held.items() if known.buffers.get(name, mark) != mark}
        now = marks(self.params)
        change: Tensor | None = None
        if self._weights is None or self._weights != now:
            touched = {name for name, mark in now.items() if self._weights is None or self._weights[name] != mark}
            change = self._change(touched)
            other |= touched if change is not None else set()
        if not other:
            return
        self._laws.restart(self.params)
        if change is not None:
            self._totals.outside(change)
        known.buffers = held
        message = (
            f"before step {self.step + 1}, {some(sorted(other))} changed otherwise than by an optimizer step "
            "(load_state_dict, clipping, averaging, ...): no law covers that, so the predictions start over from the "
            "values found there"
        )
        self._journal.event(self.step + 1, "changed", message)
        self._journal.warn_once("changed", message)

    def _change(self, touched: set[str]) -> Tensor | None:
        """By how much charges differ from those after the last step; None: by no more than rounding."""
        if self._observed is None:
            return None
        observed, scale = self._laws.observe(self.params)
        change = observed - self._observed
        eps = coarsest(self.params[name].dtype for name in touched)
        return change if bool((change.abs() > 8 * eps * scale).any()) else None
