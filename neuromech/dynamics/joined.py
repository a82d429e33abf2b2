"""Several `Laws` over one set of parameters as one: families that come up in mid-run beside those that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from neuromech.dynamics.forms.vectors import Values
from neuromech.dynamics.laws import Laws, Reading
from neuromech.dynamics.motion import Motion
from neuromech.dynamics.sides import Signed
from neuromech.symmetry import Symmetry


class JoinedLaws:
    """As `Laws`: its rows are those of all groups, one behind the other, and each group begins when it was added."""

    def __init__(
        self,
        symmetries: Sequence[Symmetry],
        params: Values,
        eps: Sequence[float],
        whole: bool,
        members: Sequence[range],
        counts: Sequence[int],
    ) -> None:
        """Arguments as of `Laws`; `counts`: how many families each group has."""
        self.groups: list[Laws] = []
        self._whole = whole
        for n, end in zip(counts, accumulate(counts), strict=True):
            part = slice(end - n, end)
            self.add(symmetries[part], params, eps[part], members[part])

    def add(
        self, symmetries: Sequence[Symmetry], params: Values, eps: Sequence[float], members: Sequence[range]
    ) -> Tensor:
        """More families, whose predictions begin at `params`; returns their charges."""
        self.groups.append(Laws(symmetries, params, eps, self._whole, members))
        return self.groups[-1].observe(params)[0]

    @property
    def slices(self) -> list[slice]:
        """The rows of each family."""
        starts = accumulate((sum(map(len, g.members)) for g in self.groups), initial=0)
        return [slice(s.start + at, s.stop + at) for g, at in zip(self.groups, starts, strict=False) for s in g.slices]

    @property
    def members(self) -> tuple[range, ...]:
        return tuple(m for g in self.groups for m in g.members)

    @property
    def device(self) -> torch.device:
        return self.groups[0].device

    def initial(self, params: Values) -> Reading:
        return _together([g.initial(params) for g in self.groups])

    def restart(self, params: Values) -> Reading:
        return _together([g.restart(params) for g in self.groups])

    def observe(self, params: Values) -> tuple[Tensor, Tensor]:
        charge, scale = zip(*(g.observe(params) for g in self.groups), strict=True)
        return torch.cat(charge), torch.cat(scale)

    def squares(self, grads: Values) -> tuple[Signed, Signed]:
        """As of `Laws`; of all rows."""
        every = [g.squares(grads) for g in self.groups]
        if len(every) == 1:
            return every[0]
        rows = [len(weights[0]) for weights, _ in every]
        signed, whole, of_grads, of_grads_whole = (
            torch.cat([_filled(x, n) for x, n in zip(column, rows, strict=True)])
            for column in zip(*((*weights, *gradients) for weights, gradients in every), strict=True)
        )
        return (signed, whole), (of_grads, of_grads_whole)

    def before(self, params: Values, grads: Values, motions: Mapping[str, Motion], changed: bool = False) -> None:
        for g in self.groups:
            g.before(params, grads, motions, changed)

    def after(self, params: Values) -> tuple[Reading, Reading]:
        """The reading of all rows, and that of the first group."""
        readings = [g.after(params) for g in self.groups]
        return _together(readings), readings[0]

    def state_dict(self) -> dict[str, Any]:
        """That of the first group, with those of the others under "more"."""
        first, *more = (g.state_dict() for g in self.groups)
        return first | {"more": more} if more else first

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        first = {k: x for k, x in state.items() if k != "more"}
        for group, saved in zip(self.groups, (first, *state.get("more", ())), strict=True):
            group.load_state_dict(saved)


def _filled(x: Tensor, rows: int) -> Tensor:
    """With zeros behind it, up to so many rows."""
    return torch.cat((x, x.new_zeros(rows - len(x))))


def _together(readings: Sequence[Reading]) -> Reading:
    if len(readings) == 1:
        return readings[0]
    return Reading(*(torch.cat(fields, dim=-1) for fields in zip(*readings, strict=True)))
