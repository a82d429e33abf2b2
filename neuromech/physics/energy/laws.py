"""Does a structure keep the law that it declares? Asked of it at random, before anything is trusted to it."""

from __future__ import annotations

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy.graph import outside
from neuromech.physics.energy.structure import Structure

SAMPLES, SIZE = 16, 6


def power(structure: Structure, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """<g, G(u) g> of every sample, what the structure adds to the energy a unit of time, and |g| |G(u) g|: [B], [B]."""
    flow = structure(g, u)
    g, flow = g.flatten(1), flow.flatten(1)
    return (g * flow).sum(1), g.norm(dim=1) * flow.norm(dim=1)


def probe_law(structure: Structure, like: Tensor | None = None) -> None:
    """Raise `PhysicsError` if at random gradients and states, of the shape of `like` [B, ...], the law does not hold.

    Without `like`, of a shape that the structure takes; if none is known, nothing is asked.
    """
    inner = getattr(structure, "structure", None)
    if isinstance(inner, Structure):
        probe_law(inner, like)
    if structure.law == "open":
        return
    if structure.law not in ("conserves", "dissipates"):
        raise PhysicsError(
            f"the law of {type(structure).__name__} is {structure.law!r}; expected 'conserves', 'dissipates' or 'open'"
        )
    real = [t for t in (*structure.parameters(), *structure.buffers()) if t.is_floating_point()]
    tensor = real[0] if real else like
    dtype, device = (torch.float64, torch.device("cpu")) if tensor is None else (tensor.dtype, tensor.device)
    if device.type == "meta":
        return
    shape = like.shape[1:] if like is not None else [SIZE] * (structure.ndim - 1) + [structure.size or SIZE]
    draw = torch.Generator().manual_seed(0)
    g, u = torch.randn(2, SAMPLES, *shape, generator=draw, dtype=torch.float64).to(device, dtype)
    try:
        with outside(), torch.no_grad():
            gained, size = (x.double().cpu() for x in power(structure, g, u))
    except Exception:
        if like is None:  # it may be made for states of another shape, which are looked at when they come
            return
        raise
    wrong = (gained.abs() if structure.law == "conserves" else gained) > 1e3 * torch.finfo(dtype).eps * size
    if any(wrong.tolist()):
        k = int(wrong.int().argmax())
        is_zero = "0 where energy is conserved (G skew: A - A^T)"
        wanted = is_zero if structure.law == "conserves" else "at most 0 where it dissipates (-L L^T, a skew part)"
        raise PhysicsError(
            f"{type(structure).__name__} says that it {structure.law} energy, but at a random state <g, G(u) g> is "
            f"{float(gained[k]):.3g}, of |g| |G g| = {float(size[k]):.3g}; it is {wanted}. Mend its forward, or "
            "declare its law"
        )
