"""Measuring charges: bilinear and linear forms of all families at once, in few passes over the parameters.

A charge is a bilinear form <a, D b> = sum_e w_e a_e b_e (scale, rescale) or a linear one <c, a> = sum_e w_e a_e
(translation), and every law needs a few of them a step; the entry of a matrix is a bilinear form too, whose D mixes
rows. `Symmetry.charge` says what is summed; sums.py compiles it, and products.py where elements are mixed.

Shapes: `rows` are the members of all blocks, those of the quadratic blocks first, matrices behind the others; a
measurement is [pairs, rows], float64, on the device of the parameters. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from neuromech.dynamics.forms.products import Products
from neuromech.dynamics.forms.sums import Block, Sums
from neuromech.dynamics.forms.vectors import Pair, Scratch, Values, Vector


def slices_of(blocks: Sequence[Block]) -> tuple[slice, ...]:
    """The rows of each block: those of the quadratic ones come first, among them those of matrices last."""
    order = sorted(range(len(blocks)), key=lambda i: (blocks[i].linear, blocks[i].mixes))
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

        def chosen(mixes: bool) -> tuple[list[Block], list[int]]:
            own = [i for i, b in enumerate(blocks) if not b.linear and b.mixes == mixes]
            return [blocks[i] for i in own], [k for k, i in enumerate(own) if i in few]

        plain, asked_plain = chosen(mixes=False)
        mixed, asked_mixed = chosen(mixes=True)
        self._quadratic = Sums(plain, params, scratch, asked_plain)
        self._mixed = Products(mixed, params, asked_mixed)
        self._linear = Sums([b for b in blocks if b.linear], params, scratch)
        self.rows = self._quadratic.rows + self._mixed.rows, self._linear.rows  # (quadratic, linear)
        parts = (self._quadratic, self._mixed, self._linear)
        self.device = next((x.device for x in parts if x.rows), torch.device("cpu"))

    def __call__(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> and <c, a> for every pair (a, b): [pairs, rows]. A name that a vector lacks counts as zero."""
        return torch.cat((self.bilinear(pairs), self.linear([a for a, _ in pairs])), dim=1)

    @torch.no_grad()
    def bilinear(self, pairs: Sequence[Pair], few: Collection[int] = ()) -> Tensor:
        """<a, D b> for every pair (a, b): [pairs, quadratic rows]; of the pairs numbered `few`, only the rows of the
        few blocks are meant."""
        plain = self._quadratic.combine(self._quadratic.products(pairs, few))
        return torch.cat((plain, self._mixed(pairs, few)[0]), dim=1) if self._mixed.rows else plain

    @torch.no_grad()
    def with_magnitudes(self, pairs: Sequence[Pair], few: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """The same, and for the first pair the sums with the absolute values of weights: [quadratic rows]."""
        products = self._quadratic.products(pairs, few)
        plain, sizes = self._quadratic.combine(products), self._quadratic.combine(products[:1], magnitudes=True)[0]
        if not self._mixed.rows:
            return plain, sizes
        mixed, own = self._mixed(pairs, few)
        return torch.cat((plain, mixed), dim=1), torch.cat((sizes, own))

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
        also, vectors = ([], [params]) if moved is None else ([(moved, params), (moved, moved)], [params, moved])
        forms, size = self.with_magnitudes([(params, params), *also])
        signed, unsigned = self._linear.values(vectors, magnitudes=True).split(len(vectors))
        sums = self._linear.combine(signed)
        scale = torch.cat((size, self._linear.combine(unsigned[:1], magnitudes=True)[0]))
        charge = torch.cat((forms[0], sums[0]))
        if moved is None:
            return charge, scale, None
        torque = torch.cat((forms[1:], torch.stack((sums[1], torch.zeros_like(sums[1])))), dim=1)
        return charge, scale, torque
