"""The gradients of a step: measured at the end of the backward, and compared with what the optimizer is handed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics import Values
from neuromech.hooks import Mark, mark
from neuromech.monitor.checksum import checksums, flipped_bit
from neuromech.monitor.evidence import Broken, Edit, Torn
from neuromech.monitor.gradient_edits import ROUNDINGS, change, parallel
from neuromech.monitor.sample import Sample
from neuromech.monitor.torque import TorqueJudge, TorqueMeter, Torques, broken_families, penalty
from neuromech.symmetry import Symmetry


class Raw(NamedTuple):
    """The gradients as a backward left them."""

    names: tuple[str, ...]
    marks: dict[str, Mark]
    sums: Tensor
    elements: Tensor
    torques: Torques
    judged: bool  # the symmetries were known
    stepped: bool  # a step was taken between the forward and this backward


class Motion(NamedTuple):
    """The last step went by -lr * directions."""

    lr: float
    directions: dict[str, Tensor]


class Past(NamedTuple):
    """What happened before: the last step, if it is known; `steady` parameters, which had a gradient at every step;
    `stale` ones, whose gradient an earlier step of another optimizer has left, and this backward added to."""

    last: Motion | None
    steady: Collection[str]
    stale: Collection[str]


@dataclass(frozen=True)
class Finding:
    """Fields as in `Evidence`, and what other checks need to know of the gradients."""

    fields: dict[str, Any]
    torques: Torques | None
    silent: frozenset[str]  # parameters whose gradient is zero


class GradientCheck:
    """Torque and integrity of the gradients of `params`."""

    def __init__(self, params: Values, sample: Sample) -> None:
        self._params, self._sample = params, sample
        self._names = list(params)
        self._symmetries: tuple[Symmetry, ...] | None = None
        self._know(())
        self._raw: Raw | None = None
        self._used: dict[str, Mark] = {}
        self._fresh = True  # no step has used the gradients yet
        self._previous: Tensor | None = None  # elements of the gradients of the step before
        self._meant: set[str] | None = None  # what was done to the gradients of the first step
        self._steps = 0
        self._scaled = False
        self._skipped = 0  # gradients in a row that no step has taken

    @property
    def meter(self) -> TorqueMeter:
        return self._meter

    def arm(self, symmetries: Sequence[Symmetry]) -> None:
        """The symmetries are known."""
        if self._symmetries is None:
            self._symmetries = tuple(symmetries)
            self._know(self._symmetries)

    def finished(self, stepped: bool) -> None:
        """A backward has ended."""
        grads = self._gradients()
        names = tuple(grads)
        self._fresh = True
        self._raw = Raw(
            names,
            {name: mark(g) for name, g in grads.items()},
            checksums(list(grads.values())),
            self._sample.read(names, grads),
            self._meter(self._params, grads),
            self._symmetries is not None,
            stepped,
        )

    def forget(self) -> None:
        """No step will take the gradients that were seen last."""
        self._raw = None
        self._skipped += 1

    def search_is_over(self) -> bool:
        """False if the gradients that were just forgotten may be those of a `GradScaler` that searches for its scale.

        It multiplies the loss by a power of two, which is seen when it is taken back; one step in two thousand it
        tries the next one, and gives it up at once.
        """
        return not (self._scaled and self._skipped == 1)

    def infinite(self) -> tuple[str, ...]:
        """The parameters whose gradient was not finite when it came from the backward."""
        if self._raw is None or not self._fresh:
            return ()
        norms = self._raw.torques.gradients.tolist()
        odd = [n for n, x in zip(self._names, norms, strict=True) if not x < float("inf")]
        return tuple(n for n in odd if n in self._raw.names and not _overflowed(self._of(self._raw, [n])))

    def check(self, moving: Sequence[str], eps: float, clip_norm: float | None, past: Past) -> Finding:
        """Ahead of a step of the parameters `moving`."""
        grads, raw = self._gradients(), self._raw
        fields: dict[str, Any] = {}
        mine = [n for n in raw.names if n in grads and n in moving] if raw else []
        changed = self._changed(raw, mine, grads) if raw else {}
        now = self._known(raw, bool(changed)) or self._meter(self._params, grads)
        if raw is not None and changed:
            elements = self._sample.read(mine, grads).cpu()
            old = self._of(raw, mine)
            if edit := self._flip(raw, grads, changed, int((old != elements).sum())):
                fields["edits"] = (edit,)
            elif torn := self._torn(mine, old, elements, self._norms(raw.torques, mine), self._norms(now, mine)):
                fields["torn"] = torn
        self._previous = raw.elements.cpu() if raw else None
        norm = float(self._norms(now, moving).sum()) ** 0.5
        if clip_norm is not None and norm > clip_norm * (1 + ROUNDINGS * eps):
            fields["torn"] = Torn("norm", tuple(moving), norm, clip_norm)
        # Once a step has been taken with gradients, they are no longer those at the weights.
        marks = {n: mark(g) for n, g in grads.items()}
        fresh, self._fresh = self._fresh or (raw is None and not marks.items() & self._used.items()), False
        self._used = marks
        if self._symmetries and fresh:
            # What clipping by value or noise does to a gradient is no fault of the backward.
            judged = raw.torques if raw and raw.judged else now if not changed else None
            if judged is not None:
                fields |= self._torque_fields(judged, eps, grads, bool(raw and raw.stepped), past)
        if raw is not None and not changed:
            self._raw = raw._replace(torques=now, judged=self._symmetries is not None)
        self._steps, self._skipped = self._steps + 1, 0
        zero = frozenset(n for n, x in zip(self._names, now.gradients.tolist(), strict=True) if x == 0)
        return Finding(fields, now if self._symmetries else None, zero)

    def _known(self, raw: Raw | None, changed: bool) -> Torques | None:
        """What was measured at the end of the backward, if that is what would be measured now."""
        return raw.torques if raw and not changed and raw.judged == (self._symmetries is not None) else None

    def _know(self, symmetries: Sequence[Symmetry]) -> None:
        self._meter = TorqueMeter(symmetries, self._params)
        self._judge = TorqueJudge(self._meter)

    def _gradients(self) -> dict[str, Tensor]:
        return {name: g for name, p in self._params.items() if (g := p.grad) is not None}

    def _norms(self, torques: Torques, names: Sequence[str]) -> Tensor:
        return torques.gradients.cpu()[[self._names.index(n) for n in names]]

    def _of(self, raw: Raw, names: Sequence[str]) -> Tensor:
        parts = raw.elements.cpu().split(self._sample.counts(raw.names))
        by_name = dict(zip(raw.names, parts, strict=True))
        return torch.cat([by_name[n] for n in names])

    def _changed(self, raw: Raw, names: Sequence[str], grads: Values) -> dict[str, tuple[int, int]]:
        """The checksums, before and now, of the gradients that are not what the backward left."""
        now = checksums([grads[n] for n in names]).tolist()
        before = dict(zip(raw.names, raw.sums.tolist(), strict=True))
        return {n: (before[n], x) for n, x in zip(names, now, strict=True) if x != before[n]}

    def _flip(self, raw: Raw, grads: Values, changed: dict[str, tuple[int, int]], seen: int) -> Edit | None:
        """One bit of one gradient, if that explains the change; `seen`: how many sampled elements have changed."""
        (name, (before, now)), *others = changed.items()
        bit = flipped_bit(before, now, grads[name].element_size())
        if others or seen > 1 or bit is None:
            return None
        return Edit(name, "gradient", bit, by_code=mark(grads[name]) != raw.marks[name])

    def _torn(self, names: Sequence[str], old: Tensor, elements: Tensor, before: Tensor, after: Tensor) -> Torn | None:
        if not bool(torch.isfinite(before).all() and torch.isfinite(after).all()):
            return None
        eps = max(torch.finfo(self._params[n].dtype).eps for n in names)
        self._scaled = _unscaled(float(before.sum()), float(after.sum()), ROUNDINGS * eps)
        how, which = change(names, self._sample.counts(names), old, elements, before, after, eps)
        if self._meant is None:
            self._meant = {how} if self._steps == 0 else set()
        if how not in ("added", "factors") or how in self._meant:
            return None
        previous = self._previous
        stale = previous is not None and len(previous) == len(elements) and parallel(previous, elements, eps)
        return Torn("before" if stale else how, which)

    def _torque_fields(self, found: Torques, eps: float, grads: Values, stepped: bool, past: Past) -> dict[str, Any]:
        symmetries = self._symmetries or ()
        first = self._judge.fresh
        on_device = self._judge(found, eps)
        excess = on_device.cpu()
        # Of a parameter that is not trained, or not in this step, the symmetry says nothing.
        quiet = {n for n, x in zip(self._names, found.gradients.tolist(), strict=True) if x == 0}
        absent = (quiet - set(past.steady)) | set(past.stale)
        broken = {
            i: how
            for i, how in broken_families(excess, self._meter.slices).items()
            if not absent.intersection(symmetries[i].parameters)
        }
        if not broken:
            return {}
        cut = tuple(sorted(quiet.intersection(n for i in broken for n in symmetries[i].parameters)))
        torques = tuple(
            Broken(i, s.name, s.parameters, s.kind, s.size, n, worst)
            for i, (n, worst) in broken.items()
            for s in (symmetries[i],)
        )
        delayed = False
        quadratic = any(b.kind != "translation" for b in torques)
        if quadratic and (last := past.last) is not None and all(n in last.directions for n in grads):
            before = found.torque + last.lr * self._meter.along(grads, last.directions)
            off = on_device > 1
            delayed = bool((before.abs()[off] * on_device[off] <= found.torque.abs()[off]).all())
        return {
            "torques": torques,
            "families": len(symmetries),
            "since_start": first,
            "cut": cut,
            "penalty": penalty(found, on_device),
            "delayed": delayed,
            "between": stepped,
        }


def _overflowed(elements: Tensor) -> bool:
    """True if a gradient is so large that its square is infinite in single precision, while it is not itself."""
    single = torch.finfo(torch.float32)
    return bool(torch.isfinite(elements).all()) and float(elements.abs().max()) > single.max**0.5 * single.eps


def _unscaled(before: float, after: float, slack: float) -> bool:
    """True if squared norms went down by a power of two, as where `GradScaler` takes its scale back."""
    ratio = before / after if after else 1.0
    return ratio > 1 and abs(math.log2(ratio) - round(math.log2(ratio))) < slack
