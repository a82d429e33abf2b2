"""Random networks: a program is a list of (operator, option); whatever does not fit the shape at hand is left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import LOSSES, Case

Program = list[tuple[str, int]]
Step = Callable[[Tensor, list[Tensor]], Tensor]


class RandomNet(nn.Module):
    """Runs a program on tensors [batch, channels] or [batch, channels, height, width]."""

    def __init__(self, program: Program, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.eps = 1e-14  # of norms by hand; an attribute, so that the oracle can vary it as it does any norm's
        self.parts = nn.ModuleList()
        self.weights = nn.ParameterList()
        self.steps: list[Step] = []
        x = torch.randn(shape)
        seen = [x]
        for name, option in program:
            if (step := OPERATORS[name](self, x, option, seen)) is not None:
                x = step(x, seen)
                seen.append(x)
                self.steps.append(step)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for step in self.steps:
            seen.append(step(seen[-1], seen))
        return seen[-1].flatten(1)

    def module(self, m: nn.Module) -> nn.Module:
        self.parts.append(m)
        return m

    def weight(self, *shape: int) -> Callable[[], nn.Parameter]:
        """A new parameter, to be looked up anew at every forward."""
        i = len(self.weights)
        self.weights.append(nn.Parameter(torch.randn(shape)))
        return lambda: self.weights[i]


Operator = Callable[[RandomNet, Tensor, int, list[Tensor]], Step | None]
OPERATORS: dict[str, Operator] = {}


def operator(build: Operator) -> Operator:
    OPERATORS[build.__name__] = build
    return build


@operator
def linear(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    layer = m.module(nn.Linear(x.shape[-1], 2 + k % 3, bias=k >= 4))
    return lambda x, _: layer(x)


@operator
def again(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """An earlier layer once more: shared weights."""
    fit = [p for p in m.parts if isinstance(p, nn.Linear) and p.in_features == x.shape[-1]]
    return (lambda x, _: fit[k % len(fit)](x)) if fit else None


@operator
def backwards(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """The transpose of an earlier layer: tied weights."""
    fit = [p for p in m.parts if isinstance(p, nn.Linear) and p.out_features == x.shape[-1]]
    return (lambda x, _: x @ fit[k % len(fit)].weight) if fit else None


@operator
def conv(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    if x.ndim < 4:
        return None
    c = x.shape[1]
    groups = (1, 1, c, 2 if c % 2 == 0 else 1)[k % 4]
    layer = m.module(nn.Conv2d(c, c if k % 4 >= 2 else 2, 1 + 2 * (k % 2), padding=k % 2, groups=groups, bias=k >= 4))
    return lambda x, _: layer(x)


@operator
def pool(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    if x.ndim < 4:
        return None
    pools = (
        nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1),
        nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d((2, 1)), nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AvgPool2d(2, 1, divisor_override=3),
    )  # fmt: skip
    smallest = 1 if k in (2, 3, 4, 6) else 2
    return (lambda x, _: pools[k](x)) if min(x.shape[2:]) >= smallest else None


@operator
def norm(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Over at least three entries: fewer, standardised, are nothing but signs."""
    c, affine = x.shape[1], k >= 4
    groups = 2 if c % 2 == 0 else 1
    if x.ndim == 2:
        layer = nn.LayerNorm(c, elementwise_affine=affine) if k % 2 and c > 2 else nn.BatchNorm1d(c, affine=affine)
    elif k % 4 == 1 and x[0, 0].numel() > 2:
        layer = nn.InstanceNorm2d(c, affine=affine)
    elif k % 4 == 2 and x[0].numel() > 2 * groups:
        layer = nn.GroupNorm(groups, c, affine=affine)
    else:
        layer = nn.BatchNorm2d(c, affine=affine)
    layer = m.module(layer.eval() if k == 3 else layer)

    def step(x: Tensor, _: list[Tensor]) -> Tensor:
        y = layer(x)
        if y.requires_grad and not y.is_inference():
            # PyTorch 2.13 returns wrong gradients of batch norm on the CPU for strides like (6, 1, 2, 2) of its own.
            y.register_hook(Tensor.contiguous)
        return y

    return step


@operator
def activation(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    functions = (
        F.relu, F.leaky_relu, torch.abs, torch.square, torch.tanh, F.gelu, lambda x: F.dropout(x, 0.3),
        lambda x: x.abs().sqrt(),
    )  # fmt: skip
    return lambda x, _: functions[k](x)


@operator
def relu(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    return lambda x, _: F.relu(x)


@operator
def gain(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """A parameter that multiplies or is added: one number, one a channel, one an element."""
    trailing = (1,) * (x.ndim - 2)
    shape = ((), (x.shape[1], *trailing), x.shape[1:], (1, *trailing))[k % 4]
    w = m.weight(*shape)
    return (lambda x, _: x * w()) if k < 4 else (lambda x, _: x + w())


@operator
def number(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    functions = (
        lambda x: 0.1 * x, lambda x: -x, lambda x: x / 3, lambda x: x + 1, lambda x: 1 - x, lambda x: x.clone(),
        lambda x: x.to(x.dtype), lambda x: x - 0,
    )  # fmt: skip
    return lambda x, _: functions[k](x)


@operator
def meet(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """The sum, difference, product or quotient with an earlier tensor of the same shape."""
    fit = [i for i, y in enumerate(seen[:-1]) if y.shape == x.shape]
    if not fit:
        return None
    i = fit[k % len(fit)]
    functions = (torch.add, torch.sub, torch.mul, lambda a, b: a / (b.abs() + b.square()))
    return lambda x, seen: functions[k // 2](x, seen[i])


@operator
def branches(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Two layers that read one tensor, added."""
    n = x.shape[-1]
    a, b = (m.module(nn.Linear(n, 2 + k % 3, bias=k >= 4)) for _ in range(2))
    return lambda x, _: a(x) + b(x)


@operator
def convolved_branches(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    if x.ndim < 4:
        return None
    sizes = ((1, 1), (3, 3), (1, 3), (3, 1))[k % 4]
    a, b = (m.module(nn.Conv2d(x.shape[1], 2, s, padding=s // 2, bias=k >= 4)) for s in sizes)
    return lambda x, _: a(x) + b(x)


@operator
def reduce(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    dims = ((1,), (2,), (3,), (2, 3))[k % 4]
    if max(dims) >= x.ndim:
        return None
    functions = (torch.sum, torch.mean) if k < 4 else (torch.mean, torch.amax)
    return lambda x, _: functions[k % 2](x, dims, keepdim=True)


@operator
def move(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    c = x.shape[1]
    if k in (0, 1):
        return lambda x, _: x.flatten(1)
    if k in (2, 3):
        # Contiguous: PyTorch 2.13 returns wrong gradients of batch norm for strides like (8, 1, 2, 8) on the CPU.
        return lambda x, _: x.transpose(1, -1).contiguous()
    if k == 4 and c == 4:
        return lambda x, _: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
    if k == 5 and x.ndim == 4:
        return lambda x, _: x.transpose(2, 3).contiguous()
    if k == 6 and x.ndim == 2:
        return lambda x, _: x.unsqueeze(1).expand(-1, 2, c).flatten(1)
    return (lambda x, _: x.unflatten(1, (1, c)).squeeze(1)) if k == 7 else None


@operator
def mix(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Products of matrices: with a bare parameter, with itself, an attention."""
    n = x.shape[-1]
    if k < 4 and x.ndim == 2:
        w = m.weight(n, 2 + k % 3)
        return lambda x, _: x @ w()
    if k < 6 and x.ndim == 4:
        return lambda x, _: x @ x.mT
    return lambda x, _: torch.softmax(x, -1)


@operator
def unit(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Division by the length of a tensor, or of a weight."""
    dim = 1 + k % (x.ndim - 1)
    if k < 4:
        return (lambda x, _: x / torch.linalg.vector_norm(x, dim=dim, keepdim=True)) if x.shape[dim] > 1 else None
    if x.shape[-1] == 1:
        return None
    w = m.weight(x.shape[-1], 2)
    return lambda x, _: x @ (w() / torch.linalg.vector_norm(w(), dim=k % 2, keepdim=True))


@operator
def stop(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Things that nothing may pass: an operator without a rule, or a detached copy."""
    if k < 4:
        return lambda x, _: x.cumsum(1)
    return (lambda x, _: x * x.detach()) if k < 6 else (lambda x, _: x + x.detach().mean())


def programs() -> st.SearchStrategy[Case]:
    steps = st.tuples(st.sampled_from(sorted(OPERATORS)), st.integers(0, 7))
    return st.builds(
        case_of,
        st.lists(steps, min_size=3, max_size=10),
        st.sampled_from([(5, 3), (5, 4), (4, 2, 3, 3), (4, 1, 4, 2)]),
        st.sampled_from(sorted(set(LOSSES) - {"nll"})),
    )


def case_of(program: Program, shape: tuple[int, ...], loss: str) -> Case:
    return Case(f"{program} on {shape}, {loss}", lambda: RandomNet(program, shape), (shape,), loss, ())
