"""`Point`: loss, gradient and directional derivatives of the gradient at one point, from one forward shared by all.

Three forms of d^n g[v1, .., vn]; all keep the directions fixed:

    reverse     n more backward passes through the graph of the gradient. Exact, one forward for everything.
    forward     dual numbers for the last direction, reverse for the others. Exact, less memory, one more forward each.
    difference  central differences of gradients, 2^n of them. For what has no second derivative (FSDP2, fused kernels),
                and for closures that run backward themselves. Its error is reported by `difference_error`.

Attention and norms are switched to their mathematical form where torch's own derivatives end, see `mathematical`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from neuromech.compat import function_of, load_forward_mode, version
from neuromech.eom.decompositions import mathematical
from neuromech.eom.landscape import Landscape, Look, LossFunction, PureLandscape, Terms
from neuromech.errors import EoMError
from neuromech.params import Params, combine, norm

HVPForm = Literal["auto", "reverse", "forward", "difference"]
FORMS: tuple[HVPForm, ...] = get_args(HVPForm)
Exact = Literal["reverse", "forward", "difference", "gradient"]


class Point:
    """One point of a loss. `loss(params)` is a pure function of a dict of tensors, see `as_function` for a model.

    `loss`: 0-d tensor. `gradient`: by name, zeros for `unused` parameters. Tensors carry no graph. `once`: one product
    is all that will be asked for; memory is then free earlier.

    Raises `EoMError` for a loss that is not a scalar, or that does not depend on any parameter.
    """

    def __init__(self, loss: LossFunction, params: Params, hvp: HVPForm = "auto", once: bool = False) -> None:
        self._begin(PureLandscape(loss, params), hvp, once=once)

    @classmethod
    def on(
        cls,
        landscape: Landscape,
        hvp: HVPForm | Literal["gradient"] = "auto",
        trusted: bool = False,
        once: bool = False,
        lenient: bool = False,
    ) -> Point:
        """The point where `landscape` stands. "gradient": no derivatives will be asked for.

        `trusted`: the graph is known to have all derivatives, and is not searched for operators that lack them.
        `lenient`: if it lacks some, there will be none to ask for, but it is not an error.
        """
        point = cls.__new__(cls)
        point._begin(landscape, hvp, trusted, once, lenient)
        return point

    def _begin(
        self,
        landscape: Landscape,
        hvp: HVPForm | Literal["gradient"],
        trusted: bool = False,
        once: bool = False,
        lenient: bool = False,
    ) -> None:
        if hvp not in (*FORMS, "gradient"):
            raise EoMError(f"hvp is {hvp!r}: it has to be one of {', '.join(FORMS)}")
        self._landscape, self._once = landscape, once
        asked = hvp
        if hvp == "auto":
            sharded = any(hasattr(p, "device_mesh") for p in landscape.here.values())
            hvp = "difference" if sharded else "reverse"
        self.form: Exact = hvp
        with self._exact(deep=False):
            look = landscape.look()
        if look.gradient is not None:
            if asked in ("reverse", "forward"):
                raise EoMError(
                    f"the gradient came from backward(), so nothing is left for hvp={asked!r} to differentiate. "
                    "Closures have to return the loss without calling it; under FSDP2 and DDP there is no other way: "
                    "use hvp='difference' or backend='gradients'"
                )
            self.form = "gradient" if asked == "gradient" else "difference"
        if self.form == "reverse" and not trusted and (lacking := _once_differentiable(look.loss)):
            if not lenient:
                raise MissingDerivative(", ".join(lacking), "reverse", "its backward is marked once_differentiable")
            self.form = "gradient"
        self.loss = look.loss.detach()
        self._attached: dict[tuple[int, ...], Params] = {}  # gradients with a graph, by the ids of directions
        self._directions: list[Params] = []  # keeps these ids alive
        with self._backward():
            gradient, self.unused = first_gradient(look, graph=self.form == "reverse")
        self.gradient: Params = {name: g.detach() for name, g in gradient.items()}
        if self.form == "reverse":
            self._attach(look.leaves, gradient)

    def _attach(self, leaves: Params, gradient: Params, deep: bool = False) -> None:
        self._leaves, self._deep = leaves, deep
        self._versions = {name: version(leaf) for name, leaf in leaves.items()}
        self._attached, self._directions = {(): gradient}, []

    def _exact(self, deep: bool) -> AbstractContextManager[None]:
        """Inside, operators are evaluated in a form that has the derivatives that will be asked for."""
        if self.form in ("difference", "gradient"):
            return nullcontext()
        # Forward mode knows torch's own rules only, which are right there.
        return mathematical("open" if deep else "twice" if self.form == "reverse" else "torch")

    def _backward(self) -> AbstractContextManager[None]:
        """Inside, checkpoints evaluate attention again as it was evaluated before."""
        return nullcontext() if self.form in ("difference", "gradient") else mathematical("torch")

    def hvp(self, v: Params) -> Params:
        """The Hessian times v."""
        return self.derivative(v)

    def derivative(self, *directions: Params) -> Params:
        """d^n g[v1, .., vn]; without directions the gradient.

        Raises `EoMError` if an operator has no such derivative, naming it, or if parameters were modified meanwhile.
        """
        if not directions:
            return self.gradient
        if self.form == "difference":
            return self._difference(directions, 1.0)
        if self.form == "gradient":
            raise EoMError("this point was made for its gradient alone: make it with another form to take derivatives")
        with _explained(self.form):
            return self._reverse(directions) if self.form == "reverse" else self._forward(directions)

    def _reverse(self, directions: tuple[Params, ...]) -> Params:
        if not self._attached or (self._once and len(directions) > 1):
            raise EoMError("this point was made for one product, with once=True: make it without to take more")
        for name, leaf in self._leaves.items():
            if version(leaf) != self._versions[name]:
                raise EoMError(
                    f"{name} was modified in place after the loss was evaluated, so its derivatives belong to no "
                    "point: take them before parameters change"
                )
        if len(directions) > 1 and not self._deep:
            with self._exact(deep=True):
                look = self._landscape.look()
                self._attach(look.leaves, first_gradient(look, graph=True)[0], deep=True)
        prefix: tuple[int, ...] = ()
        with self._backward():
            for v in directions[:-1]:
                longer = (*prefix, id(v))
                if longer not in self._attached:
                    self._directions.append(v)
                    self._attached[longer] = _along(self._attached[prefix], self._leaves, v, graph=True)
                prefix = longer
            out = _along(self._attached[prefix], self._leaves, directions[-1], graph=False, keep=not self._once)
        if self._once:
            self._attached = {}
        return out

    def _forward(self, directions: tuple[Params, ...]) -> Params:
        *others, last = directions
        load_forward_mode()
        with forward_ad.dual_level():
            with self._exact(deep=bool(others)):
                look = self._landscape.look(tangent=last)
            out, _ = first_gradient(look, graph=bool(others))
            for i, v in enumerate(others, 1):
                out = _along(out, look.leaves, v, graph=i < len(others), detach=False)
            tangents = {name: forward_ad.unpack_dual(x).tangent for name, x in out.items()}
        return {
            name: torch.zeros_like(self.gradient[name]) if t is None else t.detach() for name, t in tangents.items()
        }

    def _difference(self, directions: tuple[Params, ...], widen: float) -> Params:
        here = self._landscape.here
        eps = max(torch.finfo(p.dtype).eps for p in here.values())
        reach = widen * eps ** (1 / (len(directions) + 2)) * (1.0 + float(norm(here)))

        def shifted(shift: Terms, rest: tuple[Params, ...]) -> Params:
            if not rest:
                return gradient_at(self._landscape, shift=shift)
            *inner, v = rest
            length = float(norm(v))
            if length == 0.0:
                return {name: torch.zeros_like(p) for name, p in here.items()}
            h = reach / length
            ahead, behind = (shifted([*shift, (by, v)], tuple(inner)) for by in (h, -h))
            return combine([(0.5 / h, ahead), (-0.5 / h, behind)])

        return shifted((), directions)

    def difference_error(self, v: Params) -> float:
        """A bound of the relative error of the difference form of Hv: what changes if its reach is doubled.

        Doubling makes the error of truncation four times larger, so the change is about three times the error.
        """
        near, wide = self._difference((v,), 1.0), self._difference((v,), 2.0)
        return float(norm(combine([(1.0, near), (-1.0, wide)])) / norm(near).clamp_min(torch.finfo(torch.float64).tiny))


def first_gradient(look: Look, graph: bool) -> tuple[Params, frozenset[str]]:
    """The gradient, with zeros where the loss does not depend on a parameter, and the names of these parameters."""
    if look.gradient is not None:
        found = look.gradient
    else:
        if not look.loss.requires_grad:
            raise EoMError(
                "the loss depends on none of the parameters: it was detached, computed under no_grad, or the closure "
                "uses other parameters than the optimizer's"
            )
        grads = torch.autograd.grad(
            look.loss, list(look.leaves.values()), create_graph=graph, retain_graph=graph, allow_unused=True
        )
        found = {name: g for name, g in zip(look.leaves, grads, strict=True) if g is not None}
    for name, g in found.items():
        if g.layout != torch.strided:
            raise EoMError(f"the gradient of {name} is {g.layout}: make it dense (Embedding(sparse=False))")
    unused = frozenset(look.leaves.keys() - found.keys())
    if len(unused) == len(look.leaves):
        raise EoMError("the loss depends on none of the parameters: is this the closure of another model?")
    return {name: found[name] if name in found else torch.zeros_like(p) for name, p in look.leaves.items()}, unused


def gradient_at(landscape: Landscape, params: Params | None = None, shift: Terms = ()) -> Params:
    """The gradient alone, without a graph, at `params` or at here + `shift`."""
    return first_gradient(landscape.look(params, shift=shift), graph=False)[0]


def _along(gradient: Params, leaves: Params, v: Params, graph: bool, detach: bool = True, keep: bool = True) -> Params:
    """The derivative of <gradient, v> with respect to the leaves: by symmetry that of the gradient along v."""
    live = [name for name, g in gradient.items() if g.requires_grad]
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if live:
        found = torch.autograd.grad(
            [gradient[name] for name in live],
            list(leaves.values()),
            [v[name] for name in live],
            create_graph=graph,
            retain_graph=keep,
            allow_unused=True,
        )
    pairs = zip(leaves.items(), found, strict=True)
    out = {name: torch.zeros_like(p, requires_grad=False) if x is None else x for (name, p), x in pairs}
    return {name: x.detach() for name, x in out.items()} if detach and not graph else out


@contextmanager
def _explained(form: str) -> Iterator[None]:
    """Errors of autograd about a missing derivative, said so that one knows which operator and what to do."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if "inplace operation" in text:
            raise EoMError(f"a tensor was modified in place between the loss and its derivatives: {text}") from error
        if isinstance(error, CheckpointError):
            raise EoMError(
                "norms are evaluated in another form for derivatives beyond the second, and a checkpoint evaluates "
                "them again without it: use order 1, or hvp='difference', backend='gradients', or no checkpoints"
            ) from error
        missing = "not implemented" in text or "once_differentiable" in text or "does not support" in text
        missing = missing or "ZeroTensors" in text  # a bug of torch's forward mode, in mse_loss among others
        if not missing:
            raise
        named = re.search(r"(aten::\w+|_\w+_backward\w*|with (\w+) that does not support)", text)
        what = (named.group(2) or named.group(1)) if named else "an operator"
        raise MissingDerivative(what, form, text.splitlines()[0]) from error


class MissingDerivative(EoMError):
    """An operator lacks a derivative; gradients alone still work."""

    def __init__(self, what: str, form: str, why: str) -> None:
        other = "hvp='reverse' or " if form == "forward" else ""
        super().__init__(
            f"{what} has no derivative that the {form} form needs ({why}). Use {other}hvp='difference' (differences of "
            "gradients, with an error that is reported) or backend='gradients', or replace it by operators that can be "
            "differentiated twice"
        )


def nodes_of(loss: Tensor) -> Iterator[Any]:
    """The nodes of autograd's graph behind `loss`, each once."""
    seen = set[object]()
    stack: list[Any] = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [below for below, _ in node.next_functions]


def _once_differentiable(loss: Tensor) -> list[str]:
    """Custom functions in the graph of `loss` whose backward is once_differentiable.

    torch raises for them only where the gradient that they receive depends on parameters; else it takes their second
    derivative for zero, without a word.
    """
    functions = (function_of(node) for node in nodes_of(loss))
    return sorted({f.__name__ for f in functions if f is not None and hasattr(f.backward, "__wrapped__")})
