"""Forwards that do not go as forwards do: interrupted, empty, with odd outputs and parameters. They are followed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from probe.test_harmless import X, Y, plain
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from neuromech.errors import InstrumentError


def train(model: nn.Module, call: Callable[[Tensor], Tensor], sizes: list[int], watched: bool) -> list[Tensor]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    probe = neuromech.instrument(model, strict=True) if watched else None
    for n in sizes:
        optimizer.zero_grad()
        try:
            F.cross_entropy(call(X[:n]), Y[:n], reduction="sum").backward()
        except KeyboardInterrupt:
            continue
        optimizer.step()
    if probe is not None:
        assert probe.history["step"].max() >= len(sizes) - 1
        assert len(probe.symmetries)
        probe.remove()
    return [p.detach().clone() for p in model.parameters()]


class Around(nn.Module):
    """`how` decides what becomes of the output of a plain network, at which call."""

    def __init__(self, how: Callable[[Tensor, int], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.how, self.calls = plain(), how, 0

    def forward(self, x: Tensor) -> object:
        self.calls += 1
        return self.how(self.net(x), self.calls)


@dataclass(slots=True)
class Slotted:
    loss_of: str
    logits: Tensor


def interrupted(at: int) -> Callable[[Tensor, int], object]:
    def how(out: Tensor, call: int) -> Tensor:
        if call == at:
            raise KeyboardInterrupt
        return out

    return how


@pytest.mark.parametrize("at", [1, 3])
def test_who_stops_a_cell_and_goes_on_is_followed_on(at: int) -> None:
    bare, watched = (Around(interrupted(at)) for _ in range(2))
    left, right = (train(m, m, [6] * 5, w) for m, w in ((bare, False), (watched, True)))
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert not torch.overrides._get_current_function_mode_stack()


def test_an_empty_first_batch_shows_nothing_of_a_model() -> None:
    model = Around(lambda out, _: out)
    train(model, model, [0, 6, 0, 6], True)


def test_slots_hold_outputs_too() -> None:
    model = Around(lambda out, _: Slotted("it", out))
    train(model, lambda x: model(x).logits, [6, 6], True)


def test_parameters_that_are_whole_numbers_have_no_norm() -> None:
    model = Around(lambda out, _: out)
    model.table = nn.Parameter(torch.arange(3), requires_grad=False)
    train(model, model, [6, 6], True)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(4)), "not initialised yet"),
        (lambda: torch.jit.script(plain()), "torch.jit"),
        (lambda: torch.jit.trace(plain(), X), "torch.jit"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_cannot_be_watched_yet_is_said_at_once(make: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(InstrumentError, match=why):
        neuromech.instrument(make())


class Packed(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([3, 2, 1, 3, 1, 2])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].mean(1))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_packed_sequences_are_opaque(kind: type[nn.RNNBase]) -> None:
    found = neuromech.find_symmetries(Packed(kind), torch.randn(6, 3, 4), F.cross_entropy, torch.tensor([0, 1, 2] * 2))
    assert "packed" in str(found)


@pytest.mark.parametrize("first", ["entropy", "squares"])
def test_two_losses_of_one_output_by_two_backwards(first: str) -> None:
    """The loss is the sum of both, and sees what either of them sees."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    probe = neuromech.instrument(model)
    monitor = probe.monitor(on_fault=lambda fault: None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    losses = {"entropy": lambda out: F.cross_entropy(out, y), "squares": lambda out: out.square().mean()}
    for _ in range(4):
        optimizer.zero_grad()
        out = model(x)
        losses[first](out).backward(retain_graph=True)
        next(f for name, f in losses.items() if name != first)(out).backward()
        optimizer.step()
    assert [s.kind for s in probe.symmetries] == ["rescale"]
    assert not monitor.faults


@pytest.mark.parametrize(
    "made",
    [torch.fx.symbolic_trace, lambda m: torch.export.export(m, (X[:4],), strict=False).module()],
    ids=["torch.fx", "torch.export"],
)
def test_generated_forwards_train_as_they_do_bare(made: Callable[[nn.Module], nn.Module]) -> None:
    """Their forward has no module that it comes from."""

    def ends(watched: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = made(plain())
        return train(model, model, [4, 4, 4], watched)

    assert all(torch.equal(p, q) for p, q in zip(ends(False), ends(True), strict=True))
