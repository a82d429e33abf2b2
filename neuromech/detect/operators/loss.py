"""Losses: what they see of their inputs."""

from __future__ import annotations

from typing import Any

from neuromech.detect.abstract import Abstract, Event
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.operator import define


def cross_entropy(s: Interpreter, x: Abstract, target: Abstract, *others: Any, **named: Any) -> Abstract:
    """log_softmax over the class axis, then a mean: a common shift of the logits drops out."""
    s.pin(target, *_tensors(others, named))
    s.scaling.vanish(x.scale)
    s.translation.vanish(x.shift, along=x.along([min(1, x.ndim - 1)]))
    s.translation.events.append(Event("absorbs", "the softmax of the loss does not see a common shift", x.shift))
    return _reduced(s)


def difference(s: Interpreter, x: Abstract, y: Abstract, *others: Any, **named: Any) -> Abstract:
    """A loss of x - y alone that pins its size (mean squared or absolute error, Huber): a common shift drops out."""
    x, y = s.broadcast(x, y)
    s.pin(*_tensors(others, named))
    s.scaling.vanish(x.scale)
    s.scaling.vanish(y.scale)
    s.translation.vanish(x.shift - y.shift)
    return _reduced(s)


def sees_all(s: Interpreter, *args: Any, **named: Any) -> Abstract:
    """A loss that sees its inputs as they are."""
    s.pin(*_tensors(args, named))
    return _reduced(s)


def _tensors(args: tuple[Any, ...], named: dict[str, Any]) -> list[Abstract]:
    return [t for t in (*args, *named.values()) if isinstance(t, Abstract)]


def _reduced(s: Interpreter) -> Abstract:
    assert s.node is not None
    return s.result(s.constant(s.node.outputs[0].shape, s.node).axes)


define("cross_entropy_loss", cross_entropy, mixing.by_entries)
define("mse_loss l1_loss smooth_l1_loss huber_loss", difference, mixing.by_entries)
define("nll_loss nll_loss2d nll_loss_nd kl_div", sees_all, mixing.by_entries)
define("binary_cross_entropy binary_cross_entropy_with_logits", sees_all, mixing.by_entries)
