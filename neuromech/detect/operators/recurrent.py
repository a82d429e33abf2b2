"""Recurrent cells, as compositions: what the hidden state scales with is the same at every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import axis, count
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.index import cat, cut, stack
from neuromech.detect.operators.linear import linear, plus
from neuromech.detect.operators.movement import transpose
from neuromech.detect.operators.pointwise import dropout, homogeneous, mul, nonlinear, rsub
from neuromech.detect.refine import unify

HiddenStates = tuple[Abstract, ...]
Cell = Callable[[Interpreter, Abstract, HiddenStates, Sequence[Abstract]], HiddenStates]


def _affine(
    s: Interpreter, x: Abstract, h: Abstract, w: Sequence[Abstract], gates: int
) -> Iterator[tuple[Abstract, Abstract]]:
    """W_ih x + b_ih and W_hh h + b_hh, gate by gate; `w` is (W_ih, W_hh) or (W_ih, W_hh, b_ih, b_hh)."""
    n = count(w[0].axes[0]) // gates
    blocks = [cut(s, t, 0, [n] * gates) for t in (w[:4] if len(w) > 3 else w[:2])]
    for k in range(gates):
        w_ih, w_hh, *biases = (b[k] for b in blocks)
        b_ih, b_hh = biases or (None, None)
        yield linear(s, x, w_ih, b_ih), linear(s, h, w_hh, b_hh)


def lstm_cell(s: Interpreter, x: Abstract, states: HiddenStates, w: Sequence[Abstract]) -> HiddenStates:
    h, c = states
    i, f, g, o = (nonlinear(s, plus(s, a, b)) for a, b in _affine(s, x, h, w, 4))
    c = plus(s, mul(s, f, c), mul(s, i, g))
    h = mul(s, o, nonlinear(s, c))
    projection = w[4:] if len(w) > 4 else w[2:] if len(w) == 3 else ()
    return (linear(s, h, projection[0]) if projection else h), c


def gru_cell(s: Interpreter, x: Abstract, states: HiddenStates, w: Sequence[Abstract]) -> HiddenStates:
    (h,) = states
    (r_x, r_h), (z_x, z_h), (n_x, n_h) = _affine(s, x, h, w, 3)
    r, z = nonlinear(s, plus(s, r_x, r_h)), nonlinear(s, plus(s, z_x, z_h))
    n = nonlinear(s, plus(s, n_x, mul(s, r, n_h)))
    return (plus(s, mul(s, rsub(s, z, 1.0), n), mul(s, z, h)),)


def plain_cell(activation: Callable[[Interpreter, Abstract], Abstract]) -> Cell:
    def cell(s: Interpreter, x: Abstract, states: HiddenStates, w: Sequence[Abstract]) -> HiddenStates:
        ((a, b),) = _affine(s, x, states[0], w, 1)
        return (activation(s, plus(s, a, b)),)

    return cell


def layers(cell: Cell, states: int) -> Callable[..., list[Abstract]]:
    """Stacked layers of a cell, run over time in one or both directions."""

    def rule(s: Interpreter, x: Abstract, *args: Any) -> list[Abstract]:
        given, weights, biased, depth, p, train, both, *order = args
        if not isinstance(biased, bool) or not order:
            raise Unsupported("its sequences are packed: run it on padded ones")
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        if order[0]:
            x = transpose(s, x, 0, 1)
        directions = 2 if both else 1
        each = len(weights) // (depth * directions)
        last: list[HiddenStates] = []
        for layer in range(depth):
            outputs = []
            for d in range(directions):
                k = layer * directions + d
                here = _steady(s, cell, x, weights[k * each : (k + 1) * each], states)
                for mine, all_given in zip(here, given, strict=True):
                    _starts_from(s, mine, all_given, k)
                outputs.append(here[0])
                last.append(tuple(_at_the_end(s, t) for t in here))
            x = cat(s, outputs, -1) if both else outputs[0]
            if layer < depth - 1:
                x = dropout(s, x, p, train)
        out = transpose(s, x, 0, 1) if order[0] else x
        return [out, *(stack(s, [t[k] for t in last]) for k in range(states))]

    return rule


def _steady(s: Interpreter, cell: Cell, x: Abstract, w: Sequence[Abstract], states: int) -> HiddenStates:
    """The states at all times: unknown to begin with, and what comes out of a step must be what went in."""
    hidden = count(w[1].axes[1])
    sizes = [hidden, count(w[0].axes[0]) // 4][:states]
    before = []
    for n in sizes:
        h = s.result((*x.axes[:-1], axis(n)))
        before.append(replace(h, scale=s.scaling.free(h.along([-1]))))
    after = cell(s, x, tuple(before), w)
    out = []
    for old, new in zip(before, after, strict=True):
        new = new.rename(unify(old.axes[-1], new.axes[-1]))
        s.scaling.equal(old.scale, new.scale)
        s.translation.vanish(new.shift)
        out.append(replace(new, axes=old.axes, scale=old.scale))
    return tuple(out)


def _starts_from(s: Interpreter, h: Abstract, given: Abstract, k: int) -> None:
    """The state before the first step scales as all others do; zeros do."""
    start = given if given.ndim < 3 else cut(s, given, 0, [1] * count(given.axes[0]))[k]
    s.translation.vanish(start.shift)
    start = start.rename(unify(h.axes[-1], start.axes[-1]))
    s.scaling.vanish(start.scale - h.scale)


def _at_the_end(s: Interpreter, h: Abstract) -> Abstract:
    return replace(s.result(h.axes[1:], h.scale), shift=h.shift)


def step(cell: Cell, states: int) -> Callable[..., Any]:
    """A single step of a cell."""

    def rule(s: Interpreter, x: Abstract, given: Any, *w: Abstract | None) -> Any:
        hs = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        new = cell(s, x, hs, [t for t in w if t is not None])
        return list(new) if states > 1 else new[0]

    return rule


def _tanh(s: Interpreter, x: Abstract) -> Abstract:
    return nonlinear(s, x)


_relu = homogeneous(1, "ReLU")


define("lstm", layers(lstm_cell, 2), mixing.recurrent)
define("gru", layers(gru_cell, 1), mixing.recurrent)
define("rnn_tanh", layers(plain_cell(_tanh), 1), mixing.recurrent)
define("rnn_relu", layers(plain_cell(_relu), 1), mixing.recurrent)
define("lstm_cell", step(lstm_cell, 2), mixing.recurrent_cell)
define("gru_cell", step(gru_cell, 1), mixing.recurrent_cell)
define("rnn_tanh_cell", step(plain_cell(_tanh), 1), mixing.recurrent_cell)
define("rnn_relu_cell", step(plain_cell(_relu), 1), mixing.recurrent_cell)
