"""The gradients of a step: do they leave the loss where its symmetries leave it, and are they those of the backward?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.hooks import ForwardModes, mark, running_scaler
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.checksum import flipped_bit
from neuromech.monitor.evidence import Broken, Edit, Evidence, GradientEdit
from neuromech.monitor.facts import Backward, Step
from neuromech.monitor.gradient_edits import ESTABLISHED, ROUNDINGS, SharedFactor, change, parallel
from neuromech.monitor.missing_gradient import GradientHistory, vanished
from neuromech.monitor.sample import Sample
from neuromech.monitor.torque import TorqueJudge, Torques, broken_families, penalty
from neuromech.optimizers import grad_scale, skips

CLEAR = 4.0  # times what rounding allows: by less, a torque says that it is there, and not why


MUCH = 4  # a loss scale of less is none
SEARCH = 3  # steps in a row that a loss scale may cost: gradients have grown by less than 2^3 since it last fitted


class Displacement(NamedTuple):
    """A step went by -lr * directions."""

    lr: float
    directions: dict[str, Tensor]


class TorqueCheck:
    """The torque of the gradients, as the backward left them, along every symmetry."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        judge: TorqueJudge,
        history: GradientHistory,
        stale: Callable[[], Collection[str]],
        modes: ForwardModes,
    ) -> None:
        """`stale`: the parameters to whose gradient a backward added although a step had used it; `modes`: knows if the
        forward drew random numbers, by which it may have left out a layer, or met inputs of another size."""
        self._modes = modes
        self.meter, self.params = judge.meter, params
        self._judge = judge
        self._history, self._stale = history, stale
        self._last: Displacement | None = None
        self._by_hand = 0.0  # steps in a row whose gradients no backward brought, and that kept to the symmetries
        self.unjudged: set[int] = set()  # families that the loss is known to break, or that torch does

    def piled(self, step: Step) -> bool:
        """True if what an earlier step has used is in the gradients of this one."""
        return not set(self._stale()).isdisjoint(step.moving)

    def before(self, step: Step) -> Evidence:
        if not (self.meter.symmetries and step.fresh) or getattr(step.optimizer, "follows_flow", False):
            return NOTHING
        if rebuilt := self._modes.rebuilt():  # symmetries are known of the model that it was
            self.unjudged.update(range(len(self.meter.symmetries)))
        raw = step.backward
        # What clipping by value or noise does to a gradient is no fault of the backward, nor what weights did since,
        # nor what is done to gradients that no backward has brought.
        here = None if step.changed or step.elsewhere else step.torques
        found = raw.torques if raw and raw.judged else here
        if step.exchanged:  # they are those of a model with other tensors, too
            found = None
        judged = NOTHING if found is None else self._judged(found, step, bool(raw and raw.stepped))
        if raw is None and not self._habitual(judged, step):
            judged = NOTHING
        return judged | Evidence(elsewhere=step.elsewhere, rebuilt=rebuilt)

    def after(self, step: Step) -> Evidence:
        self._last = _displacement(step)
        return NOTHING

    def _habitual(self, judged: Evidence, step: Step) -> bool:
        """Do gradients that were set by hand leave symmetries which they have kept to, step by step?

        What shrinks or caps some of them only now and then is not told from a wrong one: but an old one is, and what
        breaks a symmetry of one parameter by itself.
        """
        kept, self._by_hand = self._by_hand >= 2 * ESTABLISHED, -math.inf if judged.torques else self._by_hand + 1
        if not kept or judged.delayed:
            return kept
        alone = any(b.excess >= CLEAR and len(b.parameters) == 1 for b in judged.torques)
        return alone and not _capped(step)

    def _judged(self, found: Torques, step: Step, stepped: bool) -> Evidence:
        symmetries = self.meter.symmetries
        first = self._judge.fresh
        on_device = self._judge(found, step.eps)
        if self.meter.shared and step.torques is not None:
            # What is sharded has been added up over the processes in the backward; the rest may be added up behind it.
            on_device = torch.minimum(on_device, self._judge.excess(step.torques, step.eps))
        # Of a parameter that is not trained, or not in this step, the symmetry says nothing.
        quiet = vanished(found, step)
        known = self._history.always() if not self._modes.drew else set()
        absent = (quiet - known) | (set(self._stale()) - set(step.moving))
        held = set(step.held)
        broken = {
            i: how
            for i, how in broken_families(on_device.cpu(), self.meter.slices).items()
            # ... and of what another optimizer steps, or nobody, in another step than this one.
            if i not in self.unjudged
            and not absent.intersection(symmetries[i].parameters)
            and held.issuperset(symmetries[i].parameters)
        }
        if self._modes.resized:
            # Which rows of a table are read goes with the size of the input: their symmetries are of the one recorded.
            of_parts = {i for i in broken if any(t.part is not None for t in symmetries[i].terms)}
            self.unjudged |= of_parts
            broken = {i: how for i, how in broken.items() if i not in of_parts}
        # A path that was not recorded: symmetries are known of the one that was.
        if not broken or (self._history.expected_none - quiet):
            return NOTHING
        cut = tuple(sorted(quiet.intersection(n for i in broken for n in symmetries[i].parameters)))
        torques = tuple(
            Broken(i, s.name, s.parameters, s.kind, s.size, n, worst)
            for i, (n, worst) in broken.items()
            for s in (symmetries[i],)
        )
        return Evidence(
            torques=torques,
            families=len(symmetries),
            since_start=first,
            cut=cut,
            penalty=penalty(found, on_device),
            delayed=any(b.kind != "translation" for b in torques) and self._delayed(found, on_device, step.grads),
            between=stepped,
        )

    def _delayed(self, found: Torques, excess: Tensor, grads: Mapping[str, Tensor]) -> bool:
        """True if the torques that are broken vanish at the weights of one step before."""
        last, off = self._last, excess > 1
        if last is None or not all(n in last.directions for n in grads) or float(excess.max()) < CLEAR:
            return False
        before = found.torque + last.lr * self.meter.along(grads, last.directions)
        return bool((before.abs()[off] * excess[off] <= found.torque.abs()[off]).all())


class GradientIntegrity:
    """Are the gradients of a step those of the backward?"""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample, clip_norm: float | None) -> None:
        self._params, self._sample, self._clip_norm = params, sample, clip_norm
        self._names = list(params)
        self._place = {n: i for i, n in enumerate(params)}
        self._previous: Tensor | None = None  # elements of the gradients of the step before
        self._meant: set[str] | None = None  # what was done to the gradients of the first step
        self._first = True
        self._scaled = False
        self._shared = SharedFactor()
        self._scale: int | None = None  # the power of two by which gradients were longer after the backward
        self._skipped = 0  # gradients in a row that no step has taken

    def before(self, step: Step) -> Evidence:
        raw, moving, found = step.backward, step.moving, NOTHING
        assert step.torques is not None
        if raw is not None and step.changed:
            mine = [n for n in raw.names if n in moving]
            elements = self._sample.read(mine, step.grads).cpu()
            old = self._of(raw, mine)
            if edit := self._flip(raw, step, int((old != elements).sum())):
                found = Evidence(edits=(edit,))
            else:
                before, after = self._norms(raw.torques, mine), self._norms(step.torques, mine)
                found = Evidence(gradient_edit=self._edit(mine, old, elements, before, after))
        if found.gradient_edit is None and (edit_of_scale := self._rescaled(step, moving)):
            found = found | Evidence(gradient_edit=edit_of_scale)
        self._previous = raw.elements.cpu() if raw else None
        norm = self._norm(step.torques, moving)
        if self._clip_norm is not None and norm > self._clip_norm * (1 + ROUNDINGS * step.eps):
            found = Evidence(gradient_edit=GradientEdit("norm", tuple(moving), norm, self._clip_norm)) | found
        self._first, self._skipped = False, self._skipped if step.skipped else 0
        return found

    def after(self, step: Step) -> Evidence:
        return NOTHING

    def _rescaled(self, step: Step, moving: Sequence[str]) -> GradientEdit | None:
        """A loss scale taken off twice, or behind the clipping: both are powers of two."""
        raw = step.backward
        assert step.torques is not None
        if raw is None:
            return None
        before, after = (self._norm(t, moving) for t in (raw.torques, step.torques))
        inside = grad_scale(step.optimizer)
        after /= 1.0 if inside is None else float(inside)  # a fused step takes the scale off by itself
        if self._clip_norm is not None and step.changed and 0 < after < self._clip_norm:
            late = _power_of_two(self._clip_norm / after, step.eps)
            if late is not None and late > 0:
                return GradientEdit("unscaled late", tuple(moving), after, self._clip_norm)
        scale = _power_of_two(before / after, step.eps) if after > 0 and before > 0 else None
        last, self._scale = self._scale, scale if scale is not None else self._scale
        if scale is None or scale < 2 * MUCH:
            return None
        told = _told_scale()  # by the scaler that steps here; else what was taken off before
        if scale == 2 * told if told is not None else (last or 0) >= MUCH and abs(scale - 2 * (last or 0)) <= 1:
            return GradientEdit("unscaled twice", tuple(moving), after, before)
        return None

    def infinite(self, raw: Backward | None) -> tuple[str, ...]:
        """The parameters whose gradient was not finite when it came from the backward."""
        if raw is None:
            return ()
        odd = [n for n, x in zip(self._names, raw.torques.squares, strict=True) if not x < float("inf")]
        return tuple(n for n in odd if n in raw.names and not _overflowed(self._of(raw, [n])))

    def infinite_at(self, raw: Backward | None, optimizer: Optimizer) -> tuple[str, ...]:
        """The same ahead of a step; none if a fused optimizer will not take it, as its `GradScaler` searches."""
        self._scaled = self._scaled or _told_scale() is not None
        names = self.infinite(raw)
        return names if names and (not skips(optimizer) or self.left_out()) else ()

    def left_out(self) -> bool:
        """No step took the last gradients, which were not finite. False if a `GradScaler` may search for its scale.

        It multiplies the loss by a power of two, which is seen when it is taken back; now and then it tries the next
        one, and gives it up at once, or the one before, where gradients have grown meanwhile.
        """
        self._skipped += 1
        return not (self._scaled and self._skipped <= SEARCH)

    def _norms(self, torques: Torques, names: Sequence[str]) -> Tensor:
        return torch.tensor([torques.squares[self._place[n]] for n in names], dtype=torch.float64)

    def _norm(self, torques: Torques, names: Sequence[str]) -> float:
        return math.sqrt(sum(torques.squares[self._place[n]] for n in names))

    def _of(self, raw: Backward, names: Sequence[str]) -> Tensor:
        parts = raw.elements.cpu().split(self._sample.counts(raw.names))
        by_name = dict(zip(raw.names, parts, strict=True))
        return torch.cat([by_name[n] for n in names])

    def _flip(self, raw: Backward, step: Step, seen: int) -> Edit | None:
        """One bit of one gradient, if that explains the change; `seen`: how many sampled elements have changed."""
        (name, (before, now)), *others = step.changed.items()
        g = step.grads[name]
        bit = flipped_bit(before, now, g.element_size())
        if others or seen > 1 or bit is None:
            return None
        return Edit(name, "gradient", bit, by_code=mark(g) != raw.marks[name])

    def _edit(
        self, names: Sequence[str], old: Tensor, elements: Tensor, before: Tensor, after: Tensor
    ) -> GradientEdit | None:
        if not bool(torch.isfinite(before).all() and torch.isfinite(after).all()):
            return None
        eps = max(torch.finfo(self._params[n].dtype).eps for n in names)
        by_power = _unscaled(float(before.sum()), float(after.sum()), ROUNDINGS * eps)
        self._scaled = by_power or _told_scale() is not None
        how, which = change(names, self._sample.counts(names), old, elements, before, after, eps)
        if how == "common" and (spared := self._shared.spares(names, before, after, ROUNDINGS * eps)):
            return GradientEdit("apart", spared)
        if self._meant is None:
            self._meant = {how} if self._first else set()
        if how not in ("added", "factors") or how in self._meant:
            return None
        previous = self._previous
        stale = previous is not None and len(previous) == len(elements) and parallel(previous, elements, eps)
        return GradientEdit("before" if stale else how, which)


def _capped(step: Step) -> bool:
    """Is the largest element of the gradients there more than once, as clipping by value leaves it?"""
    elements = torch.cat([g.abs() for g in step.gradient.values()])
    return int((elements == elements.max()).sum()) > 1


def _displacement(step: Step) -> Displacement | None:
    """Heavy ball moves along its buffers, which it keeps; of other steps nothing is kept."""
    groups = [group.settings for group in step.groups]
    plainly = isinstance(step.optimizer, torch.optim.SGD) and all(g["momentum"] and not g["nesterov"] for g in groups)
    if not plainly or len({float(g["lr"]) for g in groups}) != 1:
        return None
    buffers = {name: t for (name, key), t in step.state.tensors.items() if key == "momentum_buffer"}
    return Displacement(float(groups[0]["lr"]), buffers)


def _told_scale() -> int | None:
    """The power of two that the `GradScaler` whose step is running multiplies the loss by."""
    scaler = running_scaler()
    return _power_of_two(scaler.get_scale(), 0.0) if scaler is not None and scaler.is_enabled() else None


def _power_of_two(ratio: float, eps: float) -> int | None:
    """k if `ratio` is 2^k up to rounding."""
    if not 0 < ratio < float("inf"):
        return None
    k = round(math.log2(ratio))
    return k if abs(ratio / 2.0**k - 1) <= ROUNDINGS * eps else None


def _overflowed(elements: Tensor) -> bool:
    """True if a gradient is so large that its square is infinite in single precision, while it is not itself."""
    single = torch.finfo(torch.float32)
    return bool(torch.isfinite(elements).all()) and float(elements.abs().max()) > single.max**0.5 * single.eps


def _unscaled(before: float, after: float, slack: float) -> bool:
    """True if squared norms went down by a power of two, as where `GradScaler` takes its scale back."""
    ratio = before / after if after else 1.0
    return ratio > 1 and abs(math.log2(ratio) - round(math.log2(ratio))) < slack
