"""An honest little run: two layers trained by torch, charges by `Symmetry.charge`, laws written out by hand.

The laws are those of heavy ball with coupled weight decay, with <b, D b> measured after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from neuromech.record import Record
from neuromech.symmetry import Symmetry, Term

FAMILIES = (
    Symmetry(
        "rescale",
        5,
        (Term("0.weight", 0, Fraction(1)), Term("0.bias", 0, Fraction(1)), Term("2.weight", 1, Fraction(-1))),
        "a factor passes through ReLU",
        1e-16,
    ),
    Symmetry("translation", 5, (Term("2.weight", 1, Fraction(1)),), "softmax ignores a common shift", 2e-16),
    Symmetry("translation", 1, (Term("2.bias", None, Fraction(1)),), "softmax ignores a common shift", 3e-16),
)


def meta(dtype: torch.dtype = torch.float64, optimizer: str = "SGD", **more: object) -> dict[str, object]:
    name = str(dtype).removeprefix("torch.")
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-2, "nesterov": False, "parameters": 4}
    known = {
        "neuromech": "0.1.0",
        "torch": "2.13",
        "python": "3.11",
        "model": "Sequential",
        "parameters": 59,
        "dtype": name,
        "device": "cpu",
        "loss": "it ignores a common shift of the output",
        "symmetries": [s.to_dict() | {"dtype": name} for s in FAMILIES],
        "dimension": {"scaling": 5, "translation": 6},
        "rejected": [],
        "opaque": [],
        "inactive": [],
        "optimizers": [{"class": optimizer, "law": "exact" if optimizer == "SGD" else "rebuilt", "groups": [group]}],
    }
    return known | more


def train(
    steps: int = 60,
    dtype: torch.dtype = torch.float64,
    path: Path | None = None,
    *,
    lr: Callable[[int], float] = lambda k: 0.1,
    meddle: Callable[[int, nn.Module], None] = lambda k, model: None,
    adam: bool = False,
    **more: object,
) -> Record:
    """Train for `steps`; `meddle(k, model)` may touch the model after step k, behind the back of the laws."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 6, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 4, (32,), generator=generator)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    params = dict(model.named_parameters())
    mu, decay = 0.9, 1e-2
    kind = torch.optim.Adam if adam else torch.optim.SGD
    settings = {} if adam else {"momentum": mu, "weight_decay": decay}
    optimizer = kind(model.parameters(), lr=0.1, **settings)

    charges = [s.charge(params) for s in FAMILIES]
    exact, flow, continuous = list(charges), list(charges), list(charges)
    states = [torch.zeros_like(c) for c in charges]  # <b, D theta> or <c, b>
    record = Record(path, meta(dtype, kind.__name__, **more))
    time = 0.0
    _write(record, 0, params, exact, flow, continuous, adam)
    record.append("steps", {"step": 0, "optimizer": 0, "lr": lr(1), "time": 0.0})
    for k in range(1, steps + 1):
        eta = lr(k)
        optimizer.param_groups[0]["lr"] = eta
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        meddle(k, model)
        time += eta
        if not adam:
            buffers = {n: optimizer.state[p]["momentum_buffer"] for n, p in params.items()}
            for i, s in enumerate(FAMILIES):
                kept = mu if k > 1 else 0.0
                if s.is_linear:
                    states[i] = kept * states[i] + decay * exact[i]
                    exact[i] = exact[i] - eta * states[i]
                    continuous[i] = continuous[i] * math.exp(-eta * decay / (1 - mu))
                    flow[i] = continuous[i]
                else:
                    kinetic = s.charge(buffers)
                    first = kept * states[i] + decay * exact[i]
                    exact[i] = exact[i] - 2 * eta * first + eta**2 * kinetic
                    states[i] = first - eta * kinetic
                    push = eta**2 * (1 + mu) / (1 - mu) * kinetic
                    continuous[i] = continuous[i] * math.exp(-2 * eta * decay / (1 - mu)) + push
                    flow[i] = flow[i] * math.exp(-2 * eta * decay / (1 - mu))
        _write(record, k, params, exact, flow, continuous, adam)
        record.append("steps", {"step": k, "optimizer": 0, "lr": eta, "time": time})
    record.flush()
    return record


def _write(
    record: Record,
    step: int,
    params: dict[str, nn.Parameter],
    exact: list[Tensor],
    flow: list[Tensor],
    continuous: list[Tensor],
    silent: bool,
) -> None:
    for i, s in enumerate(FAMILIES):
        observed = s.charge(params)
        scale = sum(
            abs(float(t.weight)) * t.gather(p.abs() if s.is_linear else p * p)
            for t in s.terms
            for p in [params[t.parameter].detach().double()]
        )
        unknown = torch.full_like(observed, math.nan)
        laws = {"exact": exact[i], "ideal": exact[i], "continuous": continuous[i], "flow": flow[i]}
        rows = {"observed": observed, "scale": scale} | {n: unknown if silent else v for n, v in laws.items()}
        residuals = {}
        for name in laws:
            off = (rows[name] - observed).abs() / scale
            residuals["residual" if name == "exact" else f"{name}_residual"] = off
        whole = {n: v.sum() for n, v in rows.items()} | {n: v.max() for n, v in residuals.items()}
        record.append("charges", {"step": step, "symmetry": i, "member": -1, **{n: v.item() for n, v in whole.items()}})
        if step % 4 == 0 and s.size > 1:
            members = {"member": list(range(s.size)), **rows, **residuals}
            record.append("charges", {"step": step, "symmetry": i, **members})
