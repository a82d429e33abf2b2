"""`register_operator`, `register_module`: the doors for what detection does not know; a rule is tried before believed.

The operator is called on parameters of every shape that the rule is about, and what comes out meets further parameters:
a factor for each entry, a constant added to each, a matrix along each axis. Every way in which the rule lets a factor,
a shift or a matrix pass is then a claim about these small models, which the numbers confirm or contradict.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.detect.find import find_symmetries
from neuromech.detect.module_rules import MODULES, ModuleRule, inputs_and_parameters
from neuromech.detect.operator import OPERATORS, Operator, operator_of, short
from neuromech.detect.operators.specifications import Specification
from neuromech.errors import CaptureError, DetectionError, NeuromechWarning


def register_operator(name: str, rule: Specification | Operator, example: tuple[Any, ...] | None = None) -> None:
    """Teach detection the operator `name`, "library::operator".

    `rule`: `contraction("bi,oi->bo")`, `movement("bchw->bhwc")`, `pointwise(degree=1)`, `reduction("sum", -1)`,
    `like("aten::layer_norm")`, or an `Operator` with rules of your own. `example`: arguments that the operator can be
    called with, to try the rule on; the specifications but `like` bring shapes of their own.

    Raises `DetectionError` if there is no such operator, if it has a rule already, or if the numbers contradict the
    rule (or cannot be computed in float64).
    """
    call, key = _operator(name), name.replace("::", ".")
    if operator_of(key) is not None:
        raise DetectionError(f"{name} has a rule already: unregister_operator({name!r}) first")
    shapes = rule.shapes if isinstance(rule, Specification) else ()
    if example is None and not shapes:
        raise DetectionError(f"{name}: pass example=, arguments that it can be called with, to try the rule on")
    args = tuple(torch.randn(shape) for shape in shapes) if example is None else example
    OPERATORS[short(key)] = rule.operator if isinstance(rule, Specification) else rule
    try:
        for wrong in _contradictions(call, short(key), args):
            raise DetectionError(f"the rule for {name} is wrong: {wrong}")
    except BaseException:
        del OPERATORS[short(key)]
        raise


def unregister_operator(name: str) -> None:
    """Forget an operator. Raises `DetectionError` if it has no rule."""
    if OPERATORS.pop(short(name.replace("::", ".")), None) is None:
        raise DetectionError(f"{name} has no rule that could be forgotten")


def register_module(
    cls: type[nn.Module],
    rule: Specification | Operator,
    example: tuple[Any, ...],
    arguments: Callable[..., tuple[Any, ...]] = inputs_and_parameters,
) -> None:
    """Teach detection that the forward of `cls` is one operation, whatever it is made of (a custom autograd function, a
    kernel): `rule` as in `register_operator`.

    `example`: a module of the class and the inputs to call it with, on which the rule is tried. `arguments`:
    `(module, *inputs) -> tuple` of the operation's tensors; by default the inputs, then the module's own parameters. A
    subclass has a forward of its own, and needs a rule of its own.

    Raises `DetectionError` unless this is a class of modules without a rule, and the numbers agree with it.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise DetectionError(f"{cls!r} is not a class of modules: register_operator takes operators")
    if cls in MODULES:
        raise DetectionError(f"{cls.__name__} has a rule already: unregister_module({cls.__name__}) first")
    if not (isinstance(example, tuple) and example and type(example[0]) is cls):
        raise DetectionError(f"pass example=(a {cls.__name__}, its inputs ...), to try the rule on")
    key = f"{cls.__module__}.{cls.__qualname__}"
    OPERATORS[key] = rule.operator if isinstance(rule, Specification) else rule
    MODULES[cls] = ModuleRule(key, arguments)
    try:
        for wrong in _contradictions(copy.deepcopy(example[0]), key, example[1:]):
            raise DetectionError(f"the rule for {cls.__name__} is wrong: {wrong}")
    except BaseException as error:
        del OPERATORS[key], MODULES[cls]
        if isinstance(error, CaptureError):
            raise DetectionError(f"the rule for {cls.__name__} is wrong: {error}") from error
        raise


def unregister_module(cls: type[nn.Module]) -> None:
    """Forget a module. Raises `DetectionError` if it has no rule."""
    if cls not in MODULES:
        raise DetectionError(f"{getattr(cls, '__name__', cls)} has no rule that could be forgotten")
    del OPERATORS[MODULES.pop(cls).op]


def _operator(name: str) -> Any:
    library, _, operator = name.partition("::")
    found = getattr(getattr(torch.ops, library, None), operator, None) if operator else None
    if found is None:
        raise DetectionError(f'there is no operator {name}: give its name as in "mylib::op", after it was defined')
    return found


class _Tried(nn.Module):
    """The operator between parameters; `after` says what meets its result, along which axis."""

    def __init__(self, call: Any, args: tuple[Any, ...], after: str, axis: int = 0) -> None:
        super().__init__()
        self.call, self.args, self.after, self.axis = call, args, after, axis
        moving = {i: a for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()}
        self.p = nn.ParameterDict({str(i): nn.Parameter(torch.randn(a.shape)) for i, a in moving.items()})
        with torch.no_grad():
            shape = self.result().shape
        sizes = {"a factor": shape, "a constant": shape, "a matrix": (shape[axis], 3) if shape else ()}
        self.q = nn.Parameter(torch.randn(sizes[after]))

    def result(self) -> Tensor:
        args = [self.p.get(str(i), a) for i, a in enumerate(self.args)]
        out = self.call(*args)
        if not isinstance(out, Tensor):
            raise DetectionError("only operators with one tensor for a result can be registered so far")
        return out

    def forward(self, x: Tensor) -> Tensor:
        y = self.result()
        if self.after == "a factor":
            return x * y * self.q
        return x * (y + self.q) if self.after == "a constant" else x * torch.tensordot(y, self.q, ([self.axis], [0]))


def _contradictions(call: Any, op: str, args: tuple[Any, ...]) -> Iterator[str]:
    """What the rule claims and the numbers contradict, in words; or why it cannot be applied."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        try:
            ndim = _Tried(call, args, "a factor").result().ndim
        except Exception as error:
            shapes = ", ".join(str(tuple(a.shape)) if isinstance(a, Tensor) else repr(a) for a in args)
            yield f"it says that the operator takes {shapes}, which fails ({type(error).__name__}: {error})"
            return
        for after, axis in [("a factor", 0), ("a constant", 0), *(("a matrix", d) for d in range(ndim))]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NeuromechWarning)
                found = find_symmetries(_Tried(call, args, after, axis), torch.ones(()))
            yield from (note for note in found.notes if note.startswith("nothing was verified: "))
            yield from (o.why for o in found.opaque if o.op == op and "scaling" in o.domains)
            yield from (
                f"where {after} meets its result, it claims {s.name}, and the numbers contradict that"
                for s in found.rejected
            )
