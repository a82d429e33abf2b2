"""What detection knows of operators: all facts about one on its line.

    define("view reshape", view, mixing.view, same_content=True)

`rule` says what becomes of scales and shifts, `(interpreter, *args, **kwargs) -> Abstract` of the operator's own
arguments; `mixing` which indices a matrix may mix, `(walk, *args, **kwargs) -> Indexed`. An operator in place computes
the same (the recorder gives its result a value of its own), so `add_` needs no line beside `add`. An operator without a
line blocks every claim that would pass through it, one without `mixing` every matrix claim, and both are listed. So
does one that has a line and no rule: some facts are about operators that no claim passes (content.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch

OperatorRule = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """The rules of an operator, and how it is to be treated.

    `apart`: the indices whose entries it tells apart, `(interpreter, node) -> labels` (told_apart.py); None: all of
    them, unless it moves entries or acts on them one by one.

    `same_content`: its result holds the numbers of its first input, at other places; `joins`: those of all of its
    inputs, side by side. `for_complex`: its rule holds for complex numbers as it stands. `with_empty`: an input without
    elements makes no difference. `sees_masked`: it gives entries that a mask has put to minus infinity a meaning, as
    softmax does. `sees_rows`: it does not compare rows of a table that the data chose (`Abstract.rows`).

    `rows`: which rows of its inputs some rows of its result are made of, `(node, rows) -> needs` (unread.py); None: all
    of them, unless it acts on entries one by one.

    Of what it does with the content of its inputs: `no_content`: none of it flows on. `unfilled`: what it makes holds
    whatever was in memory. `escapes`: content leaves the graph, to where it may steer the control flow; `as_number`: as
    one number. `stops`: no gradient flows through it. `is_metadata`: what it says is about the tensor, not its content,
    and it is not part of the graph at all.
    """

    rule: OperatorRule | None
    mixing: OperatorRule | None = None
    apart: OperatorRule | None = None
    rows: OperatorRule | None = None
    same_content: bool = False
    joins: bool = False
    for_complex: bool = False
    with_empty: bool = False
    sees_masked: bool = False
    sees_rows: bool = False
    no_content: bool = False
    unfilled: bool = False
    escapes: bool = False
    as_number: bool = False
    stops: bool = False
    is_metadata: bool = False


OPERATORS: dict[str, Operator] = {}
UNKNOWN = Operator(None)  # one without a line


def define(names: str, rule: OperatorRule | None, mixing: OperatorRule | None = None, **facts: Any) -> None:
    """One line of the table, for one operator or several (apart by spaces) that obey it."""
    for name in names.split():
        assert name not in OPERATORS, f"{name} has two lines"
        OPERATORS[name] = Operator(rule, mixing, **facts)


def short(op: str) -> str:
    """The name of an operator as people write it."""
    return op.removeprefix("aten.")


@cache
def signature_of(rule: OperatorRule) -> inspect.Signature:
    """What a rule can be called with."""
    return inspect.signature(rule)


def operator_of(op: str) -> Operator | None:
    """The line of an operator, if it has one."""
    _read_lines()
    name = short(op)
    return OPERATORS.get(name) or (OPERATORS.get(name[:-1]) if name.endswith("_") else None)


@cache
def _read_lines() -> None:
    import_module("neuromech.detect.operators")


def is_elementwise(op: str) -> bool:
    """True for operators that PyTorch itself says to act entry by entry."""
    packet = getattr(torch.ops.aten, short(op), None)
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, name).tags for name in packet.overloads())
