"""Did a step do what its settings say? Reads a sample of elements ahead of it and behind it, and takes it once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.monitor.checks.gradients import Motion
from neuromech.monitor.checks.integrity import Found
from neuromech.monitor.checks.settings import plain
from neuromech.monitor.replay import After, Before, Difference, replay
from neuromech.monitor.rules import rule_of
from neuromech.monitor.sample import Sample


class Done(NamedTuple):
    """What a step did: where it differs, the clocks that did not count it, the sampled weights after it, and by name
    what a later edit may be a multiple of: this step, its gradient."""

    differences: tuple[Difference, ...]
    clock: tuple[tuple[str, float, float], ...]
    theta: Tensor
    vectors: dict[str, dict[str, Tensor]]


@dataclass
class _Group:
    settings: dict[str, Any]
    names: list[str]
    before: Before


class StepCheck:
    """Replays the steps of any optimizer whose rule is known. `last`: how the last step moved the weights."""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample) -> None:
        self._params, self._sample = params, sample
        self._counts = dict(zip(params, sample.counts(list(params)), strict=True))
        self.last: Motion | None = None
        self._groups: list[_Group] = []
        self._found: Found | None = None
        self._theta: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    def before(self, optimizer: Optimizer, names: Mapping[Tensor, str], found: Found, theta: Tensor) -> None:
        """`theta`: the sampled weights of all parameters."""
        self._found, self._groups = found, []
        self._theta = self._split(theta)
        rule = rule_of(optimizer)
        scale = getattr(optimizer, "grad_scale", None)
        self._gradients = {}
        for group in optimizer.param_groups:
            moving = [names[p] for p in group["params"] if p in names and p.grad is not None]
            grads = {n: g for n in moving if (g := self._params[n].grad) is not None}
            gradient = self._sample.read(moving, grads) / (1.0 if scale is None else float(scale))
            counts = [self._counts[n] for n in moving]
            self._gradients |= dict(zip(moving, gradient.split(counts), strict=True))
            if rule is None or not moving or _skips(optimizer):
                continue
            settings = plain(group)
            count = torch.tensor(counts, device=gradient.device)

            def spread(values: list[float], count: Tensor = count) -> Tensor:
                return torch.tensor(values, dtype=torch.float64, device=count.device).repeat_interleave(count)

            state = {key: self._entry(key, moving, found) for key in rule.state(settings)}
            if rule.clock:
                t = spread([found.clocks.get(n, 0.0) + 1 for n in moving])
            else:
                t = spread([2.0 if any((n, key) in found.tensors for key in state) else 1.0 for n in moving])
            kinds = [torch.finfo(self._params[n].dtype) for n in moving]
            eps, tiny = spread([k.eps for k in kinds]), spread([k.tiny for k in kinds])
            here = torch.cat([self._theta[n] for n in moving])
            self._groups.append(_Group(settings, moving, Before(here, gradient, state, t, eps, tiny)))

    def after(self, optimizer: Optimizer, found: Found) -> Done:
        theta = self._sample.read(list(self._params), self._params)
        elements = self._split(theta)
        rule = rule_of(optimizer)
        off: list[Difference] = []
        for group in self._groups if rule else ():
            assert rule is not None
            state = {key: self._entry(key, group.names, found) for key in rule.state(group.settings)}
            after = After(torch.cat([elements[n] for n in group.names]), state)
            counts = [self._counts[n] for n in group.names]
            off += replay(rule, group.settings, group.names, counts, group.before, after)
        clocks = self._found.clocks if self._found else {}
        clock = tuple(
            (n, t + 1, found.clocks[n])
            for n, t in clocks.items()
            if n in found.clocks and n in self._gradients and found.clocks[n] != t + 1 and not _skips(optimizer)
        )
        vectors = {
            n: {"step": elements[n] - self._theta[n], "gradient": g}
            for n, g in self._gradients.items()
            if n in elements
        }
        self.last = _motion(optimizer, found)
        self._found, self._groups = None, []
        return Done(tuple(off), clock, theta, vectors)

    def _entry(self, key: str, names: list[str], found: Found) -> Tensor:
        return self._sample.read(names, {n: found.tensors[n, key] for n in names if (n, key) in found.tensors})

    def _split(self, theta: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._counts, theta.split(list(self._counts.values())), strict=True))


def _skips(optimizer: Optimizer) -> bool:
    """True if a fused optimizer under `GradScaler` will not take this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _motion(optimizer: Optimizer, found: Found) -> Motion | None:
    """Heavy ball moves along its buffers, which it keeps; of other steps nothing is kept."""
    groups = optimizer.param_groups
    plainly = isinstance(optimizer, torch.optim.SGD) and all(g["momentum"] and not g["nesterov"] for g in groups)
    if not plainly or len({float(g["lr"]) for g in groups}) != 1:
        return None
    buffers = {name: t for (name, key), t in found.tensors.items() if key == "momentum_buffer"}
    return Motion(float(groups[0]["lr"]), buffers)
