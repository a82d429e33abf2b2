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

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from neuromech.compat import called_with, compiled_from, is_transformed, left_uncompiled, untransformed
from neuromech.errors import PhysicsError
from neuromech.physics.energy.graph import CONSTANT, LOST, MIDPOINT, check_energy, outside, squeezed
from neuromech.physics.energy.guards import Fact, facts
from neuromech.physics.energy.moods import NumbersTaken, RandomOperators, advance, steady
from neuromech.physics.energy.states import check_independent, check_states, example_of, in_short
from neuromech.physics.energy.traces import KEPT, Sweep, Traced, filled, kind_of, traced_sweep
from neuromech.physics.energy.untraced import EnergyFunction, averaged_gradient, corrected_midpoint_gradient

RESTLESS = (
    "so that no discrete gradient belongs to it. Does it read something that changes from call to call, as a counter, "
    "the time or random numbers?"
)
GradientForm = Literal["chain", "average", "midpoint"]


def discrete_gradient(energy: EnergyFunction, form: GradientForm = "chain", *, nodes: int = 4) -> DiscreteGradient:
    """The discrete gradient of `energy`, a function of (u, v) that can be trained through and batched.

    `energy` is a function or an nn.Module: a state [...] to a number, or a batch [B, ...] to [B] or to a number.
    `nodes`: of the quadrature of the average form. See `DiscreteGradient` for what is traced and what is raised.
    """
    return DiscreteGradient(energy, form, nodes=nodes)


class DiscreteGradient:
    """`dg(u, v)`: the discrete gradient of an energy between two states of one shape.

    The chain form is traced at the first call for each shape, dtype and device. Tensors are live: parameters may be
    trained or replaced. Whatever else the energy reads (attributes, sub-modules, modes, closures, globals) is compared
    at every call with what the trace has read, and the identity is checked on one sample; where either fails, the
    energy is traced anew. So it is inside of vmap; compilers leave the call as it is, at a break of their graph.

    Raises `PhysicsError` for states that do not match or are not finite, for an energy that is not one number a
    sample, that is random or changes from call to call, for samples that depend on one another, and for an operator
    without a rule, by name.
    """

    def __init__(self, energy: EnergyFunction, form: GradientForm = "chain", *, nodes: int = 4) -> None:
        if form not in ("chain", "average", "midpoint"):
            raise PhysicsError(f"form {form!r} is not one of 'chain', 'average', 'midpoint'")
        if not callable(energy):
            raise PhysicsError(f"an energy is a function of the state, not {type(energy).__name__}")
        if nodes < 1:
            raise PhysicsError(f"a quadrature has at least one node, not {nodes}")
        if isinstance(energy, torch.jit.ScriptModule) and form == "chain":
            raise PhysicsError(
                "a scripted module hides its operators: give the module that it was scripted from, or take "
                'form="midpoint"'
            )
        self._energy, self.form, self.nodes = energy, form, nodes
        self._traces: list[Traced] = []  # the latest used first
        self._takes_numbers = False

    @property
    def energy(self) -> EnergyFunction:
        """Assigned, it is this energy's discrete gradient from now on."""
        return self._energy

    @energy.setter
    def energy(self, energy: EnergyFunction) -> None:
        if not callable(energy):
            raise PhysicsError(f"an energy is a function of the state, not {type(energy).__name__}")
        self._energy = energy
        self.retrace()

    def following(self, energy: EnergyFunction) -> DiscreteGradient:
        """Itself, that of `energy` from now on: of what holds an energy that may be exchanged."""
        if self._energy is not energy:
            self.energy = energy
        return self

    def __call__(self, u: Tensor, v: Tensor, condition: Tensor | None = None) -> Tensor:
        """`condition` [B, ...]: what the energy takes beside the state, H(u, condition), the same at both states."""
        check_states(u, v)
        return self.guarded(u, v, condition)  # type: ignore[no-any-return]

    @left_uncompiled
    def guarded(self, u: Tensor, v: Tensor, condition: Tensor | None = None) -> Tensor:
        """The same, of states that are known to match: what has changed since the trace is traced anew."""
        self.guard(u, condition)
        out: Tensor = self.unchecked(u, v, condition)
        if self.form == "chain" and not self._holds(u, v, out, condition):
            self.retrace()
            self.guard(u, condition)
            out = self.unchecked(u, v, condition)
            if not self._holds(u, v, out, condition, slack=1e3):
                raise PhysicsError(
                    "the energy is not the function that was traced: evaluated again it gives other values, "
                    f"{RESTLESS} Or has an operator a registered rule that is wrong?"
                )
        return out

    def unchecked(self, u: Tensor, v: Tensor, condition: Tensor | None = None) -> Tensor:
        """The same without a look at states and energy: what solvers and function transforms call many times."""
        traced = self._admit(u, condition)
        if self.form == "chain":
            sweep, samples = self._sweep(traced, u, condition), len(u) if u.ndim > 1 else 0
            rows = sweep.size_for(samples, traced.per_sample)
            u, v, condition = (filled(x, samples, rows) for x in (u, v, condition))
            beside = () if condition is None else (condition,)
            out: Tensor = sweep.module.forward(*self._live(), *beside, u, v)
            return out[:samples] if rows > samples else out
        value = partial(self.value, condition=condition)
        if self.form == "average":
            return averaged_gradient(value, u, v, self.nodes)
        return corrected_midpoint_gradient(value, u, v)

    def starting(self, v: Tensor, condition: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """u -> DH(u, v), for many u: what depends on v alone is evaluated once. Without gradients by parameters."""
        traced = self._admit(v, condition)
        if self.form != "chain" or v.ndim < 2:
            return lambda u: self.unchecked(u, v, condition)
        sweep = self._sweep(traced, v, condition)
        if sweep.size_for(len(v), traced.per_sample) != len(v):
            return lambda u: self.unchecked(u, v, condition)
        before, after = sweep.halves
        with torch.no_grad():
            kept = before.forward(*self._live(), *(() if condition is None else (condition,)), v)
        return lambda u: after.forward(u, *kept)

    def guard(self, u: Tensor, condition: Tensor | None = None) -> None:
        """Choose the trace of the energy as it is now, or begin a new one."""
        now = self._facts()
        for k, traced in enumerate(self._traces):
            if traced.fits(now):
                self._traces.insert(0, self._traces.pop(k))
                break
        else:
            self._traces = [Traced(now), *self._traces[: KEPT - 1]]
        self._admit(u, condition)
        if not is_transformed(u):
            advance(self._energy, u)

    @torch.no_grad()
    def look(self, u: Tensor, condition: Tensor | None = None) -> None:
        """`guard`, and the identity at one sample: some changes are seen in what the energy does alone."""
        self.guard(u, condition)
        self.guarded(u + example_of(u), u, condition)

    def gradient(self, u: Tensor, condition: Tensor | None = None) -> Tensor:
        """grad H(u), by the same graph: what the discrete gradient is at equal states."""
        return self.unchecked(u, u, condition)

    def graph(self, u: Tensor, condition: Tensor | None = None) -> fx.GraphModule:
        """The traced sweep for states such as `u`: a GraphModule of (tensors of the energy..., condition, u, v)."""
        self.guard(u, condition)
        return self._sweep(self._traces[0], u, condition).module

    def retrace(self) -> None:
        """Forget the traced graphs."""
        self._traces.clear()

    def value(self, u: Tensor, condition: Tensor | None = None) -> Tensor:
        """H(u), (), or [B] where the energy gives [B, 1]."""
        with steady(self._energy):
            value: Tensor = squeezed(self._energy(u) if condition is None else self._energy(u, condition), u)
            return value

    def _first_value(self, traced: Traced, u: Tensor, condition: Tensor | None) -> Tensor:
        """That of a kind of state not met before."""
        try:
            return self.value(u, condition)
        except Exception as error:
            sizes = [shape[0] for shape, *_ in traced.admitted if u.ndim == len(shape) > 1 and shape[1:] == u.shape[1:]]
            if sizes:
                raise PhysicsError(
                    f"the energy serves batches of {sizes[0]} samples and fails for one of {len(u)}: what it has for "
                    f"each sample, let it take as a condition, energy(u, condition) ({in_short(error)})"
                ) from error
            error.add_note(f"raised by the energy, of states of shape {tuple(u.shape)}")
            raise

    def _admit(self, u: Tensor, condition: Tensor | None = None) -> Traced:
        """Look, once for each kind of state, at what the energy makes of it; the chain form looks closer in tracing."""
        if not self._traces:
            self._traces = [Traced(self._facts())]
        traced, key = self._traces[0], kind_of(u, condition)
        if key in traced.admitted:
            return traced
        if u.device.type == "meta":
            raise PhysicsError("the states are on the meta device and have no values: bring them to a real one")
        with outside(), torch.no_grad():
            example = example_of(u)
            if any(is_lazy(t) for t in self._live()):
                self.value(example, condition)
            with RandomOperators() as drawn, NumbersTaken() as numbers:
                first = self._first_value(traced, example, condition)
            check_energy(first, example)
            if drawn.names:
                raise PhysicsError(
                    f"the energy draws random numbers ({', '.join(drawn.names)}), so it is not a function of u: "
                    "an energy has no random part: call .eval() on the module, or draw once and keep what was drawn"
                )
            if not traced.admitted:
                self._takes_numbers |= numbers.taken or drawn.takes_numbers
                before = self._facts()
                again = self.value(example.clone(), condition)
                traced.settle(before, self._facts())
                if not _alike(first, again) and not _alike(again, self.value(example.clone(), condition)):
                    raise PhysicsError(f"the energy gives other values when it is evaluated again, {RESTLESS}")
        if self.form != "chain":
            check_independent(partial(self.value, condition=condition), example)
        traced.admitted.add(key)
        return traced

    def _holds(self, u: Tensor, v: Tensor, g: Tensor, condition: Tensor | None, slack: float = 1.0) -> bool:
        """Is <g, u - v> = H(u) - H(v) by the energy itself? Of the sample that moves most, if samples are their own."""
        if any(is_transformed(t) for t in self._live()):  # as many energies as weights
            return True
        with outside(), torch.no_grad():
            u, v, g = (untransformed(t).detach() for t in (u, v, g))
            condition = None if condition is None else untransformed(condition)
            d, traced = u - v, self._traces[0]
            if not (u.ndim > 1 and len(u) and traced.per_sample):
                return _agree(g, d, float(self.value(u, condition).sum()), float(self.value(v, condition).sum()), slack)
            k = int(d.flatten(1).abs().amax(1).argmax()) if len(u) > 1 else 0
            if not traced.knows_its_size:
                both = None if condition is None else condition[[k, k]] if condition.ndim else condition
                with suppress(Exception):  # it may have as many samples as were given, and no other number
                    at_u, at_v = self.value(torch.stack([u[k], v[k]]), both).tolist()
                    if _agree(g[k], d[k], at_u, at_v, slack):
                        return True
            holds = _agree(g[k], d[k], float(self.value(u, condition)[k]), float(self.value(v, condition)[k]), slack)
            traced.knows_its_size |= holds
            return holds

    def _sweep(self, traced: Traced, u: Tensor, condition: Tensor | None) -> Sweep:
        """That of states such as `u`; one that was traced of other sizes of the batch, where it admits this one."""
        beside = None if condition is None else (condition.ndim and len(condition) == len(u), condition.shape[1:])
        live = tuple((p.shape, p.dtype) for p in self._live())
        key = (u.ndim, u.shape[min(1, u.ndim - 1) :], u.dtype, u.device, beside, live)
        known = traced.sweeps.setdefault(key, [])
        for sweep in known:
            if u.ndim == 1 or sweep.size_for(len(u), traced.per_sample):
                return sweep
        with outside(), steady(self._energy):
            known.append(self._trace(traced, u, condition))
        return known[-1]

    def _facts(self) -> Fact:
        return facts(self._energy, self._takes_numbers)

    def _live(self) -> list[Tensor]:
        return list(_tensors_of(compiled_from(self._energy)).values())

    def _trace(self, traced: Traced, u: Tensor, condition: Tensor | None) -> Sweep:
        function = compiled_from(self._energy)
        names = list(_tensors_of(function))

        def energy(*tensors: Tensor) -> Tensor:
            *given, u = tensors
            beside = given[len(names) :]
            with NumbersTaken({id(t): x for t, x in zip(given, self._live(), strict=False) if not x.requires_grad}):
                if isinstance(function, nn.Module) and names:
                    live = dict(zip(names, given[: len(names)], strict=True))
                    value: Tensor = called_with(function, live, (u, *beside))
                else:
                    value = function(u, *beside)
            energies: Tensor = squeezed(value, u)
            return energies

        def check(u: Tensor, condition: Tensor | None) -> bool:
            return check_independent(partial(self.value, condition=condition), u)

        def traced_of(u: Tensor, condition: Tensor | None, any_size: bool) -> Sweep:
            return traced_sweep(energy, self._live(), condition, u, any_size)

        if u.ndim > 1:
            with suppress(Exception):  # it asks for the size of the batch, or has no discrete gradient of any size
                two, twice = (filled(x, len(u), max(2, len(u))) for x in (u, condition))
                per_sample = check(two, twice)
                if per_sample or len(u) > 1:
                    sweep = traced_of(two, twice, True)
                    traced.per_sample = per_sample
                    return sweep
        try:
            sweep = traced_of(u, condition, False)
        except PhysicsError as error:
            if str(error) == CONSTANT:
                check(u, condition)  # says so, if it is one
                raise PhysicsError(LOST) from error
            raise
        except Exception as error:
            check(u, condition)  # says so, if autograd has no way through it
            raise PhysicsError(
                f"the energy cannot be traced, write it in operators of torch, or {MIDPOINT} ({in_short(error)})"
            ) from error
        traced.per_sample = check(u, condition)
        return sweep

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_traces": []}


def _agree(g: Tensor, d: Tensor, at_u: float, at_v: float, slack: float) -> bool:
    """Is <g, d> = at_u - at_v, as far as the half of the digits tells? So it is of what is not finite."""
    terms = (g * d).reshape(-1)
    change, length = torch.stack([terms.sum(), terms.abs().sum()]).tolist()
    size = abs(at_u) + abs(at_v) + length
    bound = slack * torch.finfo(g.dtype).eps ** 0.5 * size
    return not math.isfinite(size) or abs(change - (at_u - at_v)) <= bound


def _alike(a: Tensor, b: Tensor) -> bool:
    """Values of the same states, but for the order of sums; what is not finite is like anything."""
    bound = torch.finfo(a.dtype).eps ** 0.75 * (1 + a.abs() + b.abs()).max()
    return not bool(((a - b).abs() > bound).any())


def _tensors_of(energy: EnergyFunction) -> dict[str, Tensor]:
    if not isinstance(energy, nn.Module) or isinstance(energy, torch.jit.ScriptModule):
        return {}
    return dict(energy.named_parameters()) | dict(energy.named_buffers())
