"""What detection costs: two forwards and a small system of equations, whatever the width."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from neuromech.detect import find_symmetries
from neuromech.detect.capture import record
from neuromech.detect.equations import rows
from neuromech.detect.find import analyse
from neuromech.detect.interpret import Interpreter, Invariance
from neuromech.detect.operators import RULES


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
    interpreter = Interpreter(record(model, (x,), {}, lambda out: F.cross_entropy(out, y)), RULES)
    interpreter.run([Invariance()])
    domains = (interpreter.scaling, interpreter.translation)
    equations = [e for d in domains for e in d.equations]
    return len(interpreter.unknowns), len(equations), sum(1 for e in equations for _ in rows(e))


def test_the_system_does_not_grow_with_width() -> None:
    narrow, wide = system(8), system(512)
    assert narrow == wide
    assert max(narrow) < 2000


def test_capture_takes_two_forwards_and_verification_six_more() -> None:
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
    assert calls["forward"] <= 2 + 6


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
