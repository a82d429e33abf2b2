"""What detection costs: two forwards and a small system of equations, whatever the width."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Case, Net

from detect.oracle import check_exactly
from neuromech.detect import find_symmetries
from neuromech.detect.capture import record
from neuromech.detect.equations import rows
from neuromech.detect.find import analyse
from neuromech.detect.interpret import Interpreter, Invariance


class Block(nn.Module):
    def __init__(self, c_in: int, c: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c, 3, stride, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c),
        )  # fmt: skip
        short = nn.Sequential(nn.Conv2d(c_in, c, 1, stride, bias=False), nn.BatchNorm2d(c))
        self.shortcut = short if stride > 1 or c_in != c else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet18(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    c_in = width
    for stage in range(4):
        for first in (True, False):
            layers.append(Block(c_in, width << stage, 2 if first and stage else 1))
            c_in = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, 10))


def batch(n: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 32, 32, device=device), torch.randint(10, (n,), device=device)


def system(width: int) -> tuple[int, int, int]:
    """Unknown functions, equations between functions, equations between numbers."""
    x, y = batch(32, "meta")
    with torch.device("meta"):
        model = resnet18(width)
    interpreter = Interpreter(record(model, (x,), {}, lambda out: F.cross_entropy(out, y)))
    interpreter.run([Invariance()])
    domains = (interpreter.scaling, interpreter.translation)
    equations = [e for d in domains for e in d.equations]
    return len(interpreter.unknowns), len(equations), sum(1 for e in equations for _ in rows(e))


def test_the_system_does_not_grow_with_width() -> None:
    narrow, wide = system(8), system(512)
    assert narrow == wide
    assert max(narrow) < 2000


def test_capture_takes_two_forwards_verification_six_more_and_permutations_two() -> None:
    calls = {"forward": 0}

    def counted(m: Net, x: Tensor) -> Tensor:
        calls["forward"] += 1
        return m.net(x)

    x, y = batch(2)
    model = Net(counted, net=resnet18(2))
    found = find_symmetries(model, x, loss=F.cross_entropy, target=y, verify=False)
    assert calls == {"forward": 2}
    assert len(found) == 37
    calls["forward"] = 0
    find_symmetries(model, x, loss=F.cross_entropy, target=y)
    assert calls["forward"] <= 2 + 6 + 2


@pytest.mark.slow
def test_capture_and_solution_take_less_than_three_forward_backward_passes() -> None:
    x, y = batch(32)
    model = resnet18(64)

    def loss(out: Tensor) -> Tensor:
        return F.cross_entropy(out, y)

    def trained() -> None:
        loss(model(x)).backward()

    def detected() -> None:
        analyse(model, record(model, (x,), {}, loss), [Invariance()], None)

    def seconds(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    trained(), detected()
    ratios = [seconds(detected) / seconds(trained) for _ in range(5)]  # paired, as the machine has other work
    print(f"capture and solution: {statistics.median(ratios):.2f} forward-backward passes")
    assert statistics.median(ratios) < 3


def size_of(model: nn.Module, x: Tensor) -> int:
    """The numbers in all equations: what detection has to read, whatever the machine."""
    interpreter = Interpreter(record(model, (x,)))
    interpreter.run([Invariance()])
    equations = [e for d in (interpreter.scaling, interpreter.translation) for e in d.equations]
    return sum(len(row) for e in equations for row in rows(e))


class Dense(nn.Module):
    """x and f(x) side by side, again and again; `norm`: a group norm whose groups straddle the seams."""

    def __init__(self, depth: int, norm: bool = False) -> None:
        super().__init__()
        sizes = [6 + 4 * i for i in range(depth)]
        self.norms = nn.ModuleList(nn.GroupNorm(2, n) if norm else nn.Identity() for n in sizes)
        self.maps = nn.ModuleList(nn.Linear(n, 4) for n in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for norm, f in zip(self.norms, self.maps, strict=True):
            x = torch.cat([x, F.relu(f(norm(x)))], 1)
        return x


class Permuted(nn.Module):
    """Layers that read the channels of the one before in an order of their own."""

    def __init__(self, depth: int, n: int) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.randn(n, n) for _ in range(depth)])
        self.orders = [torch.randperm(n) for _ in range(depth)]

    def forward(self, x: Tensor) -> Tensor:
        for w, order in zip(self.w, self.orders, strict=True):
            x = F.relu(x[:, order] @ w)
        return x


class Windows(nn.Module):
    """Attention in a window of w x w with a bias for every relative position."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.table = nn.Parameter(torch.randn((2 * w - 1) ** 2))
        at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
        there = at[:, :, None] - at[:, None] + w - 1
        self.register_buffer("index", there[0] * (2 * w - 1) + there[1])

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.flatten()].view(self.index.shape)
        return (self.q(x) @ self.k(x).mT + bias).softmax(-1) @ self.v(x)


class Steps(nn.Module):
    """A differential equation solved in steps: one layer after another adds to what it reads, all with one weight."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.a, self.b = n, nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.n):
            x = x + 0.1 * self.b(torch.tanh(self.a(x)))
        return x


class MergedWindows(nn.Module):
    """Attention in windows of w tokens, and then pairs of tokens as one: pairs lie across the edges of windows."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.w, self.norm = w, nn.LayerNorm(4)
        self.qkv, self.o, self.pair = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x).view(len(x), -1, self.w, 4)).chunk(3, -1)
        x = x + self.o((q @ k.mT).softmax(-1) @ v).view(x.shape)
        return self.pair(x.reshape(len(x), -1, 8))


@pytest.mark.parametrize(
    "model",
    [lambda n: (Dense(n), 6), lambda n: (Permuted(n, 6), 6), lambda n: (Dense(n, norm=True), 6)],
    ids=["dense", "permuted", "dense, normalised in groups"],
)
def test_depth_costs_its_square_at_most(model: Callable[[int], tuple[nn.Module, int]]) -> None:
    sizes = []
    for depth in (4, 8, 16):
        net, width = model(depth)
        sizes.append(size_of(net, torch.randn(3, width)))
    assert sizes[2] - sizes[1] <= 4.5 * (sizes[1] - sizes[0])


def test_steps_of_one_layer_cost_no_more_than_their_number() -> None:
    sizes = [size_of(Steps(n), torch.randn(3, 6)) for n in (4, 8, 16)]
    assert sizes[2] - sizes[1] <= 2 * (sizes[1] - sizes[0])


def test_windows_that_are_cut_anew_cost_nothing() -> None:
    small, large = (size_of(MergedWindows(w), torch.randn(2, 4 * w, 4)) for w in (3, 7))
    assert small == large
    check_exactly(Case("merged windows", lambda: MergedWindows(3), ((2, 6, 4),), "output", ()), 4)  # the bias of keys


def test_a_window_costs_nothing() -> None:
    small, large = (size_of(Windows(w), torch.randn(2, w * w, 4)) for w in (3, 7))
    assert small == large
    assert find_symmetries(Windows(7), torch.randn(2, 49, 4)).dimension == {
        "scaling": 4, "translation": 4 + 1, "matrix": 4**2 - 4}  # fmt: skip
