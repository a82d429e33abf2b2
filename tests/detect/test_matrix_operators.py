"""Two linear maps in a row, written in every way: the same matrix symmetries, or a word about what ended them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.detect import Findings, find_symmetries

PAD = torch.tensor([False, True, True, False, False, True])[:, None]
Pair = Callable[[Tensor, Tensor, Tensor], Tensor]


class Maps(nn.Module):
    """f(x, u, v) with u [3, 4] and v [5, 3], x [6, 4]."""

    def __init__(self, f: Pair) -> None:
        super().__init__()
        self.u, self.v, self.f = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5, 3)), f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x, self.u, self.v)


def found_in(f: Pair) -> Findings:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return find_symmetries(Maps(f).double(), torch.randn(6, 4, dtype=torch.float64))


SPELLINGS: dict[str, Pair] = {
    "linear": lambda x, u, v: F.linear(F.linear(x, u), v),
    "einsum": lambda x, u, v: torch.einsum("bi,ki,ok->bo", x, u, v),
    "einsum in pairs, implicit": lambda x, u, v: torch.einsum("bk,ok", torch.einsum("...i,ki->...k", x, u), v),
    "movedim": lambda x, u, v: x @ u.movedim(0, 1) @ v.moveaxis(1, 0),
    "narrow": lambda x, u, v: (x @ u.T).narrow(0, 0, 4) @ v.T,
    "flip of the batch": lambda x, u, v: (x @ u.T).flip(0) @ v.T,
    "roll of the batch": lambda x, u, v: (x @ u.T).roll(1, 0) @ v.T,
    "repeat": lambda x, u, v: (x @ u.T).repeat(2, 1) @ v.T,
    "broadcast_to": lambda x, u, v: (x @ u.T).broadcast_to(2, 6, 3) @ v.T,
    "cumsum": lambda x, u, v: (x @ u.T).cumsum(0) @ v.T,
    "places": lambda x, u, v: (x @ u.T)[torch.tensor([0, 3, 2])] @ v.T,
    "index_select": lambda x, u, v: (x @ u.T).index_select(0, torch.tensor([5, 1])) @ v.T,
    "cat with zeros": lambda x, u, v: torch.cat([torch.zeros(1, 3, dtype=x.dtype), x @ u.T]) @ v.T,
    "masked_fill": lambda x, u, v: (x @ u.T).masked_fill(PAD, 0.0) @ v.T,
    "where": lambda x, u, v: torch.where(PAD, 0.0, x @ u.T) @ v.T,
    "plus zeros": lambda x, u, v: (x @ u.T + torch.zeros(3, dtype=x.dtype)) @ v.T,
    "pixel_shuffle": lambda x, u, v: F.pixel_shuffle((x @ u.T).repeat_interleave(4, 1)[..., None, None], 2).mean((2, 3))
    @ v.T,
    "inner": lambda x, u, v: torch.inner(torch.inner(x, u), v),
    "convolution": lambda x, u, v: torch.convolution(
        torch.convolution(x[..., None], u[..., None], None, [1], [0], [1], False, [0], 1), v[..., None], None, [1],
        [0], [1], False, [0], 1),
    "lerp": lambda x, u, v: torch.lerp(x @ u.T, 2 * (x @ u.T), 0.3) @ v.T,
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_function_one_answer(name: str) -> None:
    found = found_in(SPELLINGS[name])
    assert found.dimension["matrix"] == 3**2 - 3
    assert not found.rejected
    assert not found.opaque


RECURRENT = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_layer_reads_linearly(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.r = nn.Linear(4, 3, bias=False), RECURRENT[name](3, 5, num_layers=2, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.r(self.a(x))[0]

    found = find_symmetries(Net().double(), torch.randn(6, 2, 4, dtype=torch.float64))
    (family,) = found.symmetries.of(kind="matrix")
    assert family.parameters == ("a.weight", "r.weight_ih_l0", "r.weight_ih_l0_reverse")
    assert not found.rejected
    assert not found.opaque


ENDED: dict[str, tuple[str, Pair]] = {
    "flip of what is mixed": ("flip", lambda x, u, v: (x @ u.T).flip(1) @ v.T),
    "cat of what is mixed": ("cat", lambda x, u, v: torch.cat([x @ u.T, x], 1) @ torch.cat([v, v, v], 1)[:, :7].T),
    "unfold": ("im2col", lambda x, u, v: F.unfold((x @ u.T)[..., None, None], 1)[..., 0] @ v.T),
}


@pytest.mark.parametrize("name", ENDED)
def test_what_ends_a_matrix_claim_is_listed(name: str) -> None:
    operator, f = ENDED[name]
    found = found_in(f)
    assert found.dimension["matrix"] == 0
    assert [(o.op, o.domains) for o in found.opaque if "u" in o.blocks] == [(operator, ("matrix",))]
    assert f"{operator} in the model itself (matrix symmetries only)" in str(found)
    assert type(found).from_dict(found.to_dict()).opaque == found.opaque


def test_what_is_known_to_see_entries_is_not_listed() -> None:
    for f in (torch.relu, torch.tanh, torch.logsumexp, lambda h, d: h.max(d).values):
        found = found_in(lambda x, u, v, f=f: (f(x @ u.T) if f in (torch.relu, torch.tanh) else f(x @ u.T, 0)) @ v.T)
        assert found.dimension["matrix"] == 0
        assert not found.opaque
