"""A search that runs out of time claims less, and nothing false; and says so."""

from __future__ import annotations

import itertools
import re
import time
import warnings
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from neuromech.detect import Experiment, Findings, Invariance, analyse, limited, outputs_as_they_are, record
from neuromech.detect import effort as efforts
from neuromech.detect.verify import verify
from neuromech.errors import DetectionError, NeuromechWarning
from neuromech.symmetry import Symmetry, Term


class Shuffled(nn.Module):
    """Channels that change places between layers cut every axis into single indices."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.head, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.orders = [torch.randperm(width, generator=g) for _ in range(layers)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(self.head(x)))
        for layer, order in zip(self.layers, self.orders, strict=True):
            x = F.relu(layer(x[:, order]))
        return x


class Dense(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 + 3 * i, 3) for i in range(layers))
        self.out = nn.Linear(4 + 3 * layers, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.out(x)


def ticks() -> Callable[[], float]:
    """A clock that goes on by one whenever it is looked at."""
    return itertools.count().__next__


def found_in(model: nn.Module, budget: float) -> tuple[Findings, bool]:
    graph = record(model, (torch.randn(2, 4),))
    with limited(budget, clock=ticks()) as spent:
        found = analyse(model, graph, [Invariance()], None)
    return found, spent.over


@pytest.mark.parametrize("build", [lambda: Shuffled(2, 4), lambda: Dense(2)], ids=["shuffled", "dense"])
def test_whatever_the_budget_nothing_false_is_claimed(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    experiment = Experiment(model, (torch.randn(2, 4),), {}, outputs_as_they_are)
    dimensions, cut_short = [], []
    for budget in (1, 20, 60, 1e9):
        found, over = found_in(model, budget)
        cut_short.append(over)
        dimensions.append(sum(found.dimension.values()))
        assert all(verify(experiment, list(found)).true)
    assert cut_short[0]
    assert not cut_short[-1]
    assert dimensions[0] < dimensions[-1] == max(dimensions), dimensions
    assert sorted(cut_short, reverse=True) == cut_short


def test_whole_axes_are_looked_at_beyond_it() -> None:
    """What does not hang on a cut is found all the same: the norm ahead of the first one."""
    model = Shuffled(2, 4)
    graph = record(model, (torch.randn(2, 4),))
    with limited(1e6, clock=ticks()) as spent:
        spent.budget = 1.0  # cutting is over from the start ...
        spent.used = lambda: (efforts.CUTTING + efforts.FOLLOWING) / 2  # ... and following is not
        found = analyse(model, graph, [Invariance()], None)
    assert spent.over
    assert {"head.weight", "head.bias"} <= {p for s in found for p in s.parameters}
    assert any("cut into pieces" in o.why for o in found.opaque)


def test_a_budget_is_kept_and_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one this takes minutes."""
    monkeypatch.setattr(efforts, "SILENCE", 0.0)
    begun = time.thread_time()
    with pytest.warns(NeuromechWarning, match="did not suffice to find all symmetries"):
        found = neuromech.find_symmetries(Shuffled(4, 48), torch.randn(2, 48), budget=0.2, verify=False)
    assert time.thread_time() - begun < 3
    assert "from some point on axes were taken as wholes" in str(found)
    said = capsys.readouterr().err
    assert re.search(r"^neuromech: still looking for symmetries after \d+ s: operator \d+ of \d+$", said, re.M)


def test_a_first_step_does_not_stall() -> None:
    """The whole run, with the bits of a bare one."""

    def trained(instrumented: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model, x = Shuffled(4, 48), torch.randn(4, 48)
        probe = neuromech.instrument(model, budget=0.2, strict=True) if instrumented else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        begun = time.thread_time()
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), torch.arange(4)).backward()
            optimizer.step()
        assert time.thread_time() - begun < 3
        if probe is not None:
            assert "did not suffice" in str(probe.symmetries)
            assert any("did not suffice" in note for note in probe._record.meta["notes"])  # which the report prints
        return [p.detach() for p in model.parameters()]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        watched = trained(True)
    assert any("did not suffice to find all symmetries" in str(w.message) for w in said)
    assert all(torch.equal(a, b) for a, b in zip(trained(False), watched, strict=True))


class Steps(nn.Module):
    """Moving b changes nothing at first order, and a lot beyond; moving a and c together changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(3)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a - self.c) * x + torch.floor(1000 * self.b)


def test_what_verification_had_no_time_to_tell_apart_is_left_open() -> None:
    one = Fraction(1)
    true = Symmetry("translation", 3, (Term("a", 0, one), Term("c", 0, one)))
    false = Symmetry("translation", 3, (Term("b", 0, one),))
    experiment = Experiment(Steps(), (torch.randn(2, 3),), {}, outputs_as_they_are)
    with limited(1e-6, clock=ticks()):
        late = verify(experiment, [true, false])
    assert late.open == {0, 1}
    whole = verify(experiment, [true, false])
    assert whole.true == [True, False]
    assert not whole.open


@pytest.mark.parametrize("budget", [0, -1, "60", True, float("nan")])
def test_what_is_no_time_is_refused(budget: object) -> None:
    with pytest.raises(DetectionError, match="pass seconds of CPU time"):
        neuromech.find_symmetries(nn.Linear(2, 2), torch.randn(1, 2), budget=budget)  # type: ignore[arg-type]
