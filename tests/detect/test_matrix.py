"""Matrix families: by name, on the real model, and against a null space that knows nothing of graphs."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import CASES as ZOO
from zoo import Case
from zoo import build as build_zoo

from detect.matrix_nets import CASES, CLOSED, OPEN, TURNED, Attention, Between, Stream, TwoTowers
from detect.random_nets import programs
from neuromech.detect import find_symmetries
from neuromech.detect.capture import record
from neuromech.detect.graph import Graph
from neuromech.detect.matrix import beyond_the_diagonal, matrix_families
from neuromech.detect.verify import Experiment, outputs_as_they_are, verify
from neuromech.symmetry import Symmetry


def built(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model, x = CASES[name][0]()
        return model.double(), x.double() if x.is_floating_point() else x


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def gradient(model: nn.Module, x: Tensor, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and gradients at a random point, for a random projection of the output."""
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=p.dtype)
    if x.is_floating_point():
        x = torch.randn(x.shape, generator=g, dtype=x.dtype)
    y = model(x)
    y = y[0] if isinstance(y, tuple) else y
    loss = (y * torch.randn(y.shape, generator=g, dtype=y.dtype)).sum()
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    names = [name for name, _ in model.named_parameters()]
    return {n: p.detach() for n, p in model.named_parameters()}, dict(zip(names, grads, strict=True))


def linear_symmetries(model: nn.Module, x: Tensor) -> int:
    """The dimension of all d W = L W + W R, with any matrices L and R for every parameter, that no gradient sees.

    For matrices less one each, which moves nothing: L = 1, R = -1.
    """
    rows = []
    size = sum(p.shape[0] ** 2 + math.prod(p.shape[1:]) ** 2 for p in model.parameters())
    for seed in range(int(1.2 * size) + 5):
        theta, grads = gradient(model, x, seed)
        row = []
        for name, p in theta.items():
            w, g = p.reshape(len(p), -1), grads[name].reshape(len(p), -1)
            row += [(g @ w.T).flatten(), (w.T @ g).flatten()]
        rows.append(torch.cat(row) / torch.cat(row).norm())
    s = torch.linalg.svdvals(torch.stack(rows))
    s = s / s[0]
    assert not ((s > 1e-11) & (s < 1e-6)).any(), "which singular values are zero?"
    return size - int((s > 1e-8).sum()) - len(list(model.parameters()))


@pytest.mark.parametrize("name", CASES)
def test_families_by_name(name: str) -> None:
    model, x = built(name)
    _, expected, dimension = CASES[name]
    found = matrix_families(record(model, (x,))).families
    assert [f"{s.size} {s.name}" for s in found] == expected
    assert beyond_the_diagonal(found, shapes(model)) == dimension
    verdict = verify(Experiment(model, (x,), {}, outputs_as_they_are), found)
    assert all(verdict.true)
    assert max(verdict.defects) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_they_are_no_accident_of_the_verifier(name: str) -> None:
    """Gradients at random points of other inputs, and the rotations that the families stand for."""
    model, x = built(name)
    found = matrix_families(record(model, (x,))).families
    for seed in range(3):
        theta, grads = gradient(model, x, seed)
        for family in found:
            for s in {family, family.rotations(theta)}:
                v = s.tangent(theta, torch.randn(s.size, dtype=torch.float64))
                torque = sum((grads[n] * d).sum() for n, d in v.items())
                assert abs(torque) < 1e-11 * sum(grads[n].norm() * d.norm() for n, d in v.items())


# With the rescale symmetries: the diagonal, and whatever else is linear.
DIAGONAL = {
    "linear": 2 + 3, "attention": 12, "attention, fused projection": 12, "grouped queries": 8, "lora": 2,
    "merged lora": 2, "tied": 0, "recurrence": 3, "branches": 3, "heads that mix": 2 + 3,
}  # fmt: skip


@pytest.mark.parametrize("name", DIAGONAL)
def test_all_are_found(name: str) -> None:
    """Recall one, against every linear vector field that moves each parameter by itself.

    A fused projection is one parameter there: its three blocks move apart, each less one motion that moves nothing.
    """
    model, x = built(name)
    extra = {"heads that mix": -1}  # the factor that mixing heads and mixing within them share
    expected = beyond_the_diagonal(matrix_families(record(model, (x,))).families, shapes(model)) + DIAGONAL[name]
    assert linear_symmetries(model, x) == expected + extra.get(name, 0)


@pytest.mark.parametrize("name", CLOSED)
def test_what_forbids_a_matrix(name: str) -> None:
    model = Between(CLOSED[name]).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    assert matrix_families(record(model, (x,))).families == []


@pytest.mark.parametrize("name", OPEN)
def test_what_lets_a_matrix_pass(name: str) -> None:
    model = Between(OPEN[name]).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    (family,) = matrix_families(record(model, (x,))).families
    assert family.name == "a.weight[m], a.bias[m] / c.weight[:, m]"
    assert verify(Experiment(model, (x,), {}, outputs_as_they_are), [family]).true == [True]


def rotations(model: nn.Module, x: Tensor, names: list[str], factors: int) -> None:
    """By name, on the real model, and all there are besides so many factors, among all linear vector fields."""
    found = matrix_families(record(model, (x,))).families
    assert [f"{s.size} {s.name}" for s in found] == names
    verdict = verify(Experiment(model, (x,), {}, outputs_as_they_are), found)
    assert all(verdict.true)
    assert max(verdict.defects) < 1e-12
    assert linear_symmetries(model, x) == beyond_the_diagonal(found, shapes(model)) + factors


@pytest.mark.parametrize("name", TURNED)
def test_what_only_sees_a_length_leaves_rotations(name: str) -> None:
    model, x = Between(TURNED[name]).double(), torch.randn(6, 4, dtype=torch.float64)
    one_factor = 0 if name in ("gate of its length", "RMS norm by hand, large eps") else 1
    rotations(model, x, ["3 rotation of a.weight[m], a.bias[m], c.weight[:, m]"], one_factor)


PRODUCTS = {
    "cosine": (lambda a, b: F.cosine_similarity(a, b, dim=-1), True, 2),
    "normalised": (lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T, True, 2),
    "by hand": (lambda a, b: (a * b).sum(-1), False, 3),
    "mean by hand": (lambda a, b: torch.mul(a, b).mean(dim=(1,)), False, 3),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_two_towers_that_meet_in_inner_products(name: str) -> None:
    product, turned, factors = PRODUCTS[name]
    model, x = TwoTowers(product).double(), torch.randn(6, 4, dtype=torch.float64)
    expected = "3 rotation of a.weight[m], b.weight[m]" if turned else "6 a.weight[m] / b.weight[m]"
    rotations(model, x, [expected], factors)


def test_the_stream_of_a_transformer_without_gains() -> None:
    model, x = Stream().double(), torch.tensor([[0, 1, 2], [3, 4, 1]])
    found = matrix_families(record(model, (x,))).families
    assert [f"{s.size} {s.name}" for s in found] == [
        "6 rotation of positions[:, m], table.weight[:, m], qkv.weight[:, m], o.weight[m], up.weight[:, m], "
        "down.weight[m]",
        "2 rotation of qkv.weight.view(3, 2, 2, 4)[0, i, m], qkv.weight.view(3, 2, 2, 4)[1, i, m]",
        "6 qkv.weight.view(3, 2, 2, 4)[2, i, m] / o.weight.view(4, 2, 2)[:, i, m]",
    ]
    for s in found:  # each by itself, and at random points
        assert verify(Experiment(model, (x,), {}, outputs_as_they_are), [s]).true == [True]
    for seed in range(3):
        theta, grads = gradient(model, x, seed)
        for s in found:
            v = s.tangent(theta, torch.randn(s.size, dtype=torch.float64))
            assert abs(sum((grads[n] * d).sum() for n, d in v.items())) < 1e-11 * sum(
                grads[n].norm() * d.norm() for n, d in v.items()
            )


def rotary(q: Tensor) -> Tensor:
    n = q.shape[-1] // 2
    angle = torch.arange(q.shape[-2], dtype=q.dtype)[:, None] * torch.tensor([1.0, 0.3], dtype=q.dtype)[:n]
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    return q * cos + torch.cat([-q[..., n:], q[..., :n]], -1) * sin


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y(x).view(2, 5, 2, 4).transpose(1, 2) for y in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(rotary(q), rotary(k), v).transpose(1, 2).reshape(2, 5, 8))


def test_rotary_embeddings_leave_rotations_of_pairs_to_queries_and_keys() -> None:
    """By name, on the real model, and against every linear vector field: a phase for each pair of each head."""
    model, x = Rotary().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    found = matrix_families(record(model, (x,))).families
    assert [f"{s.size} {s.name}" for s in found] == [
        "4 rotation of q.weight.view(2, 2, 2, 8)[i, m, j], k.weight.view(2, 2, 2, 8)[i, m, j]",
        "20 v.weight.view(2, 4, 8)[i, m] / o.weight.view(8, 2, 4)[:, i, m]",
    ]
    verdict = verify(Experiment(model, (x,), {}, outputs_as_they_are), found)
    assert verdict.true == [True, True]
    assert max(verdict.defects) < 1e-12
    of_pairs, of_channels = 4, 8  # rescalings
    with torch.device("meta"):
        graph = record(Rotary(), (torch.empty(2, 5, 8),))
    assert [s.name for s in matrix_families(graph).families] == [s.name for s in found]
    assert linear_symmetries(model, x) == beyond_the_diagonal(found, shapes(model)) + of_pairs + of_channels


def test_a_number_that_is_added_to_halves_is_no_rotary_embedding() -> None:
    """As in the activation of Apertus: what looks like the input of an embedding may have no axis at all."""

    class Scalars(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.a, self.b = nn.Linear(6, 4), nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(0.7))

        def forward(self, x: Tensor) -> Tensor:
            h = self.f(x)
            return self.a * self.b.exp() + torch.cat([-h, h], -1) * self.b

    assert not find_symmetries(Scalars().double(), torch.randn(5, 6, dtype=torch.float64)).symmetries


@pytest.mark.parametrize(
    "factor",
    [
        lambda cos, x: torch.cat([cos[..., :2], 2 * cos[..., 2:]], -1),  # another one for the second of each pair
        lambda cos, x: cos * x.mean(),  # nobody knows which
    ],
)
def test_a_rotary_embedding_that_is_none_leaves_nothing(factor) -> None:
    class Bent(Rotary):
        def forward(self, x: Tensor) -> Tensor:
            q, k = (y(x).view(2, 5, 2, 4).transpose(1, 2) for y in (self.q, self.k))
            angle = torch.arange(5, dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.3, 1.0, 0.3], dtype=x.dtype)
            cos, sin = factor(angle.cos(), x), angle.sin()
            q, k = (y * cos + torch.cat([-y[..., 2:], y[..., :2]], -1) * sin for y in (q, k))
            return q @ k.mT

    model, x = Bent().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    assert [s for s in matrix_families(record(model, (x,))).families if "q.weight" in s.parameters] == []


def test_pytorch_transformer() -> None:
    """The encoder layer of PyTorch: fused projections with bias; the key's bias is at rest if it may be shifted."""
    model, x = nn.TransformerEncoderLayer(6, 3, 4, dropout=0.0).double(), torch.randn(4, 2, 6, dtype=torch.float64)
    graph = record(model, (x,))
    qk, vo = matrix_families(graph).families
    assert qk.size == vo.size == 9
    assert "self_attn.in_proj_bias" in qk.parameters
    assert "self_attn.in_proj_bias" not in matrix_families(graph, {"self_attn.in_proj_bias"}).families[0].parameters
    assert verify(Experiment(model, (x,), {}, outputs_as_they_are), [qk, vo]).true == [True, True]


def test_reasons_say_why() -> None:
    def reasons(model: nn.Module, x: Tensor) -> list[str]:
        return [s.reason for s in matrix_families(record(model, (x,))).families]

    assert reasons(*built("lora")) == [
        "an invertible matrix on a is undone by its inverse on b: nothing but linear maps lie in between; diagonal "
        "matrices are the rescale family of these"
    ]
    assert reasons(*built("tied")) == [
        "a rotation on a.weight cancels: only inner products and lengths enter; its charge, an angular momentum, is "
        "always zero under gradient flow"
    ]


def test_frozen_parameters_hold_their_index() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3)).double()
    model[0].requires_grad_(False)
    assert matrix_families(record(model, (torch.randn(4, 3, dtype=torch.float64),))).families == []


def test_the_order_is_that_of_the_parameters_and_does_not_change() -> None:
    model, x = built("attention")
    names = [[s.name for s in matrix_families(record(model, (x,))).families] for _ in range(3)]
    assert names[0] == names[1] == names[2]


def false_claims(model: nn.Module, graph: Graph, x: tuple[Tensor, ...]) -> list[Symmetry]:
    found = matrix_families(graph).families
    verdict = verify(Experiment(model, x, {}, outputs_as_they_are), found)
    return [s for s, true in zip(found, verdict.true, strict=True) if not true]


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_no_false_claim_in_the_zoo(case: Case) -> None:
    model, x = build_zoo(case), case.inputs(torch.Generator().manual_seed(1))
    assert false_claims(model, record(model, x), x) == []


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(programs())
def test_no_false_claim_in_random_networks(case: Case) -> None:
    model, x = build_zoo(case), case.inputs(torch.Generator().manual_seed(1))
    assert false_claims(model, record(model, x), x) == []


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(programs())
def test_no_false_claim_in_two_thousand_random_networks(case: Case) -> None:
    model, x = build_zoo(case), case.inputs(torch.Generator().manual_seed(1))
    assert false_claims(model, record(model, x), x) == []


class Grouped(nn.Module):
    """Two grouped convolutions in a row; `split`: a parameter for each group's kernel, for the oracle."""

    def __init__(self, split: bool, transposed: bool) -> None:
        super().__init__()
        shapes = [(2, 4, 2), (2, 3, 1) if transposed else (3, 2, 1)]  # (out, in, taps) of one group
        g = torch.Generator().manual_seed(0)
        self.w = nn.ParameterList(torch.randn(2 * o, i, t, generator=g) for o, i, t in shapes)
        if split:
            self.w = nn.ParameterList(part for w in self.w for part in w.detach().chunk(2))
        self.read = F.conv_transpose1d if transposed else F.conv1d

    def forward(self, x: Tensor) -> Tensor:
        w = list(self.w)
        first, last = w if len(w) == 2 else (torch.cat(w[:2]), torch.cat(w[2:]))
        return self.read(F.conv1d(x, first, groups=2), last, groups=2)


@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolutions_have_a_matrix_for_each_group(transposed: bool) -> None:
    model, x = Grouped(False, transposed).double(), torch.randn(3, 8, 4, dtype=torch.float64)
    (family,) = matrix_families(record(model, (x,))).families
    assert family.size == 2 * 3
    assert verify(Experiment(model, (x,), {}, outputs_as_they_are), [family]).true == [True]
    diagonal = 2 * 2
    expected = beyond_the_diagonal([family], shapes(model)) + diagonal
    assert linear_symmetries(Grouped(True, transposed).double(), x) == expected


def test_depthwise_convolutions_leave_no_matrix() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 2, groups=4), nn.Conv1d(4, 3, 1)).double()
    assert matrix_families(record(model, (torch.randn(2, 3, 5, dtype=torch.float64),))).families == []


def test_cost_does_not_grow_with_width() -> None:
    counts = []
    for heads in (4, 64):
        with torch.device("meta"):
            model, x = Attention(heads=heads, kv=heads), torch.empty(2, 3, 2 * heads)
        graph = record(model, (x,))
        counts.append([s.size / heads for s in matrix_families(graph).families])
    assert counts[0] == counts[1] == [3, 3]


class Written(nn.Module):
    """Two biases of one sum: shifts of one are undone by the other, yet neither is at rest."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) + self.b(x.tanh()))


def test_find_symmetries_reports_them() -> None:
    model, x = Written().double(), torch.randn(6, 4, dtype=torch.float64)
    found = find_symmetries(model, x)
    (family,) = found.symmetries.of(kind="matrix")
    assert family.name == "a.weight[m], a.bias[m], b.weight[m], b.bias[m] / c.weight[:, m]"
    assert family.defect < 1e-12
    assert found.dimension["matrix"] == 6
    assert "and 6 of mixing" in str(found)


def test_the_bias_of_keys_is_at_rest() -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True, kdim=3, vdim=3).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    found = find_symmetries(model, (torch.randn(2, 4, 4, dtype=torch.float64), x, x))
    assert len(found.symmetries.of(kind="matrix")) == 2
    assert not found.rejected
