"""Sixty-odd more models with state that no state_dict shows: none may train differently for being watched.

Each keeps something that every call of the forward changes, and that the output feels. A forward that were run once
more, or whose state were put back wrongly, would train to other weights.
"""

import array
import collections
import contextvars
import functools
import heapq
import io
import itertools
import operator
import queue
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from probe.test_harmless import Keeper, plain, same
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech

pytestmark = pytest.mark.slow


def counting() -> Iterator[float]:
    n = 0.0
    while True:
        n += 1
        yield n


def receiving() -> Iterator[float]:
    """A coroutine that remembers all that was sent to it."""
    total = 0.0
    while True:
        total += yield total


def primed(g: Any) -> Any:
    next(g)
    return g


def bumped(x: Any, key: Any, by: float = 1) -> float:
    x[key] = x[key] + by
    return float(x[key])


def set_to(owner: Any, name: str, value: Any) -> Any:
    setattr(owner, name, value)
    return value


def tick(owner: Any, name: str = "n") -> float:
    return float(set_to(owner, name, getattr(owner, name) + 1))


def popped(k: Any) -> float:
    k.held.append(k.held.pop(0) + 1)
    return float(k.held[0])


def heaped(k: Any) -> float:
    heapq.heappush(k.held, len(k.held) + heapq.heappop(k.held))
    return float(k.held[0])


def put_back(k: Any) -> float:
    x = k.held.get()
    k.held.put(x + 1)
    return float(x)


def in_bytes(k: Any) -> float:
    k.held.write(b"x")
    return float(k.held.tell())


def locked(k: Any) -> float:
    with k.held[0]:
        return bumped(k.held[1], 0)


def in_context(k: Any) -> float:
    k.held.set(k.held.get() + 1)
    return float(k.held.get())


class Descriptor:
    def __get__(self, owner: Any, kind: Any = None) -> float:
        owner.__dict__["reads"] = owner.__dict__.get("reads", 0) + 1
        return float(owner.__dict__["reads"])


class WithDescriptor(Keeper):
    number = Descriptor()


class WithProperty(Keeper):
    reads = 0

    @property
    def number(self) -> float:
        return tick(self, "reads")


class Meter(nn.Module):
    """A module without parameters that counts what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * (1 + 0.01 * self.seen)


class Node:
    def __init__(self, n: int, following: "Node | None" = None) -> None:
        self.n, self.following = n, following


def linked(k: Any) -> float:
    k.held = Node(k.held.n + 1, k.held)
    return float(k.held.n)


def keep(use: Callable[[Any, Tensor], Any], **held: Callable[[], Any]) -> Callable[[], nn.Module]:
    """A model whose state is made anew each time it is built."""
    return lambda: Keeper(use, **{name: make() for name, make in held.items()})


def made(state: Callable[[], Any], use: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    return keep(lambda k, x: use(k), held=state)


def sub(change: Callable[[nn.Module], None]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = plain()
        change(model)
        return model

    return build


def torch_state(k: Any) -> float:
    return float(torch.randint(0, 5, (1,), generator=k.held))


def lazily(k: Any, x: Tensor) -> Tensor:
    if not hasattr(k, "cache"):
        k.cache = torch.ones(x.shape[1])
    k.cache = k.cache * 1.1
    return k.cache


def as_buffer(k: Any, x: Tensor) -> Tensor:
    if "lazy" not in dict(k.named_buffers()):
        k.register_buffer("lazy", torch.zeros(x.shape[1]))
    k.lazy += 0.1
    return k.lazy.clone()


def keyed(k: Any, x: Tensor) -> float:
    k.held[len(k.held)] = x.detach().mean()
    return len(k.held)


def memory(k: Any, x: Tensor) -> Tensor:
    out = torch.stack(list(k.held)).mean(0) if k.held else x.detach() * 0
    k.held.append(x.detach())
    return out


def gradient_hook(model: nn.Module) -> None:
    calls: list[int] = []
    model[0].weight.register_hook(lambda g: (calls.append(1), g * (1 + 0.01 * len(calls)))[1])


def input_hook(model: nn.Module) -> None:
    calls: list[int] = []
    model[0].register_forward_pre_hook(lambda m, a: (calls.append(1), (a[0] * (1 + 0.01 * len(calls)),))[1])


def backward_hook(model: nn.Module) -> None:
    calls: list[int] = []
    model[2].register_full_backward_hook(
        lambda m, gi, go: (calls.append(1), tuple(g if g is None else g * (1 + 0.01 * len(calls)) for g in gi))[1]
    )


def accumulated_hook(model: nn.Module) -> None:
    calls: list[int] = []

    def scale(p: nn.Parameter) -> None:
        calls.append(1)
        p.grad.mul_(1 + 0.01 * len(calls))

    model[2].bias.register_post_accumulate_grad_hook(scale)


def patched(model: nn.Module) -> None:
    calls, forward = [], model[0].forward
    model[0].forward = lambda x: (calls.append(1), forward(x) * (1 + 0.01 * len(calls)))[1]


def partly(model: nn.Module) -> None:
    counter = itertools.count()
    model[1].forward = functools.partial(lambda c, x: F.relu(x) * (1 + 0.01 * next(c)), counter)


def saved_tensors(k: Any, x: Tensor) -> float:
    def pack(t: Tensor) -> Tensor:
        k.held.append(1)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        (k.net[0](x) ** 2).sum()
    return len(k.held)


def dispatched(k: Any, x: Tensor) -> float:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            k.held.append(1)
            return func(*args, **(kwargs or {}))

    with Counting():
        (x + 1).sum()
    return len(k.held)


def functions(k: Any, x: Tensor) -> float:
    from torch.overrides import TorchFunctionMode

    class Counting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            k.held.append(1)
            return func(*args, **(kwargs or {}))

    with Counting():
        torch.add(x, 1).sum()
    return len(k.held)


def cached(k: Any, x: Tensor) -> float:
    return k.held[0](len(k.held[1]) // 2) + float(k.held[1].append(1) or 0)


def remembered() -> tuple[Any, list[int]]:
    misses: list[int] = []

    @functools.lru_cache
    def compute(key: int) -> float:
        misses.append(key)
        return float(len(misses))

    return compute, misses


STATE = types.SimpleNamespace
LISTS: dict[str, Callable[[], nn.Module]] = {
    "generator function": made(counting, lambda k: next(k.held)),
    "coroutine": made(lambda: primed(receiving()), lambda k: k.held.send(1.0)),
    "cycle": made(lambda: itertools.cycle([0.1, 0.5, 0.2]), lambda k: next(k.held)),
    "chain": made(lambda: itertools.chain([0.1, 0.2], itertools.count(1)), lambda k: float(next(k.held))),
    "islice": made(lambda: itertools.islice(itertools.count(), 0, None, 3), lambda k: float(next(k.held))),
    "accumulate": made(lambda: itertools.accumulate(itertools.count()), lambda k: float(next(k.held)) % 7),
    "zip": made(lambda: zip(itertools.count(), itertools.count(2), strict=False), lambda k: float(sum(next(k.held)))),
    "map": made(lambda: map(float, itertools.count()), lambda k: next(k.held)),
    "filter": made(lambda: filter(lambda i: i % 2, itertools.count()), lambda k: float(next(k.held))),
    "enumerate": made(lambda: enumerate(itertools.repeat(1)), lambda k: float(sum(next(k.held)))),
    "reversed": made(lambda: reversed(range(50)), lambda k: next(k.held) / 50),
    "iterator of a dict": made(lambda: iter({i: i for i in range(50)}), lambda k: next(k.held) / 50),
    "tee": made(lambda: itertools.tee(itertools.count())[0], lambda k: float(next(k.held))),
    "file": made(lambda: io.StringIO("1\n2\n3\n4\n5\n6\n7\n8\n9\n"), lambda k: float(k.held.readline())),
    "bytes": made(io.BytesIO, in_bytes),
    "counter": made(collections.Counter, lambda k: bumped(k.held, "a")),
    "default dict": made(lambda: collections.defaultdict(int), lambda k: bumped(k.held, "a")),
    "ordered dict": made(collections.OrderedDict, lambda k: float(len(k.held)) + (k.held.setdefault(len(k.held)) or 0)),
    "chain map": made(lambda: collections.ChainMap({"n": 0}), lambda k: bumped(k.held, "n")),
    "user dict": made(lambda: collections.UserDict(n=0), lambda k: bumped(k.held, "n")),
    "set": made(set, lambda k: (k.held.add(len(k.held)), float(len(k.held)))[1]),
    "bytearray": made(lambda: bytearray(1), lambda k: bumped(k.held, 0)),
    "array": made(lambda: array.array("d", [0.0]), lambda k: bumped(k.held, 0)),
    "memory view": made(lambda: memoryview(bytearray(1)), lambda k: bumped(k.held, 0)),
    "heap": made(lambda: [1, 2, 3], heaped),
    "rotating list": made(lambda: [1, 2, 3], popped),
    "queue": made(lambda: (q := queue.Queue(), q.put(1))[0], put_back),
    "lock": made(lambda: (threading.Lock(), [0]), locked),
    "thread local": made(lambda: (t := threading.local(), set_to(t, "n", 0))[0], lambda k: tick(k.held)),
    "context variable": made(lambda: contextvars.ContextVar("n", default=0), in_context),
    "weak reference": keep(lambda k, x: tick(k.held()), held=lambda: weakref.ref(FOR_EVER[-1])),
    "linked list": made(lambda: Node(0), linked),
    "bound method": made(lambda: [].append, lambda k: (k.held(1), float(len(k.held.__self__)))[1]),
    "partial": made(lambda: functools.partial(next, itertools.count()), lambda k: float(k.held())),
    "cache of a function": keep(cached, held=remembered),
    "default argument": made(lambda: lambda seen=[]: (seen.append(1), float(len(seen)))[1], lambda k: k.held()),
    "function attribute": made(lambda: (f := lambda: 0, set_to(f, "n", 0))[0], lambda k: tick(k.held)),
    "operator": made(lambda: [0], lambda k: (operator.iadd(k.held, [1]), float(len(k.held)))[1]),
    "own attribute": made(lambda: 0, lambda k: tick(k, "held")),
    "descriptor": lambda: WithDescriptor(lambda k, x: k.number),
    "property": lambda: WithProperty(lambda k, x: k.number),
    "numpy random state": made(lambda: np.random.RandomState(0), lambda k: float(k.held.rand())),
    "numpy philox": made(lambda: np.random.Generator(np.random.Philox(1)), lambda k: float(k.held.normal())),
    "numpy seed sequence": made(
        lambda: np.random.SeedSequence(1), lambda k: float(k.held.spawn(1)[0].generate_state(1)[0] % 7)
    ),
    "numpy structured": made(lambda: np.zeros(1, [("n", "f8")]), lambda k: bumped(k.held["n"], 0)),
    "numpy iterator": made(lambda: np.nditer(np.arange(50.0)), lambda k: float(next(k.held))),
    "system random": made(lambda: random.Random(3), lambda k: k.held.gauss(0, 1)),
    "torch generator in a list": made(
        lambda: STATE(g=[torch.Generator().manual_seed(1)]), lambda k: float(torch.rand(1, generator=k.held.g[0]))
    ),
    "integers of a generator": made(lambda: torch.Generator().manual_seed(5), torch_state),
    "permutation": keep(
        lambda k, x: x[:, torch.randperm(x.shape[1], generator=k.held)],
        held=lambda: torch.Generator().manual_seed(2),
    ),
    "tensor in a tuple": keep(lambda k, x: k.held[0].add_(0.1).clone(), held=lambda: (torch.zeros(8),)),
    "tensor in a namespace": keep(lambda k, x: k.held.t.add_(0.1).clone(), held=lambda: STATE(t=torch.zeros(8))),
    "sparse tensor": keep(
        lambda k, x: set_to(k, "held", k.held + k.held).to_dense(), held=lambda: 0.1 * torch.eye(8)[0].to_sparse()
    ),
    "buffer made lazily": lambda: Keeper(as_buffer),
    "cache made lazily": lambda: Keeper(lazily),
    "growing dict of tensors": keep(keyed, held=dict),
    "memory of inputs": keep(memory, held=lambda: collections.deque(maxlen=2)),
    "module without parameters": sub(lambda m: set_to(m, "1", Meter())),
    "patched forward": sub(patched),
    "partial for a forward": sub(partly),
    "hook on an input": sub(input_hook),
    "hook on a gradient": sub(gradient_hook),
    "hook on a backward": sub(backward_hook),
    "hook on what has arrived": sub(accumulated_hook),
    "hook on saved tensors": keep(saved_tensors, held=list),
    "dispatch mode": keep(dispatched, held=list),
    "function mode": keep(functions, held=list),
    "dropout": sub(lambda m: set_to(m, "1", nn.Sequential(nn.ReLU(), nn.Dropout(0.3)))),
    "batch norm": sub(lambda m: set_to(m, "1", nn.Sequential(nn.BatchNorm1d(16), nn.ReLU()))),
    "spectral norm": sub(lambda m: nn.utils.parametrizations.spectral_norm(m[2]) and None),
}
FOR_EVER = [Node(0)]


@pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", LISTS)
def test_it_trains_alike(name: str) -> None:
    def build() -> nn.Module:
        FOR_EVER.append(Node(0))
        return LISTS[name]()

    probe = same(build)
    assert isinstance(probe, neuromech.Probe)
    assert "4 steps" in repr(probe) or "stands aside" in repr(probe)


def test_there_are_enough_of_them() -> None:
    from probe.test_harmless import HIDDEN

    assert len(LISTS) + len(HIDDEN) >= 80
