"""Are weights and optimizer state, bit for bit, what the last step left? The one owner of that question."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.hooks import Mark, mark
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.checksum import flipped_bit
from neuromech.monitor.evidence import Edit, Evidence
from neuromech.monitor.facts import Entry, Left, OptimizerState, Step, clocks_off
from neuromech.monitor.own_writes import OwnWrites
from neuromech.monitor.replay import OPERATIONS, Difference, differences
from neuromech.monitor.sample import Sample, differing

ROUNDINGS = 4.0  # of a perturbation that is added and taken back


@dataclass
class _LeftState:
    """What a step left of the state of an optimizer."""

    sums: dict[Entry, int] = field(default_factory=dict)
    marks: dict[Entry, Mark] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    samples: dict[str, tuple[list[str], Tensor]] = field(default_factory=dict)  # entry -> parameters, their elements
    by: type[Optimizer] = Optimizer


@dataclass
class _LeftWeights:
    """What the last step left of the weights; `vectors`: what an edit may be a multiple of, by parameter."""

    sums: dict[str, int]
    marks: dict[str, Mark]
    theta: dict[str, Tensor]
    sampled: Tensor
    vectors: dict[str, dict[str, Tensor]]
    dtypes: dict[str, torch.dtype]


class StateIntegrity:
    """Keeps checksums of everything that only a step may write to, and samples that tell what happened to it."""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample, own: OwnWrites) -> None:
        self._params, self._sample, self._own = params, sample, own
        self._counts = sample.counts(list(params))
        self._weights: _LeftWeights | None = None
        self._states: WeakKeyDictionary[Optimizer, _LeftState] = WeakKeyDictionary()
        self._by: dict[str, _LeftState] = {}  # parameter -> what its last step left, whoever stepped it
        self._restored: dict[str, Any] | None = None
        self._reached: set[str] = set()  # parameters that have had a gradient at a step
        self._writes = False  # weights are perturbed and put back in this run
        self._past = array("q")  # digests of weights and state, as the steps left them

    @property
    def knows(self) -> bool:
        """True if there is something to compare the weights with."""
        return self._weights is not None or self._restored is not None

    def before(self, step: Step) -> Evidence:
        """Compare the weights and the state of the optimizer with what was left."""
        if self._restored is not None:
            return self._compare_restored(step)
        if self._weights is None:
            self._past.append(_digest(step))  # a search for a learning rate comes back to where it began
            return NOTHING
        edited, left = self._edited_weights(self._weights, step), self._states.get(step.optimizer)
        if self._returns(edited, left, step):
            return Evidence(returned=True)
        followed = tuple(edit.name for edit, _ in edited if self._is_set_by_code(edit))
        by_forward = self._own.explain(self._weights.sums, step.weight_sums)
        own = tuple(edit.name for edit, _ in edited if edit.name in by_forward and edit.name not in followed)
        explained = {*followed, *own}
        edits, rounded = self._without_rounding([(e, tiny) for e, tiny in edited if e.name not in explained])
        seen = Evidence(rounded=rounded, followed=followed, own_writes=own)
        if left is None:
            had = {name for name in step.held if name in self._by and (self._by[name].sums or self._by[name].clocks)}
            has = {name for name, _ in step.state.tensors} | step.state.clocks.keys()
            others = {type(o).__name__: o for o, other in self._states.items() if other.sums or other.clocks}
            kept, lost = next(iter(others), ""), tuple(sorted(had - has))
            # The last one may be gone by now, and its state with it.
            last = {self._by[name].by for name in lost} | {type(o) for o in others.values()}
            if lost and type(step.optimizer) not in last:
                before = kept or next(iter(last)).__name__
                return seen | Evidence(edits=edits, handover=(before, type(step.optimizer).__name__))
            edits += self._exchanged(step)
            return seen | Evidence(edits=edits, lost=lost, kept=kept)
        now = step.state_sums
        lost = tuple(sorted({name for name, _ in left.sums.keys() - now.keys()}))
        edits += tuple(
            self._edited_entry(entry, left, now[entry], step.state.tensors[entry])
            for entry, old in left.sums.items()
            if entry in now and (now[entry] != old or self._has_turned(entry, left, step.state.tensors[entry]))
        )
        clock = clocks_off(left.clocks, step.state.clocks)
        return seen | Evidence(edits=edits, lost=lost, clock=clock)

    def after(self, step: Step) -> Evidence:
        """Keep what the step left."""
        assert step.ahead is not None
        before = step.ahead
        moved = dict(zip(step.theta, (step.sampled - before.sampled).split(self._counts), strict=True))
        vectors = {n: {"step": moved[n], "gradient": g} for n, g in before.gradient.items()}
        self._reached.update(before.gradient)
        here = Left(
            step.optimizer, step.weight_sums, step.weight_marks, step.theta, step.sampled, step.state_sums, step.state
        )
        self.leave(here, vectors)
        self._past.append(_digest(step))
        self._restored = None
        return NOTHING

    def leave(self, here: Left, vectors: Mapping[str, dict[str, Tensor]] | None = None) -> None:
        """Keep what is to be found again; `vectors`: what an edit of a parameter may be a multiple of."""
        self._weights = _LeftWeights(
            here.weight_sums,
            here.weight_marks,
            here.theta,
            here.sampled,
            dict(vectors or {}),
            {name: p.dtype for name, p in self._params.items()},
        )
        state = here.state
        left = _LeftState(
            here.state_sums,
            {entry: mark(t) for entry, t in state.tensors.items()},
            state.clocks,
            {key: (list(of), self._sample.read(list(of), of)) for key, of in self._alike(state).items()},
            type(here.optimizer),
        )
        self._states[here.optimizer] = left
        self._by |= dict.fromkeys({name for name, _ in left.sums} | left.clocks.keys(), left)

    def state_dict(self) -> dict[str, Any]:
        states = [left for left in self._states.values() if left.sums or left.clocks]
        return {
            "weights": dict(self._weights.sums) if self._weights else {},
            "state": {f"{name} {key}": s for left in states for (name, key), s in left.sums.items()},
            "clocks": {name: t for left in states for name, t in left.clocks.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next check compares with a saved state."""
        self._restored = state

    def _compare_restored(self, step: Step) -> Evidence:
        assert self._restored is not None
        saved, self._restored = self._restored, None
        sums = step.weight_sums
        weights = [Edit(n, "weight") for n, s in saved["weights"].items() if n in sums and sums[n] != s]
        now = {f"{name} {key}": s for (name, key), s in step.state_sums.items()}
        entries = {f"{name} {key}": (name, key) for name, key in step.state_sums}
        lost = {key.split(" ")[0] for key in saved["state"].keys() - now.keys()}
        state = [Edit(*entries[k]) for k, s in saved["state"].items() if k in now and now[k] != s]
        lost |= saved["clocks"].keys() - step.state.clocks.keys()
        clock = clocks_off(saved["clocks"], step.state.clocks)
        return Evidence(edits=(*weights, *state), lost=tuple(sorted(lost)), clock=clock, restored=True)

    def _alike(self, found: OptimizerState) -> dict[str, dict[str, Tensor]]:
        """Entries of the shape of their parameters: entry -> parameter -> tensor."""
        out: dict[str, dict[str, Tensor]] = {}
        for (name, key), t in found.tensors.items():
            if self._like(name, t):
                out.setdefault(key, {})[name] = t
        return out

    def _like(self, name: str, t: Tensor) -> bool:
        return t.shape == self._params[name].shape and t.is_floating_point()

    def _exchanged(self, step: Step) -> tuple[Edit, ...]:
        """State that an optimizer begins with, and that is not what the last one left: loaded in another order, say."""
        pairs = [(entry, self._by.get(entry[0]), s) for entry, s in step.state_sums.items()]
        return tuple(
            Edit(*entry, by_code=True)
            for entry, left, now in pairs
            if left is not None and entry in left.sums and left.sums[entry] != now
        )

    def _without_rounding(self, edits: Sequence[tuple[Edit, bool]]) -> tuple[tuple[Edit, ...], tuple[str, ...]]:
        """Those that are edits, and the weights of the others: written to and put back up to rounding, as p + e - e.

        A change in the last places is rounding where code wrote to the tensor. Writes by way of `.data` are not
        counted: then it is, if several tensors changed so at once, or have before.
        """
        tiny = [edit for edit, is_rounding in edits if is_rounding]
        self._writes |= len(tiny) > 1 or any(edit.by_code for edit in tiny)
        rounded = tuple(edit.name for edit in tiny) if self._writes else ()
        return tuple(edit for edit, _ in edits if edit.name not in rounded), rounded

    def _edited_weights(self, left: _LeftWeights, step: Step) -> list[tuple[Edit, bool]]:
        """With each edit whether rounding explains it."""
        out: list[tuple[Edit, bool]] = []
        # An even number of signs that turn round leaves a checksum as it was.
        turned = set(differing(list(step.theta), self._counts, left.sampled, step.sampled))
        for name, before in left.sums.items():
            if (now := step.weight_sums[name]) != before or name in turned:
                p, old = self._params[name], left.theta[name]
                new = step.theta[name].to(old.device)
                if p.dtype != left.dtypes[name] and torch.equal(old.to(p.dtype).double(), new):
                    continue  # it was moved to another format, as it was
                alone = int((old != new).sum()) <= 1
                bit = flipped_bit(before, now, p.element_size()) if alone else None
                vectors = {**left.vectors.get(name, {}), "weights": old}
                how = _how(name, "weight", old, new, vectors, p.dtype)
                by_code = left.marks[name] != step.weight_marks[name]
                typical = step.sampled.square().mean().sqrt()
                allowed = ROUNDINGS * torch.finfo(p.dtype).eps * torch.maximum(old.abs(), typical.to(old.device))
                seen = bool((old != new).any())
                tiny = bool(((new - old).abs() <= allowed).all()) and (seen or _small(before, now, p))
                out.append((Edit(name, "weight", bit, by_code, how), tiny))
        return out

    def _is_set_by_code(self, edit: Edit) -> bool:
        """What no gradient moves, as a target network, is there to be set: but not by the memory, one bit at a time."""
        moved = edit.name in self._reached and self._params[edit.name].requires_grad
        return not moved and (edit.bit is None or edit.by_code is True)

    def _returns(self, edited: Sequence[tuple[Edit, bool]], left: _LeftState | None, step: Step) -> bool:
        """True if something has changed, and all of it is what an earlier step left, or the first found: a rollback."""
        changed = edited or (left and (left.sums != step.state_sums or left.clocks != step.state.clocks))
        return bool(changed) and _digest(step) in self._past[:-1]

    def _has_turned(self, entry: Entry, left: _LeftState, t: Tensor) -> bool:
        """True if code wrote to an entry and turned an even number of signs, some of them in the sample."""
        name, key = entry
        if left.marks[entry] == mark(t):
            return False
        names, elements = left.samples.get(key, ([], torch.zeros(0)))
        if name not in names or not self._like(name, t):
            return False
        old = elements.split(self._sample.counts(names))[names.index(name)]
        return bool(differing([name], [len(old)], old, self._sample.read([name], {name: t})))

    def _edited_entry(self, entry: Entry, left: _LeftState, now: int, t: Tensor) -> Edit:
        name, key = entry
        how, alone = None, True
        names, elements = left.samples.get(key, ([], torch.zeros(0)))
        if name in names and self._like(name, t):
            old = elements.split(self._sample.counts(names))[names.index(name)]
            new = self._sample.read([name], {name: t})
            how = _how(name, key, old, new, {"momentum": old}, t.dtype)
            alone = int((old != new).sum()) <= 1
        bit = flipped_bit(left.sums[entry], now, t.element_size()) if alone else None
        return Edit(name, key, bit, left.marks[entry] != mark(t), how)


def _digest(step: Step) -> int:
    """Of all weights, and of the state of the optimizer."""
    state = step.state
    return hash((*step.weight_sums.values(), *step.state_sums.values(), *state.clocks.values()))


def _small(before: int, now: int, p: Tensor) -> bool:
    """True if a checksum changed by no more than the last places of some elements: none of the sampled ones did."""
    modulus = 1 << (64 if p.element_size() == 8 else 32)
    change = (now - before) % modulus
    return min(change, modulus - change) <= 16 * p.numel()


def _how(
    name: str, what: str, old: Tensor, new: Tensor, vectors: Mapping[str, Tensor], dtype: torch.dtype
) -> Difference | None:
    eps = torch.finfo(dtype).eps
    slack = OPERATIONS * eps * old.abs()
    if int((new != old).sum()) == 1:
        vectors = {}  # one number is a multiple of any other
    found = differences(what, [name], [len(old)], new - old, slack, vectors, eps)
    return found[0]._replace(share=float((new != old).double().mean())) if found else None
