"""Factors that shifts have turned into: exp(x + c) = exp(c) exp(x).

To first order a tensor moves by its shift and by its growth times itself, and an operator passes on the two by
themselves. So what its rule says of scales is true of growth, equation by equation.
"""

from __future__ import annotations

from dataclasses import replace

from neuromech.detect.abstract import Abstract, Domain
from neuromech.detect.expr import Expr


def without_growth(t: Abstract) -> Abstract:
    return replace(t, growth=Expr()) if t.growth else t


def growth_as_scale(translation: Domain, t: Abstract) -> Abstract:
    """The tensor, which scales with its growth and with nothing else; a zero scales with anything."""
    if not (t.scale or t.shift or t.growth):
        return t
    return replace(t, scale=translation.free(t.labels) if t.zero else t.growth, shift=Expr(), growth=Expr())
