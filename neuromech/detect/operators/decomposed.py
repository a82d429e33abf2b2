"""Norms and dropout as `run_decompositions` of an exported program leaves them: they also return what they measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.matrix.walk import Indexed, Walk
from neuromech.detect.operator import define
from neuromech.detect.operators.normalize import batch_norm, group_norm, layer_norm
from neuromech.detect.operators.pointwise import dropout


def group_norm_of(
    s: Interpreter,
    x: Abstract,
    gain: Abstract | None,
    bias: Abstract | None,
    batch: int,
    channels: int,
    space: int,
    groups: int,
    eps: float,
) -> Abstract:
    return group_norm(s, x, groups, gain, bias, eps)


def batch_norm_at_rest(
    s: Interpreter,
    x: Abstract,
    gain: Abstract | None,
    bias: Abstract | None,
    mean: Abstract,
    variance: Abstract,
    momentum: float,
    eps: float,
) -> Abstract:
    return batch_norm(s, x, gain, bias, mean, variance, False, momentum, eps)


def first(rule: Callable[..., Abstract]) -> Callable[..., list[Abstract]]:
    """`rule` is about the first of the results; nobody may read the others."""

    def whole(s: Interpreter, *args: Any) -> list[Abstract]:
        return [rule(s, *args), *s.byproducts()]

    return whole


def mixed(rule: Callable[..., Indexed]) -> Callable[..., list[Indexed]]:
    def whole(m: Walk, *args: Any) -> list[Indexed]:
        return [rule(m, *args), *m.byproducts()]

    return whole


_NORM: dict[str, Any] = {"mixing": mixed(mixing.keeps_axes), "apart": told_apart.nothing}
define("_native_batch_norm_legit_no_training", first(batch_norm_at_rest), **_NORM)
define("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional", first(batch_norm), **_NORM)
define("native_layer_norm", first(layer_norm), **_NORM, sees_rows=True)
define("native_group_norm", first(group_norm_of), **_NORM)
define("native_dropout", first(dropout), mixed(mixing.dropout), apart=told_apart.nothing)
