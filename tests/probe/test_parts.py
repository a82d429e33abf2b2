"""Models whose own forward is not what trains: the parts are followed, and train to the same bits."""

from collections.abc import Callable

import pytest
import torch
from probe.test_harmless import X, Y
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from neuromech import NeuromechWarning


class Whole(nn.Module):
    """An encoder and a head, with one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))
        self.head = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Parts(Whole):
    """The same, with a `training_step` in place of the forward."""

    forward = nn.Module.forward

    def training_step(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.encoder(x)), y)


class Late(Parts):
    """It has a forward, which is not what trains."""

    forward = Whole.forward


def trained(
    build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], instrumented: bool, steps: int = 4
) -> tuple[nn.Module, neuromech.Probe | None]:
    torch.manual_seed(0)
    model = build()
    probe = neuromech.instrument(model) if instrumented else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model, probe


def watched(build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], steps: int = 4) -> neuromech.Probe:
    bare, _ = trained(build, loss, False, steps)
    model, probe = trained(build, loss, True, steps)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters(), strict=True))
    return probe


def charges(probe: neuromech.Probe) -> dict[str, float]:
    rows = probe.history
    rows = rows[(rows["member"] == -1) & (rows["step"] == rows["step"].max())]
    return dict(zip(rows["name"], rows["observed"], strict=True))


def test_parts_have_the_charges_of_the_whole() -> None:
    whole = watched(Whole, lambda m: F.cross_entropy(m(X), Y))
    parts = watched(Parts, lambda m: m.training_step(X, Y))
    assert parts.history["step"].max() == 4
    assert parts.history["residual"].max() < 2e-6
    found, expected = charges(parts), charges(whole)
    assert found.keys() <= expected.keys()
    inside = {name for name in expected if not {"encoder", "head"} <= {part.split(".")[0] for part in name.split("/ ")}}
    assert found == {name: expected[name] for name in found}
    assert {n for n in inside if "encoder.2" not in n} <= found.keys()


def test_a_forward_that_is_not_called_costs_one_step() -> None:
    with pytest.warns(NeuromechWarning, match="its parts are followed"):
        probe = watched(Late, lambda m: m.training_step(X, Y))
    assert len(probe.symmetries) >= 2
    assert probe.history["step"].max() == 3
    assert probe.history["residual"].max() < 2e-6


def between(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Tensor]:
    return lambda m: F.cross_entropy(m.head(change(m.encoder(X))), Y)


@pytest.mark.parametrize(
    "change",
    [lambda z: z.tanh(), lambda z: z[:, torch.arange(5, -1, -1)], lambda z: z.add_(1), lambda z: z.detach()],
    ids=["function", "indexed", "in place", "detached"],
)
def test_code_between_the_parts(change: Callable[[Tensor], Tensor]) -> None:
    probe = watched(Parts, between(change))
    assert probe.history["residual"].max() < 2e-6
    assert any(s.name.startswith("head") for s in probe.symmetries)
    assert not any({"encoder", "head"} <= {p.split(".")[0] for p in s.parameters} for s in probe.symmetries)


def test_a_parameter_used_between_the_parts_is_refused() -> None:
    class Mixed(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))

    with pytest.warns(NeuromechWarning, match="scale is used outside of the parts"):
        watched(Mixed, lambda m: F.cross_entropy(m.head(m.encoder(X) * m.scale), Y))


def test_a_part_that_is_called_twice() -> None:
    probe = watched(Parts, lambda m: F.cross_entropy(m.head(m.encoder(X)) + m.head(m.encoder(X.flip(0))), Y))
    assert len(probe.symmetries) >= 2
    assert probe.history["residual"].max() < 2e-6


def test_a_model_that_calls_itself() -> None:
    class Recursive(Whole):
        def forward(self, x: Tensor, again: bool = True) -> Tensor:
            return self(x, again=False) if again else super().forward(x)

    probe = watched(Recursive, lambda m: F.cross_entropy(m(X), Y))
    assert len(probe.symmetries) >= 2
    assert probe.history["residual"].max() < 2e-6


def test_parts_of_two_optimizers_whose_first_step_lies_between_them() -> None:
    """As in soft actor-critic: the critic steps after the actor has run, and is asked about what that said."""

    def run(instrumented: bool) -> tuple[nn.Module, neuromech.Probe | None]:
        torch.manual_seed(0)
        model = Late()
        probe = neuromech.instrument(model) if instrumented else None
        actor, critic = (torch.optim.Adam(m.parameters(), lr=1e-2) for m in (model.encoder, model.head))
        for _ in range(4):
            said = model.encoder(X)
            critic.zero_grad()
            F.cross_entropy(model.head(torch.tanh(X[:, :6])), Y).backward()
            critic.step()
            actor.zero_grad()
            F.cross_entropy(model.head(torch.tanh(said)), Y).backward()
            actor.step()
        return model, probe

    bare, _ = run(False)
    with pytest.warns(NeuromechWarning, match="its parts are followed"):
        model, probe = run(True)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters(), strict=True))
    # The gradients of the actor are those of the step before when the first backward comes: nothing is claimed of them.
    assert {p.split(".")[0] for s in probe.symmetries for p in s.parameters} == {"head"}
    assert not probe.symmetries.rejected
    assert any("encoder.0.bias" in note for note in probe.symmetries.notes)
    assert probe.history["residual"].max() < 2e-6
