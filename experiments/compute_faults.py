"""Conservation as a checksum of compute: how often do the laws see one wrong element of one matrix product?

    python -m experiments.compute_faults [--faults 600] [--out runs/compute_faults]
    python -m analysis.compute_faults runs/compute_faults

A small Llama and a small ResNet train; at every step the gradient is taken twice, once as it is and once with one bit
of one element flipped in one product: the forward one, or one of the two of the backward, of a layer. The torques of
both are measured at once, before any step: what they were in clean steps at first is the yardstick for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.benchmarks.models import Block
from experiments.runs import command, next_command, run_of
from neuromech.detect import Findings
from neuromech.monitor.torque import TorqueJudge, TorqueMeter, Torques

PRODUCTS = ("forward", "input gradient", "weight gradient")
WORDS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float64: torch.int64}
SIGN = {4: -(2**31), 2: -(2**15), 8: -(2**63)}


@dataclass(frozen=True)
class Config:
    faults: int = 600  # of each model
    calibration: int = 64  # clean steps that the yardstick is taken from
    formats: int = 24  # clean steps in each number format
    lr: float = 0.02


@dataclass(frozen=True)
class Injected:
    """One wrong element. `roundings`: its error over eps times the sum of the absolute terms of the product; `monitor`:
    the largest torque over what the monitor allows; `sharp`: over the largest of its member in the calibration."""

    model: str
    layer: str
    product: str
    bit: int
    covered: bool
    roundings: float
    finite: bool
    reached: bool  # the gradients changed at all
    monitor: float
    sharp: float


class Classifier(nn.Module):
    """Conv, norm, two residual blocks (He et al. 2016), a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.second, self.head = Block(8, 8, 1), Block(8, 16, 2), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(F.relu(self.norm(self.stem(x)))))
        out: Tensor = self.head(h.mean((2, 3)))
        return out


class Words(nn.Module):
    """The Llama of transformers, as a function of tokens."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 48}
        heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
        self.llama = LlamaForCausalLM(LlamaConfig(**sizes, **heads))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.llama(input_ids=ids).logits
        return out


def images(g: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(16, 3, 8, 8, generator=g).to(dtype), torch.randint(0, 10, (16,), generator=g)


def tokens(g: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 48, (8, 12), generator=g)
    return ids, ids.roll(-1, 1)


Batch = Callable[[torch.Generator, torch.dtype], tuple[Tensor, Tensor]]
MODELS: dict[str, tuple[Callable[[], nn.Module], Batch]] = {"llama": (Words, tokens), "resnet": (Classifier, images)}


def flipped(x: Tensor, place: int, bit: int) -> Tensor:
    """A copy of `x` in which `bit` of element `place` has flipped."""
    out = x.detach().clone(memory_format=torch.contiguous_format)
    words = out.view(-1).view(WORDS[x.dtype])
    words[place] ^= SIGN[x.element_size()] if bit == 8 * x.element_size() - 1 else 1 << bit
    return out


class BentInput(torch.autograd.Function):
    """Hands its input on; what one product sends back to it is bent, before other uses of the input add theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bent: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.bent = bent
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.bent(grads[0]), None


bent: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] = BentInput.apply


class Fault:
    """Flips one bit in one product of `layer` while it is `active`; knows afterwards how large the error was."""

    def __init__(self, layer: nn.Module, product: str, bit: int, g: torch.Generator) -> None:
        self._layer, self._product, self._bit, self._g = layer, product, bit, g
        self._error, self._place = 0.0, 0
        self._x, self._grad = torch.zeros(0), torch.zeros(0)

    @contextmanager
    def active(self) -> Iterator[None]:
        layer, weight = self._layer, self._layer.get_parameter("weight")
        plain = layer.forward
        handle = weight.register_hook(self._bent) if self._product == "weight gradient" else None
        layer.forward = lambda x: self._called(plain, x)
        try:
            yield
        finally:
            del layer.forward
            if handle is not None:
                handle.remove()

    def roundings(self) -> float:
        """The error over eps times the sum of the absolute terms that the element is made of."""
        x, w = (t.detach().abs().requires_grad_() for t in (self._x, self._layer.get_parameter("weight")))
        layer = self._layer
        y = F.conv2d(x, w, None, layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else F.linear(x, w)
        terms = y.detach()
        if self._product != "forward":
            (terms,) = torch.autograd.grad(y, x if self._product == "input gradient" else w, self._grad.abs())
        info = torch.finfo(x.dtype)
        return abs(self._error) / (info.eps * max(float(terms.reshape(-1)[self._place]), info.tiny))

    def _called(self, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self._x = x.detach()
        y = plain(bent(x, self._bent) if self._product == "input gradient" else x)
        if self._product == "forward":
            y = y + (self._bent(y) - y).detach()
        y.register_hook(self._seen)
        return y

    def _seen(self, g: Tensor) -> None:
        self._grad = g.detach()

    def _bent(self, x: Tensor) -> Tensor:
        self._place = int(torch.randint(0, x.numel(), (1,), generator=self._g))
        out = flipped(x, self._place, self._bit)
        self._error = float(out.reshape(-1)[self._place].double() - x.detach().reshape(-1)[self._place].double())
        return out


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


class Trial:
    """A model in training, its families, and the torques of a gradient of a batch."""

    def __init__(self, name: str, config: Config, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        make, self._batch = MODELS[name]
        self.model, self.g, self._dtype = make().to(dtype).train(), torch.Generator().manual_seed(1), dtype
        x, y = self._batch(self.g, dtype)
        found: Findings = neuromech.find_symmetries(self.model, x, _loss, y)
        self.families = [s for s in found.symmetries if s.kind != "matrix"]
        self.params = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.meter = TorqueMeter(self.families, self.params)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, momentum=0.9)

    def batch(self) -> tuple[Tensor, Tensor]:
        return self._batch(self.g, self._dtype)

    def torques(self, x: Tensor, y: Tensor) -> Torques:
        """Of the gradients that are left in the parameters."""
        self.optimizer.zero_grad()
        _loss(self.model(x), y).backward()
        with torch.no_grad():
            return self.meter(self.params, {n: p.grad for n, p in self.params.items() if p.grad is not None})

    def sharp(self, t: Torques, most: Tensor) -> float:
        """The largest relative torque over the largest that its member had; members that had none do not count."""
        return float(torch.where(most > 0, self.relative(t) / most, 0.0).max())

    def relative(self, t: Torques) -> Tensor:
        """The torques, relative to what they are compared with: [members]."""
        return torch.where(t.torque == 0, 0.0, t.torque.abs() / t.size).nan_to_num(nan=torch.inf)


def _loss(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, -2).float(), y.flatten())


def calibrated(trial: Trial, steps: int) -> tuple[Tensor, TorqueJudge]:
    """What is normal: the largest relative torque of each member in clean steps, at least that of half of its family.

    And the judge of the monitor, which saw them too.
    """
    judge, most = TorqueJudge(trial.meter), torch.zeros(sum(s.size for s in trial.families), dtype=torch.float64)
    for _ in range(steps):
        found = trial.torques(*trial.batch())
        judge(found, torch.finfo(torch.float32).eps)
        most = torch.maximum(most, trial.relative(found))
        trial.optimizer.step()
    for rows in trial.meter.slices:
        most[rows] = most[rows].clamp(min=float(most[rows].median()))
    return most, judge


def inject(name: str, config: Config) -> Iterator[tuple[Injected, dict[str, float]]]:
    """One fault a step, beside the clean gradient that is stepped; with each what the clean one was judged."""
    trial = Trial(name, config)
    most, judge = calibrated(trial, config.calibration)
    held = {n for s in trial.families for n in s.parameters}
    where, eps = layers(trial.model), torch.finfo(torch.float32).eps
    for k in range(config.faults):
        layer = list(where)[k % len(where)]
        product, bit = PRODUCTS[k // len(where) % 3], int(torch.randint(0, 32, (1,), generator=trial.g))
        x, y = trial.batch()
        fault = Fault(where[layer], product, bit, trial.g)
        with fault.active():
            bad = trial.torques(x, y)
        spoiled = {n: p.grad.clone() for n, p in trial.params.items() if p.grad is not None}
        good = trial.torques(x, y)
        reached = any(not torch.equal(spoiled[n], p.grad) for n, p in trial.params.items() if p.grad is not None)
        finite = bool(torch.isfinite(bad.gradients).all())
        excess = judge.excess(bad, eps).nan_to_num(nan=torch.inf)
        clean = {"members": float(len(good.torque)), "sharp": trial.sharp(good, most)}
        clean["monitor"] = float(judge(good, eps).max())
        sharp = trial.sharp(bad, most)
        covered = f"{layer}.weight" in held
        size = fault.roundings()
        yield Injected(name, layer, product, bit, covered, size, finite, reached, float(excess.max()), sharp), clean
        trial.optimizer.step()


def tolerances(name: str, config: Config, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """What each family is allowed over its actual torque, root mean square over members and clean steps."""
    trial, eps = Trial(name, config, dtype), float(torch.finfo(dtype).eps)
    squares, most = torch.zeros(2, len(trial.families), dtype=torch.float64)
    for _ in range(config.formats):
        found = trial.torques(*trial.batch())
        relative = (found.torque / found.size).nan_to_num()
        squares += torch.stack([relative[rows].square().mean() for rows in trial.meter.slices])
        most = torch.maximum(most, torch.stack([relative[rows].abs().max() for rows in trial.meter.slices]))
        trial.optimizer.step()
    actual = (squares / config.formats).sqrt()
    for s, rms, sharp in zip(trial.families, actual.tolist(), most.tolist(), strict=True):
        allowed = max(eps, s.defect if s.broken_by else 0.0) ** 0.5
        yield {"model": name, "dtype": str(dtype)[6:], "family": s.name, "kind": s.kind, "allowed": allowed,
               "actual": rms, "largest": sharp}  # fmt: skip


def run(config: Config, directory: Path) -> Path:
    torch.set_num_threads(1)
    with run_of(directory, config) as record:
        for name in MODELS:
            for fault, clean in inject(name, config):
                record.append("faults", {k: [v] for k, v in asdict(fault).items()})
                record.append("clean", {k: [v] for k, v in ({"model": name} | clean).items()})
            for dtype in (torch.float64, torch.float32, torch.bfloat16):
                for row in tolerances(name, config, dtype):
                    record.append("tolerances", {k: [v] for k, v in row.items()})
    return directory


def main() -> None:
    parser = command("compute_faults", __doc__)
    parser.add_argument("--faults", type=int, default=Config.faults)
    options = parser.parse_args()
    run(Config(faults=options.faults), options.out)
    next_command("compute_faults", options.out)


if __name__ == "__main__":
    main()
