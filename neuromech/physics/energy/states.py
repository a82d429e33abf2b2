"""States and energies, looked at before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neuromech.compat import is_transformed
from neuromech.errors import PhysicsError
from neuromech.physics.energy.graph import CONSTANT, outside


def in_short(error: Exception, most: int = 160) -> str:
    """The kind of an error, and the first line of what it says."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:most].rstrip()}{'...' if len(line) > most else ''}"


def example_of(u: Tensor) -> Tensor:
    """A state such as `u`, without a touch of the user's random numbers."""
    generator = torch.Generator(u.device).manual_seed(0)
    return torch.rand(u.shape, dtype=u.dtype, device=u.device, generator=generator)


def check_independent(energy: Callable[..., Tensor], example: Tensor) -> bool:
    """Energies [B] of a batch are each of their own sample, or the identity would hold for their sum alone.

    True if there is one a sample.
    """
    with outside(), torch.enable_grad():
        u = example_of(example).requires_grad_()
        try:
            energies = energy(u)
        except PhysicsError:
            raise
        except Exception as error:
            kind = f"{u.dtype} states of shape {tuple(u.shape)}"
            raise PhysicsError(f"the energy fails for {kind} that require gradients ({in_short(error)})") from error
        try:
            if not energies.requires_grad:
                raise PhysicsError(CONSTANT)
            is_one_each = energies.ndim > 0
            (gradient,) = torch.autograd.grad(energies[0] if is_one_each else energies, u, allow_unused=True)
        except PhysicsError:
            raise
        except Exception as error:
            advice = "; cut the source of a scatter to the shape of its index" if "Scatter" in str(error) else ""
            raise PhysicsError(f"autograd cannot differentiate the energy{advice} ({in_short(error)})") from error
        if not is_one_each or len(energies) < 2:
            return is_one_each
    if gradient is None:
        raise PhysicsError(CONSTANT)
    if (gradient[1:] != 0).any():
        raise PhysicsError(
            f"the energy of the first of {len(energies)} samples depends on the others, so no sample has a law of its "
            "own: let each energy depend on its own sample, or return their sum, one number"
        )
    return True


def check_tensors(**values: object) -> None:
    """Raise `PhysicsError` for what is neither a tensor nor None, by name."""
    for name, x in values.items():
        if not isinstance(x, Tensor | None):
            raise PhysicsError(f"{name} is {type(x).__name__}; expected a tensor, as torch.as_tensor({name}) makes one")


def check_states(u: Tensor, v: Tensor) -> None:
    for name, state in (("u", u), ("v", v)):
        if not isinstance(state, Tensor) or not state.is_floating_point():
            found = str(state.dtype) if isinstance(state, Tensor) else type(state).__name__
            raise PhysicsError(f"the state {name} is {found}; expected a tensor of real floating-point numbers")
    if u.shape != v.shape or u.dtype != v.dtype or u.device != v.device:
        raise PhysicsError(
            f"the states differ: u is {tuple(u.shape)} {u.dtype} on {u.device}, v is {tuple(v.shape)} {v.dtype} on "
            f"{v.device}; give both one shape, dtype and device"
        )
    for name, state in (("u", u), ("v", v)):
        check_finite(state, f"the state {name}")


def check_finite(state: Tensor, what: str) -> None:
    """Raise `PhysicsError` naming the first samples of `state` [B, ...] that hold nan or inf."""
    if hides_values(state) or torch.isfinite(state).all():
        return
    bad = ~torch.isfinite(state)
    count, where = int(bad.sum()), torch.nonzero(bad)[0].tolist()
    raise PhysicsError(
        f"{what} holds {count} values that are not finite, the first at index {where}: the trajectory has diverged, or "
        "the data is corrupt"
    )


def hides_values(t: Tensor) -> bool:
    """Inside vmap, jvp or a compiler there are no values to look at."""
    return is_transformed(t) or torch.compiler.is_compiling()
