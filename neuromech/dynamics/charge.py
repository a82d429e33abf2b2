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
        self._sums = Sums(plain, [b for b in blocks if b.linear], params, scratch, asked_plain)
        self._mixed = Products(mixed, params, asked_mixed)
        quadratic, linear = self._sums.rows
        self.rows = quadratic + self._mixed.rows, linear  # (quadratic, linear)
        first = self._mixed if self._mixed.rows and not quadratic else self._sums
        self.device = first.device

    def __call__(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> and <c, a> for every pair (a, b): [pairs, rows]. A name that a vector lacks counts as zero."""
        forms, sums, _ = self.both(pairs, [a for a, _ in pairs])
        return torch.cat((forms, sums), dim=1)

    def bilinear(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> for every pair (a, b): [pairs, quadratic rows]."""
        return self.both(pairs)[0]

    @torch.no_grad()
    def both(
        self, pairs: Sequence[Pair], xs: Sequence[Vector] = (), few: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """<a, D b> for every pair, <c, x> for every x, and <a, D b> of the first pair with the absolute values of
        weights: [pairs, quadratic rows], [xs, linear rows] and [quadratic rows], from one pass over the parameters. Of
        the pairs numbered `few`, only the rows of the few blocks are meant."""
        forms, values = self._read(pairs, xs, few)
        return forms[:-1], self._sums.combine(values, 1, range(len(xs))), forms[-1]

    @torch.no_grad()
    def charges(self, params: Values, moved: Vector | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(charge, scale, torque), [rows], [rows] and [2, rows].

        Scale is the same sum with absolute values: what a residual is divided by. Torque, with the vector `moved`, are
        <moved, D params> and <moved, D moved>, or <c, moved> and 0, from the same pass over the parameters.
        """
        own = params, params
        if moved is None:
            forms, values = self._read([own], [params], magnitudes=[params])
            charge, scale = torch.cat((forms, self._sums.combine(values, 1, [0], [1])), dim=1).unbind()
            return charge, scale, None
        forms, values = self._read([own, (moved, params), (moved, moved)], [params, moved], magnitudes=[params])
        charges, pulls, scales = self._sums.combine(values, 1, [0, 1], [2]).unbind()
        sums = torch.stack((charges, pulls, torch.zeros_like(pulls), scales))
        found = torch.cat((forms, sums), dim=1)
        return found[0], found[-1], found[1:-1]

    def _read(
        self, pairs: Sequence[Pair], xs: Sequence[Vector], few: Collection[int] = (), magnitudes: Sequence[Vector] = ()
    ) -> tuple[Tensor, Tensor]:
        """<a, D b> for every pair, and behind them the first with the absolute values of weights: [pairs + 1, quadratic
        rows]; the pieces of every x, then those of |x| of every one of `magnitudes`."""
        products, values = self._sums(pairs, xs, few, magnitudes)
        forms = self._sums.combine(products, 0, range(len(pairs)), [0] if pairs else [])
        if not pairs:
            forms = forms.new_zeros(1, forms.shape[1])
        if not self._mixed.rows:
            return forms, values
        mixed, sizes = self._mixed(pairs, few)
        return torch.cat((forms, torch.cat((mixed, sizes[None]))), dim=1), values
