"""Parameters changed in place: nothing of a model is touched but the numbers in the parameters that move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuromech.errors import SymmetryError, warn
from neuromech.params import unwrapped
from neuromech.symmetry import Symmetry


@torch.no_grad()
def transform(model: nn.Module, symmetry: Symmetry, alpha: float | Tensor, i: int | None = None) -> nn.Module:
    """Move `model` along `symmetry` in place, as `symmetry.transform` says, and return it.

    `alpha`: the distance, a real number for all members (or for member `i` alone) or [size], one a member; 0 stays, and
    -alpha goes back. A scale or rescale symmetry multiplies by exp(alpha * weight): for a factor c pass log(c).
    Computed in float64 and rounded once to each parameter's own dtype. Gradients, buffers (running statistics of a
    batch norm among them), optimizer states and random numbers stay as they are. DDP, DataParallel and compiled models
    are unwrapped; in DDP call it on every rank.

    Raises `SymmetryError`, and changes nothing, if the symmetry does not fit the model or `alpha`, if a parameter is
    sharded or has no values (meta), or if a result does not fit a parameter's dtype.
    """
    if torch.as_tensor(alpha).is_complex() or not bool(torch.isfinite(torch.as_tensor(alpha)).all()):
        raise SymmetryError(f"alpha must be finite and real, it is {alpha}")
    distance = torch.as_tensor(alpha, dtype=torch.float64, device="cpu").detach()
    params = own_parameters(model, symmetry)
    own = replace(symmetry, terms=tuple(replace(t, parameter=first_name(model, t.parameter)) for t in symmetry.terms))
    wide = {name: params[name].double() for name in own.parameters}
    assign(params, own.transform(wide, distance, i))
    return model


def first_name(model: nn.Module, name: str) -> str:
    """The name under which `named_parameters` lists a parameter that may have several; unknown names stay."""
    inside = unwrapped(model)
    every = dict(inside.named_parameters(remove_duplicate=False))
    return next((first for first, p in inside.named_parameters() if p is every.get(name)), name)


def own_parameters(model: nn.Module, *symmetries: Symmetry) -> dict[str, nn.Parameter]:
    """The parameters of the bare model under all their names, checked to be such as `symmetries` can move."""
    params = dict(unwrapped(model).named_parameters(remove_duplicate=False))
    for s in symmetries:
        s.check(params)
        for name in s.parameters:
            p = params[name]
            if hasattr(p, "full_tensor"):
                raise SymmetryError(f"{name} is sharded (DTensor): gather the whole model, move it, and shard it again")
            if p.is_meta:
                raise SymmetryError(f"{name} is on the meta device: it has no values that could change")
            if not p.is_floating_point():
                raise SymmetryError(f"{name} is {p.dtype}: only real floating-point numbers can be moved")
    return params


@torch.no_grad()
def assign(params: Mapping[str, nn.Parameter], new: Mapping[str, Tensor]) -> None:
    """Write the values `new` into `params`, all or none.

    Raises `SymmetryError` if a finite number would become infinite; warns if one would become zero.
    """
    narrow = {name: v.to(params[name].dtype) for name, v in new.items()}
    lost = []
    for name, v in narrow.items():
        if not bool((torch.isfinite(v) | ~torch.isfinite(params[name])).all()):
            raise SymmetryError(
                f"{name} would not fit {params[name].dtype} any more: move less far, or use a wider type"
            )
        if bool(((v == 0) & (new[name] != 0)).any()):
            lost.append(name)
    if lost:
        warn(
            f"some entries of {', '.join(lost)} became so small that their dtype holds zero instead: the function is "
            "not quite the same",
            "underflow",
            short="moved weights became too small for their dtype",
        )
    for name, v in narrow.items():
        params[name].copy_(v)
