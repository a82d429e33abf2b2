"""A step of an optimizer that mixes elements (Muon, Adafactor), taken once more for a whole tensor.

The rule does what torch does, in the same number format, so the two agree to a few roundings of the largest element:
sums over rows and columns are taken in the same order or in another one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.monitor.facts import OptimizerState
from neuromech.monitor.replay import OPERATIONS, ORDERS, Difference, differences
from neuromech.monitor.sample import Sample
from neuromech.optimizers import ParameterReader, ParamGroup, Rule, grad_scale


class WholeReplay:
    """What the rule says of parameter `name` ahead of a step; the optimizer's own tensors will be written to."""

    @torch.no_grad()
    def __init__(
        self, rule: Rule, optimizer: Optimizer, group: ParamGroup, name: str, p: Tensor, sample: Sample
    ) -> None:
        e = ParameterReader(rule, optimizer, group, p, grad_scale(optimizer)).elements()
        after = rule.advance(e)
        self._name, self._sample = name, sample
        self._entries = {key: x for key, x in after.items() if x.shape == p.shape}
        assert p.grad is not None
        u = rule.update(e, after).to(p.dtype)
        self._eps, self._rate, self._decay = torch.finfo(p.dtype).eps, rule.rate(e), rule.decay(e)
        self._theta, self._u, self._gradient = (self._read(x) for x in (p, u, p.grad))
        self._most = float(u.abs().max()) if u.numel() else 0.0

    def differences(self, theta: Mapping[str, Tensor], state: OptimizerState) -> list[Difference]:
        """How the step differs from what its settings say; `theta`: the sampled weights behind it."""
        end, now = self._decay * self._theta - self._rate * self._u, theta[self._name]
        slack = (
            ORDERS * self._eps * (now.abs() + self._theta.abs()) + OPERATIONS * self._eps * abs(self._rate) * self._most
        )
        vectors = {"step": end - self._theta, "gradient": self._gradient, "weights": self._theta}
        out = self._differ("weight", now - end, slack, vectors)
        for key, x in self._entries.items():
            found = state.tensors.get((self._name, key))
            if found is not None:
                new, have = self._read(x), self._read(found)
                slack = OPERATIONS * self._eps * (new.abs() + have.abs() + float(x.abs().max()))
                out += self._differ(key, have - new, slack, {"momentum": new, "gradient": self._gradient})
        return out

    def _differ(self, what: str, error: Tensor, slack: Tensor, vectors: Mapping[str, Tensor]) -> list[Difference]:
        return differences(what, [self._name], [len(error)], error, slack, vectors, self._eps)

    def _read(self, x: Tensor) -> Tensor:
        return self._sample.read([self._name], {self._name: x})
