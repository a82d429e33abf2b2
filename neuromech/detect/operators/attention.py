"""Attention: a composition of products and a softmax."""

from __future__ import annotations

import torch

from neuromech.detect import told_apart, unread
from neuromech.detect.abstract import Abstract
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.index import length, repeat_interleave
from neuromech.detect.operators.linear import matmul, plus
from neuromech.detect.operators.movement import swap_last
from neuromech.detect.operators.normalize import softmax
from neuromech.detect.operators.pointwise import dropout


def attention(
    s: Interpreter,
    query: Abstract,
    key: Abstract,
    value: Abstract,
    mask: Abstract | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Abstract:
    """softmax(q k / sqrt(d) + mask) v; what a mask of truth values or a causal one hides is not seen at all."""
    assert s.node is not None
    if enable_gqa:  # every head of k and v serves several of q, side by side
        times = length(query, -3) // length(key, -3)
        key, value = (repeat_interleave(s, t, times, -3) for t in (key, value))
    scores = matmul(s, query, swap_last(s, key))
    if mask is not None and (mask.scale or mask.shift or not _is_bool(s, mask)):
        scores = plus(s, scores, mask)
    return matmul(s, dropout(s, softmax(s, scores, -1), dropout_p, True), value)


def _is_bool(s: Interpreter, mask: Abstract) -> bool:
    value = s.value(mask)
    return value is not None and value.dtype is torch.bool


define("scaled_dot_product_attention", attention, mixing.attention, apart=told_apart.tokens, rows=unread.attention)
