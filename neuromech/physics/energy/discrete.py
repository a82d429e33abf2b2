"""Discrete gradients: DH(u, v) with <DH(u, v), u - v> = H(u) - H(v) and DH(u, u) = grad H(u).

Three of them, with one interface. Shapes: a state [...], or a batch of states [B, ...] whose energies are [B] or their
sum; the discrete gradient has the shape of the state.

    chain     automatic discrete differentiation (Matsubara et al., NeurIPS 2020): the energy's graph is run at both
              states, then swept in reverse with every operator's discrete chain rule. The identity holds to rounding.
    average   the averaged vector field, the mean of grad H on the segment between the states (McLachlan et al. 1999),
              by Gauss-Legendre quadrature; the identity holds to the error of the quadrature.
    midpoint  Gonzalez (1996): grad H at the midpoint, corrected along u - v. To rounding, except where u - v is tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from neuromech.compat import is_transformed
from neuromech.errors import PhysicsError
from neuromech.physics.energy.graph import CONSTANT, check_energy, energy_graph, outside, trace
from neuromech.physics.energy.secants import gauss_legendre
from neuromech.physics.energy.sweep import discrete_sweep
from neuromech.physics.energy.transposes import TRANSPOSES

GradientForm = Literal["chain", "average", "midpoint"]
Energy = Callable[[Tensor], Tensor]


def discrete_gradient(energy: Energy, form: GradientForm = "chain", *, nodes: int = 4) -> DiscreteGradient:
    """The discrete gradient of `energy`, a function of (u, v) that can be trained through and batched.

    `energy` is a function or an nn.Module: a state [...] to a number, or a batch [B, ...] to [B] or to a number.
    `nodes`: of the quadrature of the average form. See `DiscreteGradient` for what is traced and what is raised.
    """
    return DiscreteGradient(energy, form, nodes=nodes)


class DiscreteGradient:
    """`dg(u, v)`: the discrete gradient of an energy between two states of one shape.

    The chain form is traced at the first call for each shape, dtype and device. Tensors are live: parameters may be
    trained or replaced (if `energy` is the module itself). Python numbers that the energy reads are part of the graph:
    after changing one, call `retrace()`.

    Raises `PhysicsError` for states that do not match or are not finite, for an energy that is not one number a
    sample, for samples that depend on one another, and for an operator without a rule, by name.
    """

    def __init__(self, energy: Energy, form: GradientForm = "chain", *, nodes: int = 4) -> None:
        if form not in ("chain", "average", "midpoint"):
            raise PhysicsError(f"form {form!r} is not one of 'chain', 'average', 'midpoint'")
        if not callable(energy):
            raise PhysicsError(f"an energy is a function of the state, not {type(energy).__name__}")
        if nodes < 1:
            raise PhysicsError(f"a quadrature has at least one node, not {nodes}")
        self.energy, self.form, self.nodes = energy, form, nodes
        self._sweeps: dict[tuple[Any, ...], fx.GraphModule] = {}
        self._admitted: set[tuple[Any, ...]] = set()

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        _check_states(u, v)
        return self.unchecked(u, v)

    def unchecked(self, u: Tensor, v: Tensor) -> Tensor:
        """The same without a look at the states: what solvers and function transforms call many times."""
        self._admit(u)
        if self.form == "average":
            return averaged_gradient(self.energy, u, v, self.nodes)
        if self.form == "midpoint":
            return corrected_midpoint_gradient(self.energy, u, v)
        out: Tensor = self.graph(u)(*self._live(), u, v)
        return out

    def _admit(self, u: Tensor) -> None:
        """Look, once for each kind of state, at what the energy makes of it; the chain form looks closer in tracing."""
        key = (u.shape, u.dtype, u.device)
        if key in self._admitted:
            return
        with outside(), torch.no_grad():
            example = _example(u)
            check_energy(self.energy(example), example)
        if self.form != "chain":
            _check_independent(self.energy, example)
        self._admitted.add(key)

    def gradient(self, u: Tensor) -> Tensor:
        """grad H(u), by the same graph: what the discrete gradient is at equal states."""
        return self.unchecked(u, u)

    def graph(self, u: Tensor) -> fx.GraphModule:
        """The traced sweep for states such as `u`: a GraphModule of (tensors of the energy..., u, v)."""
        training = self.energy.training if isinstance(self.energy, nn.Module) else False
        state = self._live()
        key = (u.shape, u.dtype, u.device, training, *((p.shape, p.dtype) for p in state))
        if key not in self._sweeps:
            with outside():  # fresh tensors: the caller's may belong to a function transform
                *given, u, v = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (*state, u, u))
                self._sweeps[key] = self._trace(given, u, v)
        return self._sweeps[key]

    def retrace(self) -> None:
        """Forget the traced graphs: the energy reads other Python values from now on."""
        self._sweeps.clear()

    def _live(self) -> list[Tensor]:
        return list(_tensors_of(self.energy).values())

    def _trace(self, state: list[Tensor], u: Tensor, v: Tensor) -> fx.GraphModule:
        names = list(_tensors_of(self.energy))

        def energy(*tensors: Tensor) -> Tensor:
            *given, u = tensors
            if isinstance(self.energy, nn.Module):
                out: Tensor = torch.func.functional_call(self.energy, dict(zip(names, given, strict=True)), (u,))
                return out
            return self.energy(u)

        sweep = discrete_sweep(energy_graph(energy, state, u))
        _check_independent(self.energy, u)
        module = trace(sweep, *state, u, v, table=TRANSPOSES, whole=False)
        for node in module.graph.nodes:  # autograd protects what it saves by `detach`, which would cut the training
            if node.target is torch.ops.aten.detach.default:
                node.replace_all_uses_with(node.args[0])
        module.graph.eliminate_dead_code()
        module.recompile()
        return module

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_sweeps": {}, "_admitted": set()}


def _tensors_of(energy: Energy) -> dict[str, Tensor]:
    if not isinstance(energy, nn.Module):
        return {}
    return dict(energy.named_parameters()) | dict(energy.named_buffers())


def _example(u: Tensor) -> Tensor:
    """A state such as `u`, without a touch of the user's random numbers."""
    generator = torch.Generator(u.device).manual_seed(0)
    return torch.rand(u.shape, dtype=u.dtype, device=u.device, generator=generator)


def _check_independent(energy: Energy, example: Tensor) -> None:
    """Energies [B] of a batch are each of their own sample, or the identity would hold for their sum alone."""
    with outside(), torch.enable_grad():
        u = _example(example).requires_grad_()
        energies = energy(u)
        if not energies.requires_grad:
            raise PhysicsError(CONSTANT)
        if energies.ndim == 0 or len(energies) < 2:
            return
        (gradient,) = torch.autograd.grad(energies[0], u, allow_unused=True)
    if gradient is None:
        raise PhysicsError(CONSTANT)
    if (gradient[1:] != 0).any():
        raise PhysicsError(
            f"the energy of the first of {len(energies)} samples depends on the others, so no sample has a law of its "
            "own: let each energy depend on its own sample, or return their sum, one number"
        )


def averaged_gradient(energy: Energy, u: Tensor, v: Tensor, nodes: int) -> Tensor:
    """The mean of grad H over the segment from v to u, by `nodes` Gauss-Legendre points."""
    middle, half = (u + v) / 2, (u - v) / 2
    gradient = torch.func.grad(lambda w: energy(w).sum())
    total = torch.zeros_like(u)
    for x, weight in gauss_legendre(nodes):
        total = total + weight * gradient(middle + x * half)
    return total


def corrected_midpoint_gradient(energy: Energy, u: Tensor, v: Tensor) -> Tensor:
    """g + (H(u) - H(v) - <g, d>) d / |d|^2 with g = grad H at the midpoint and d = u - v (Gonzalez 1996, eq. 2.7)."""
    d = u - v
    g = torch.func.grad(lambda w: energy(w).sum())((u + v) / 2)
    change = energy(u) - energy(v)
    axes = list(range(change.ndim, d.ndim))

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(axes, keepdim=True) if axes else x * y

    square = inner(d, d)
    zero = square == 0
    defect = change.reshape(square.shape) - inner(g, d)
    return g + torch.where(zero, 0.0, defect / torch.where(zero, 1.0, square)) * d


def _check_states(u: Tensor, v: Tensor) -> None:
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
    if _is_transformed(state) or torch.isfinite(state).all():
        return
    bad = ~torch.isfinite(state)
    count, where = int(bad.sum()), torch.nonzero(bad)[0].tolist()
    raise PhysicsError(
        f"{what} holds {count} values that are not finite, the first at index {where}: the trajectory has diverged, or "
        "the data is corrupt"
    )


def _is_transformed(t: Tensor) -> bool:
    """Inside vmap, jvp or a compiler there are no values to look at."""
    return is_transformed(t) or torch.compiler.is_compiling()
