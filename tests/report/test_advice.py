"""Advice, each kind tried by a second run with the settings that it speaks of."""

import functools
import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from neuromech.report.advice import advice
from neuromech.report.facts import gather


class Head(nn.Module):
    """A matrix that is normalised, and a layer of its own that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.last = nn.Parameter(torch.randn(6, 8)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(4 * x @ (self.w / self.w.norm()).T)


def train(
    lr: float, decay: float, longer: float = 1.0, steps: int = 320, watched: bool = False, cosine: bool = False
) -> tuple[list[str], Tensor, Tensor]:
    """What is advised, the logits of every step, and cosines between the directions of the matrix before and after."""
    torch.manual_seed(0)
    model = Head().double()
    with torch.no_grad():
        model.w.mul_(longer)
    groups = [{"params": [model.w], "lr": lr, "weight_decay": decay}, {"params": list(model.last.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * steps) if cosine else None
    probe = neuromech.instrument(model, members=None) if watched else None
    draw, shown, turned = torch.Generator().manual_seed(1), [], []
    for _ in range(steps):
        x, y = torch.randn(16, 8, generator=draw, dtype=torch.float64), torch.randint(0, 4, (16,), generator=draw)
        optimizer.zero_grad()
        logits = model(x)
        F.cross_entropy(logits, y).backward()
        before = model.w.detach().flatten().clone()
        optimizer.step()
        if schedule:
            schedule.step()
        shown.append(logits.detach())
        turned.append(F.cosine_similarity(before, model.w.detach().flatten(), dim=0))
    said = advice(gather(probe._recorded()).forecasts) if probe else []
    return said, torch.stack(shown), torch.stack(turned)


@functools.cache
def advised(lr: float, decay: float, steps: int = 320) -> tuple[list[str], Tensor, Tensor]:
    return train(lr, decay, steps=steps, watched=True)


@pytest.mark.slow
def test_settings_that_are_called_equivalent_train_the_same_function() -> None:
    said, logits, _ = advised(0.5, 0.02)
    (sentence,) = said
    (found,) = re.findall(r"equivalent to ([\d.e-]+) with ([\d.e-]+), started ([\d.]+) times", sentence)
    lr, decay, longer = map(float, found)
    assert (lr, decay) == (1.0, 0.01)
    assert longer == pytest.approx(2**0.5, rel=0.05)  # as it is written
    _, again, _ = train(lr, decay, 2**0.5)
    torch.testing.assert_close(again, logits, rtol=1e-9, atol=1e-9)
    _, other, _ = train(lr, decay)  # not so if it starts alike
    assert float((other[20] - logits[20]).abs().max()) > 1e-3


def test_a_schedule_of_twice_the_rates_trains_the_same_function() -> None:
    """As test_forecasts.test_settings_are_remarked_upon reads it."""
    _, logits, _ = train(0.5, 0.02, steps=60, cosine=True)
    _, again, _ = train(1.0, 0.01, 2**0.5, steps=60, cosine=True)
    torch.testing.assert_close(again, logits, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_settings_that_are_said_to_differ_in_little_turn_alike_once_they_have_settled() -> None:
    said, _, turned = advised(0.5, 0.02)
    (settled,) = re.findall(r"until then, some (\d+)", said[0])
    _, _, again = train(1.0, 0.01)
    late = int(settled)
    assert late < 200

    def angle(cosines: Tensor) -> float:
        return float((1 - cosines**2).mean().sqrt())

    assert angle(again[late:]) == pytest.approx(angle(turned[late:]), rel=0.05)
    assert angle(again[:10]) > 1.5 * angle(turned[:10])


@pytest.mark.slow
def test_decay_that_is_said_to_do_nothing_does_nothing() -> None:
    (sentence,), logits, turned = advised(0.5, 2e-6)
    assert "does nothing here" in sentence
    _, without, still = train(0.5, 0.0)
    assert float((without - logits).abs().max()) < 0.01 * float(logits.abs().max())
    torch.testing.assert_close(still, turned, rtol=1e-3, atol=1e-4)
    (other,), strong, _ = advised(0.5, 0.04)
    assert "does nothing" not in other
    assert float((without - strong).abs().max()) > 0.05 * float(logits.abs().max())


def test_nothing_is_said_of_what_was_not_scored() -> None:
    said, _, _ = advised(0.5, 0.02, steps=30)
    assert said == []


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ([(0.3, 0.5)], "The forecasts of squared lengths were off by more than 25 %: nothing is concluded from them."),
        ([(0.1, 2.8)], "The forecasts of angles were off by more than 100 %: nothing is concluded from them."),
        ([(0.3, 0.5), (0.1, 2.8)], "Each forecast was off by more than 25 % in the squared length, or by more than"),
        ([(0.3, math.nan)], "The forecasts of squared lengths were off by more than 25 %"),
    ],
)
def test_forecasts_that_failed_are_told_by_what_failed(failures: list[tuple[float, float]], said: str) -> None:
    made = [SimpleNamespace(error=length, angle_error=angle) for length, angle in failures]
    (sentence,) = advice(made)  # type: ignore[arg-type]
    assert sentence.startswith(said)
