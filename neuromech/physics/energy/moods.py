"""Energies that are not quite functions: random ones are found out, spectral norms hold still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from neuromech.compat import OpOverload, TorchDispatchMode, hooks_before, run_eagerly, schema_of, unobserved


def draws(target: Any, args: Any, kwargs: Any) -> bool:
    """Does this operator take random numbers? Dropout in evaluation, or of nothing, does not."""
    if not isinstance(target, OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = dict(zip((a.name for a in schema_of(target).arguments), args, strict=False)) | dict(kwargs)
    if given.get("train", given.get("training", True)) is False:
        return False
    name = target.overloadpacket.__name__
    shares = [given[k] for k in ("dropout_p", "dropout", "p") if k in given]
    if any(word in name for word in ("dropout", "attention", "lstm", "gru", "rnn")):
        return not (shares and shares[0] == 0) and not ("attention" in name and not shares)
    return True


def random_nodes(graph: fx.Graph) -> list[fx.Node]:
    return random_nodes_of(list(graph.nodes))


def random_nodes_of(nodes: list[fx.Node]) -> list[fx.Node]:
    return [n for n in nodes if n.op == "call_function" and draws(n.target, n.args, n.kwargs)]


# What hands out the content of a tensor; beside the operators in `_NUMBERS`, which others call inside of C++.
_HANDS_OUT = {"item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "data_ptr"}
_HANDS_OUT |= {f"__{name}__" for name in ("float", "int", "bool", "index", "complex", "array", "dlpack", "contains")}
_NUMBERS = {"_local_scalar_dense", "equal", "is_nonzero"}


class NumbersTaken(TorchFunctionMode):
    """Notes whether numbers are taken out of tensors while it is on (`taken`).

    Of tensors that are there already, they are the true ones also in a trace, whose tensors have no content; so they
    are of those that stand in the trace for others, `real` by the ids of what stands for them.
    """

    def __init__(self, real: dict[int, Tensor] | None = None) -> None:
        super().__init__()
        self.taken, self.real = False, real or {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") not in _HANDS_OUT:
            return func(*args, **(kwargs or {}))
        self.taken = True
        args = tuple([self.real.get(id(x), x) for x in args])
        if all(type(x) in (Tensor, nn.Parameter) for x in args if isinstance(x, Tensor)):
            with unobserved():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class RandomOperators(TorchDispatchMode):
    """Notes the operators that draw random numbers while it is on, and whether others take numbers out of tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.takes_numbers = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if draws(func, args, kwargs or {}) and str(func) not in self.names:
            self.names.append(str(func))
        self.takes_numbers |= func.overloadpacket.__name__ in _NUMBERS
        return func(*args, **(kwargs or {}))


def _power_iterations(energy: Callable[..., Any]) -> list[nn.Module]:
    """Spectral norms in training mode: each evaluation moves their buffers, and with them the energy."""
    if not isinstance(energy, nn.Module):
        return []

    def iterates(m: nn.Module) -> bool:
        return type(m).__name__ == "_SpectralNorm" or any(
            type(hook).__name__ == "SpectralNorm" for hook in hooks_before(m)
        )

    return [m for m in energy.modules() if m.training and iterates(m)]


@contextmanager
def steady(energy: Callable[..., Any]) -> Iterator[None]:
    """Spectral norms stay as they are, so that the energy is one function meanwhile; compiled code runs as written."""
    still = _power_iterations(energy)
    for m in still:
        m.training = False
    try:
        with run_eagerly():
            yield
    finally:
        for m in still:
            m.training = True


def advance(energy: Callable[..., Any], u: Tensor) -> None:
    """One power iteration of every spectral norm in training mode, as a forward pass makes it."""
    if _power_iterations(energy):
        with torch.no_grad(), run_eagerly():
            energy(u.detach())
