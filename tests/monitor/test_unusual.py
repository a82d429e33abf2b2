"""Runs that are unusual: what is told of them is true, whatever it is."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from experiments.silent_bugs.held_out import Slow
from experiments.silent_bugs.nets import Watched, data, gradient, loss_of, perceptron, sgd, steps

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")


def causes(watched: Watched) -> set[str]:
    return {fault.cause for _, fault in watched.faults}


def test_dead_units_are_not_a_branch_that_is_cut_off() -> None:
    """As after a divergence: no input reaches the second layer any more, and its gradients arrive as zeros."""
    model = perceptron()
    watched = Watched(model)

    @torch.no_grad()
    def die(k: int) -> None:
        if k == 15:
            model.get_parameter("2.bias").fill_(-1e3)

    steps(watched, model, sgd(model, lr=1e-3), 60, end=die)
    assert causes(watched) == {"edited weights", "dead gradient"}


def test_a_branch_that_is_cut_off_is_told() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.cut = perceptron(), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.net[:2](x)
            out: torch.Tensor = self.net[2:](h.detach() if self.cut else h)
            return out

    model = Cut()
    watched = Watched(model)
    steps(watched, model, sgd(model), 30, begin=lambda k: setattr(model, "cut", k > 12))
    assert causes(watched) == {"detached"}


def test_a_divergence_is_told_as_what_it_is() -> None:
    model = perceptron()
    watched = Watched(model)
    steps(watched, model, sgd(model, lr=300.0), 40)
    assert causes(watched) <= {"not finite", "dead gradient"}


def _turned(x: torch.Tensor, pair: bool) -> None:
    """Turn the signs of two elements round, or of all: the checksum stays as it was if their number is even."""
    (x.view(-1)[:2] if pair else x).neg_()


@pytest.mark.parametrize("what", ["weight", "momentum"])
def test_an_even_number_of_signs_that_turn_round(what: str) -> None:
    model = perceptron()
    optimizer = sgd(model)
    watched = Watched(model)
    p = model.get_parameter("2.weight")

    @torch.no_grad()
    def turn(k: int) -> None:
        if k == 8:
            _turned(p.detach() if what == "weight" else optimizer.state[p]["momentum_buffer"], pair=True)

    steps(watched, model, optimizer, 12, end=turn)
    (iteration, fault), *_ = watched.faults
    assert (iteration, fault.cause) == (9, "edited weights" if what == "weight" else "edited state")


def test_a_subclass_that_takes_another_rate() -> None:
    model = perceptron()
    watched = Watched(model)
    steps(watched, model, Slow(model.parameters(), lr=0.05, momentum=0.9), 8)
    (iteration, fault), *_ = watched.faults
    assert (iteration, fault.cause) == (2, "learning rate")
    assert all(d.factor == pytest.approx(-0.9, rel=1e-3) for d in fault.evidence.steps)


def test_weights_without_their_state_are_no_rollback() -> None:
    model = perceptron()
    watched = Watched(model)
    kept: dict[str, torch.Tensor] = {}

    def reload(k: int) -> None:
        if k == 5:
            kept.update({n: t.clone() for n, t in model.state_dict().items()})
        if k == 8:
            model.load_state_dict(kept)

    steps(watched, model, sgd(model), 12, end=reload)
    assert causes(watched) == {"edited weights"}


def test_gradients_through_other_tensors_are_not_judged_by_any_of_two_optimizers() -> None:
    """What a forward had in place of the parameters holds for all who step with its gradients."""
    model, (x, y) = perceptron(), data()
    watched = Watched(model)
    optimizers = sgd(model[:2]), sgd(model[2:])
    params = dict(model.named_parameters())
    for k in watched.until(20):
        model.zero_grad()
        first = loss_of(partial(functional_call, model, params), k, x, y)
        moves = torch.autograd.grad(first, list(params.values()), create_graph=True)
        moved = {n: p - 0.2 * g for (n, p), g in zip(params.items(), moves, strict=True)}
        loss_of(partial(functional_call, model, moved), k + 1, x, y).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert causes(watched) == set()
    assert "practice" in set(watched.probe.events["kind"])


def test_an_optimizer_that_takes_its_turn_later_holds_its_parameters() -> None:
    """Three steps of one player to one of the other, whose gradients come with every backward."""
    model, (x, y) = perceptron(), data()
    watched = Watched(model, allow="alternating")
    first, second = sgd(model[:2]), sgd(model[2:])
    for k in watched.until(12):
        model.zero_grad()
        loss_of(model, k, x, y).backward()
        (second if k % 4 == 0 else first).step()
        assert gradient(model.get_parameter("4.weight")).any()
    assert "not held" not in causes(watched)


class UnderTwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.again, self.head = self.first, nn.Linear(12, 4)
        self.all = nn.ModuleList([self.first, self.head])

    def forward(self, x: Tensor) -> Tensor:
        return self.all[1](F.relu(self.again(F.relu(self.first(x)))))


def test_a_module_that_hangs_at_several_places() -> None:
    model = UnderTwoNames()
    watched = Watched(model)
    steps(watched, model, sgd(model), 6)
    assert watched.monitor.step == 6
    assert not watched.faults


@pytest.mark.parametrize("held", [True, False], ids=["held by the optimizer", "held by none"])
@pytest.mark.parametrize("asks", [True, False], ids=["asks for a gradient", "asks for none"])
def test_a_target_inside_of_the_model_is_set_by_plan_and_nothing_else_is(asks: bool, held: bool) -> None:
    """As the critics of SAC, DQN and TD3 have it: it moves behind the step, and no gradient ever reaches it."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"online": perceptron(0), "target": perceptron(0)})
    model["target"].requires_grad_(asks)
    watched = Watched(model)
    optimizer = torch.optim.Adam((model if held else model["online"]).parameters(), lr=1e-2)

    @torch.no_grad()
    def follow(k: int) -> None:
        for p, q in zip(model["target"].parameters(), model["online"].parameters(), strict=True):
            p.lerp_(q, 0.1)
        if k == 6:
            _turned(next(model["online"].parameters()).data, pair=False)

    steps(watched, model["online"], optimizer, 10, end=follow)
    (iteration, fault), *_ = watched.faults
    assert (iteration, fault.cause) == (7, "edited weights")
    assert all(name.startswith("online") for name in fault.suspects[0].where)
