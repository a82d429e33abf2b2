"""Does a rule do what its optimizer does? A few steps of a real one, on a small problem in float64, beside the rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from neuromech.optimizers.reading import ParameterReader
from neuromech.optimizers.rule import Rule

Factory = Callable[[Sequence[nn.Parameter]], Optimizer]
STEPS = 4
TOLERANCE = 1e-9  # relative to the step; formulas that are equal differ by 1e-13 or so, other ones by far more


def fault_of_class(cls: type[Optimizer], rule: Rule, make: Factory | None = None) -> str | None:
    """What the rule gets wrong about optimizers of a class; "": nothing; None: no optimizer could be made."""
    lr: dict[str, Any] = {"lr": 1e-2}
    ways = [make] if make else [lambda ps: cls(ps), lambda ps: cls(ps, **lr)]  # type: ignore[call-arg]
    for way in ways:
        params = _parameters(rule)
        try:
            optimizer = way(params)
        except Exception:
            if make:
                raise
            continue
        return fault(optimizer, rule, params)
    return None


def fault_of(optimizer: Optimizer, rule: Rule) -> str | None:
    """What the rule gets wrong about an optimizer: a twin of it, told the same, is put to the test."""
    takes = inspect.signature(type(optimizer).__init__).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    told = {key: x for key, x in optimizer.defaults.items() if free or key in takes}
    params = _parameters(rule)
    try:
        twin = type(optimizer)(params, **told)
    except Exception:
        return None
    return fault(twin, rule, params)


@torch.no_grad()
def fault(optimizer: Optimizer, rule: Rule, params: Sequence[nn.Parameter]) -> str | None:
    """What the rule gets wrong in `STEPS` steps of an optimizer over `params`; "": nothing; None: none can be taken."""
    draw = torch.Generator().manual_seed(0)
    (group,) = optimizer.param_groups
    if callable(train := getattr(optimizer, "train", None)):  # schedule-free ones have such a mode
        train()
    for k in range(1, STEPS + 1):
        for p in params:
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=draw) + 0.1 * p.detach()
        before = [p.detach().clone() for p in params]
        try:
            said = _said(optimizer, rule, params, group)
        except Exception as error:
            return f"step {k} cannot be worked out from its settings and state ({type(error).__name__}: {error})"
        try:
            with torch.random.fork_rng(devices=[]):  # the run's random numbers are none of ours
                inspect.unwrap(type(optimizer).step)(optimizer)  # and so are hooks
        except Exception:
            return None  # it wants more than gradients: a closure, a graph
        try:
            expected = [foretell() for foretell in said]
        except Exception as error:
            return f"step {k} cannot be worked out from its settings and state ({type(error).__name__}: {error})"
        for p, old, (new, state) in zip(params, before, expected, strict=True):
            kept: Mapping[str, Any] = optimizer.state.get(p, {})
            pairs = [("the weights", p.detach(), new), *((key, kept.get(key), x) for key, x in state.items())]
            for what, one, other in pairs:
                if not isinstance(one, Tensor):
                    return f"after step {k} the state holds no {what}"
                if (off := _distance(one, other, old)) > TOLERANCE:
                    return f"in step {k} {what} came out otherwise than foretold, by {off:.1e} of what the step does"
    return ""


def _said(
    optimizer: Optimizer, rule: Rule, params: Sequence[nn.Parameter], group: dict[str, Any]
) -> list[Callable[[], tuple[Tensor, dict[str, Tensor]]]]:
    out: list[Callable[[], tuple[Tensor, dict[str, Tensor]]]] = []
    for p in params:
        reader = ParameterReader(rule, optimizer, group, p, None)
        e, old = reader.elements(), p.detach().clone()
        rate, decay, state = rule.rate(e), rule.decay(e), {k: x.clone() for k, x in rule.advance(e).items()}
        early = None if rule.late else rule.direction(e).clone()

        def foretell(
            rate: float = rate,
            decay: float = decay,
            state: dict[str, Tensor] = state,
            reader: ParameterReader = reader,
            early: Tensor | None = early,
            old: Tensor = old,
        ) -> tuple[Tensor, dict[str, Tensor]]:
            u = rule.direction(reader.elements(), reader.after()) if early is None else early
            return decay * old - rate * u, state

        out.append(foretell)
    return out


def _distance(one: Tensor, other: Tensor, old: Tensor) -> float:
    """Relative to how far the step went, or to what there is."""
    if one.shape != other.shape:
        return torch.inf
    scale = (one - old).abs().max() if one.shape == old.shape else one.abs().max()
    off = (one - other).abs().max() / scale.clamp(min=1e-12 * float(one.abs().max()) + torch.finfo(one.dtype).tiny)
    return float(off) if bool(off.isfinite()) else torch.inf


def _parameters(rule: Rule) -> list[nn.Parameter]:
    """A matrix; a vector beside it, unless the rule mixes elements and may be of matrices alone."""
    draw = torch.Generator().manual_seed(1)
    shapes = [(4, 3)] if not rule.local else [(4, 3), (5,)]
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=draw)) for shape in shapes]
