"""What a model is made of: seen by identity, for as long as it is otherwise."""

import copy

import torch
from torch import nn
from torch.func import functional_call

import neuromech
from neuromech.hooks.composition import Composition


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def test_tensors_that_stand_in_are_seen_while_they_do() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = model(), ()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = made_of.exchanged()
            return self.net(x)

    looking = Looking()
    made_of = Composition(looking)
    looking(torch.randn(2, 3))
    assert looking.seen == ()
    other = {"net.0.weight": torch.zeros(4, 3), "net.1.1.bias": torch.zeros(2)}
    functional_call(looking, other, (torch.randn(2, 3),))
    assert set(looking.seen) == set(other)
    assert made_of.exchanged() == ()
    functional_call(looking, dict(looking.named_parameters()), (torch.randn(2, 3),))  # its own
    assert looking.seen == ()


def test_modules_that_come_go_and_change_places_are_seen_where_they_are() -> None:
    m = model()
    made_of = Composition(m)
    m.load_state_dict(copy.deepcopy(m.state_dict()))
    assert made_of.rebuilt() == ()
    m[1][0] = nn.GELU()
    assert made_of.rebuilt() == ("1",)
    m.append(nn.Tanh())
    assert set(made_of.rebuilt()) == {"", "1"}


def test_calls_inside_of_transforms_are_not_the_training() -> None:
    """The instrument does not stand aside for them: it waits for a forward that it can follow."""
    m, x = model(), torch.randn(6, 3)
    probe = neuromech.instrument(m)
    params = {name: p.detach() for name, p in m.named_parameters()}
    torch.vmap(lambda a: functional_call(m, params, (a,)))(x)
    optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        m(x).square().sum().backward()
        optimizer.step()
    assert len(probe.symmetries) > 0
    assert probe.history["residual"].max() < 1e-6
