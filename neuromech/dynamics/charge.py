"""Measuring charges: bilinear and linear forms of all families at once, in few passes over the parameters.

A charge is a bilinear form <a, D b> = sum_e w_e a_e b_e (scale, rescale) or a linear one <c, a> = sum_e w_e a_e
(translation), and every law needs a few of them a step. `Symmetry.charge` says what is summed; sums.py compiles it.

Shapes: `rows` are the members of all blocks, those of the quadratic blocks first; a measurement is [pairs, rows],
float64, on the device of the parameters. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from neuromech.dynamics.forms.sums import Block, Sums
from neuromech.dynamics.forms.vectors import Pair, Scratch, Values, Vector


def slices_of(blocks: Sequence[Block]) -> tuple[slice, ...]:
    """The rows of each block: those of the quadratic ones come first."""
    order = sorted(range(len(blocks)), key=lambda i: blocks[i].linear)
    stops = dict(zip(order, accumulate(blocks[i].size for i in order), strict=True))
    return tuple(slice(stops[i] - b.size, stops[i]) for i, b in enumerate(blocks))


class Forms:
    """The bilinear and linear forms of `blocks`, over parameters that are like `params` (their values are not read).

    Those of the blocks numbered `few` can be asked for alone, which costs less.
    """

    def __init__(
        self, blocks: Sequence[Block], params: Values, scratch: Scratch | None = None, few: Collection[int] = ()
    ) -> None:
        scratch = scratch or Scratch()
        self.slices = slices_of(blocks)
        quadratic = [i for i, b in enumerate(blocks) if not b.linear]
        asked = [k for k, i in enumerate(quadratic) if i in few]
        self._quadratic = Sums([blocks[i] for i in quadratic], params, scratch, asked)
        self._linear = Sums([b for b in blocks if b.linear], params, scratch)
        self.rows = self._quadratic.rows, self._linear.rows  # (quadratic, linear)
        self.device = self._quadratic.device if self.rows[0] else self._linear.device

    def __call__(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> and <c, a> for every pair (a, b): [pairs, rows]. A name that a vector lacks counts as zero."""
        return torch.cat((self.bilinear(pairs), self.linear([a for a, _ in pairs])), dim=1)

    @torch.no_grad()
    def bilinear(self, pairs: Sequence[Pair], few: Collection[int] = ()) -> Tensor:
        """<a, D b> for every pair (a, b): [pairs, quadratic rows]; of the pairs numbered `few`, only the rows of the
        few blocks are meant."""
        return self._quadratic.combine(self._quadratic.products(pairs, few))

    @torch.no_grad()
    def with_magnitudes(self, pairs: Sequence[Pair], few: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """The same, and for the first pair the sums with the absolute values of weights: [quadratic rows]."""
        products = self._quadratic.products(pairs, few)
        return self._quadratic.combine(products), self._quadratic.combine(products[:1], magnitudes=True)[0]

    @torch.no_grad()
    def linear(self, xs: Sequence[Vector]) -> Tensor:
        """<c, x> for every x: [xs, linear rows]."""
        return self._linear.combine(self._linear.values(xs))

    @torch.no_grad()
    def charges(self, params: Values, moved: Vector | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(charge, scale, torque), [rows], [rows] and [2, rows].

        Scale is the same sum with absolute values: what a residual is divided by. Torque, with the vector `moved`, are
        <moved, D params> and <moved, D moved>, or <c, moved> and 0, from the same pass over the parameters.
        """
        quadratic, linear = self._quadratic, self._linear
        also, vectors = ([], [params]) if moved is None else ([(moved, params), (moved, moved)], [params, moved])
        products = quadratic.products([(params, params), *also])
        signed, unsigned = linear.values(vectors, magnitudes=True).split(len(vectors))
        scale = quadratic.combine(products[:1], magnitudes=True), linear.combine(unsigned[:1], magnitudes=True)
        forms, sums = quadratic.combine(products), linear.combine(signed)
        charge = torch.cat((forms[0], sums[0]))
        if moved is None:
            return charge, torch.cat(scale, dim=1)[0], None
        torque = torch.cat((forms[1:], torch.stack((sums[1], torch.zeros_like(sums[1])))), dim=1)
        return charge, torch.cat(scale, dim=1)[0], torque
