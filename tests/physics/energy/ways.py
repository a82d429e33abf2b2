"""Ways in which an energy changes that are not a value in a place: each gives the energy, then changes it.

What is changed for the whole process is taken back at the end.
"""

import contextlib
import functools
import math
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.physics.energy.held import Energy, Plain, quartic

Way = Callable[[], Iterator[Energy]]
WAYS: dict[str, Way] = {}
NUMBER, TABLE, CHANGED = 1.0, {"k": 1.0}, 1.0
SETTINGS = "settings_of_a_user"  # a module that the test takes out again, after the last call of the energy


def way(f: Way) -> Way:
    WAYS[f.__name__.replace("_", " ").strip()] = f
    return f


@contextlib.contextmanager
def patched(x: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(x)[name]
    setattr(x, name, value)
    try:
        yield
    finally:
        setattr(x, name, before)


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1), Total())


class Net(nn.Module):
    level, table = 1.0, {"k": 1.0}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.drop, self.last = nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)
        self.k = 1.0
        self.drop.eval()

    def factor(self) -> float:
        return self.k

    @property
    def doubled(self) -> float:
        return 2 * self.factor()

    @staticmethod
    def still() -> float:
        return 1.0

    @classmethod
    def of_class(cls) -> float:
        return cls.level

    @functools.cached_property
    def once(self) -> float:
        return self.k

    def forward(self, u: Tensor) -> Tensor:
        h = self.last(self.drop(self.act(self.first(u)))).sum(-1)
        return h * self.doubled * self.still() * self.of_class() * self.table["k"] + (u * u).sum(-1)


def _module_way(name: str, change: Callable[[Net], Any]) -> None:
    def run() -> Iterator[Energy]:
        m = Net()
        yield m
        change(m)

    WAYS[name] = run


def _set(path: str, value: Any) -> Callable[[Net], Any]:
    *owner, name = path.split(".")
    return lambda m: setattr(functools.reduce(getattr, owner, m), name, value() if callable(value) else value)


for _name, _change in {
    "attribute": _set("k", 3.0),
    "activation": _set("act", nn.Softplus),
    "attribute of a part": _set("act", lambda: nn.Softplus(beta=2.0)),
    "layer": _set("first", lambda: nn.Linear(6, 8)),
    "layer without bias": _set("first.bias", lambda: None),
    "weight": _set("last.weight", lambda: nn.Parameter(torch.randn(1, 8))),
    "data of a weight": lambda m: m.last.weight.data.mul_(2),
    "other data of a weight": lambda m: setattr(m.last.weight, "data", torch.randn(1, 8)),
    "weight in place": lambda m: nn.init.normal_(m.last.weight),
    "state dict": lambda m: m.load_state_dict({k: 2 * v for k, v in m.state_dict().items()}),
    "state dict assigned": lambda m: m.load_state_dict({k: 2 * v for k, v in m.state_dict().items()}, assign=True),
    "forward of a part": lambda m: setattr(m.act, "forward", torch.sin),
    "forward of its own": lambda m: setattr(m, "forward", lambda u: quartic(u, 3.0)),
    "method of its own": lambda m: setattr(m, "factor", lambda: 3.0),
    "hook": lambda m: m.act.register_forward_hook(lambda m, x, y: 2 * y),
    "hook before": lambda m: m.first.register_forward_pre_hook(lambda m, x: (2 * x[0],)),
    "hook with keywords": lambda m: m.act.register_forward_hook(lambda m, x, kw, y: 2 * y, with_kwargs=True),
    "hook of the whole": lambda m: m.register_forward_hook(lambda m, x, y: 2 * y),
    "weight norm": lambda m: parametrizations.weight_norm(m.first),
    "orthogonal": lambda m: parametrizations.orthogonal(m.first),
    "pruning": lambda m: prune.random_unstructured(m.first, "weight", 0.5),
    "parametrization": lambda m: parametrize.register_parametrization(m.first, "weight", nn.Tanh()),
    "frozen": lambda m: m.requires_grad_(False),
    "buffer": lambda m: m.register_buffer("extra", torch.ones(1)),
    "class": lambda m: setattr(m, "__class__", type("Other", (Net,), {"factor": lambda self: 3.0})),
    "class of a part": lambda m: setattr(m.act, "__class__", nn.Sigmoid),
    "dropout away": _set("drop", nn.Identity),
    "dropout of nothing": lambda m: (setattr(m.drop, "p", 0.0), m.train()),
    "nothing": lambda m: None,
}.items():
    _module_way(f"module: {_name}", _change)

for _name, _value in {
    "level": 3.0,
    "table": {"k": 3.0},
    "factor": lambda self: 3.0,
    "doubled": property(lambda self: 3.0),
    "still": staticmethod(lambda: 3.0),
    "of_class": classmethod(lambda cls: 3.0),
    "forward": lambda self, u: quartic(u, 3.0),
    "__call__": lambda self, u: quartic(u, 3.0),
}.items():

    def _run(name: str = _name, value: Any = _value) -> Iterator[Energy]:
        m = Net()
        yield m
        with patched(Net, name, value) if name in vars(Net) else _attached(Net, name, value):
            yield m

    WAYS[f"class: {_name}"] = _run


@contextlib.contextmanager
def _attached(x: Any, name: str, value: Any) -> Iterator[None]:
    setattr(x, name, value)
    try:
        yield
    finally:
        delattr(x, name)


@way
def parts_of_a_sequence() -> Iterator[Energy]:
    m = net()
    yield m
    m[1] = nn.SiLU()
    yield m
    m.insert(1, nn.Tanh())
    yield m
    del m[1]
    yield m
    m.append(nn.Softplus())


@way
def a_part_in_two_places() -> Iterator[Energy]:
    m = net()
    m[2] = nn.Linear(8, 8)
    m.insert(3, nn.Tanh())
    m.insert(4, m[2])
    yield m
    assert type(m[2].weight) is nn.Parameter  # torch's own functional_call leaves what stood for it in the trace
    m[2].weight.data.mul_(2)
    yield m
    m[4] = nn.Linear(8, 8)
    yield m
    m[2].weight = m[4].weight


@way
def hooks_of_all_modules() -> Iterator[Energy]:
    m = net()
    yield m
    for hook in (
        nn.modules.module.register_module_forward_hook(lambda m, x, y: 2 * y),
        nn.modules.module.register_module_forward_pre_hook(lambda m, x: (2 * x[0],)),
    ):
        try:
            yield m
        finally:
            hook.remove()
        yield m


@way
def buffer_as_a_number() -> Iterator[Energy]:
    class Annealed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("beta", torch.ones(()))

        def forward(self, u: Tensor) -> Tensor:
            return quartic(u, float(self.beta) if self.beta else 0.0)

    m = Annealed()
    yield m
    m.beta.data.fill_(1 + 1e-9)
    yield m
    m.beta = torch.tensor(0.0)


@way
def exponent_of_negative_numbers() -> Iterator[Energy]:
    p = torch.tensor(2.0)
    yield lambda u: (u**p).sum(-1)
    p.fill_(3.0)
    yield lambda u: (u**p).sum(-1)


@way
def lazy_layers() -> Iterator[Energy]:
    m = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(1), Total())
    yield m
    m[0] = nn.LazyLinear(6)


@way
def modes_of_a_part() -> Iterator[Energy]:
    class Moody(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return 2 * u if self.training else u

    m = nn.Sequential(Moody(), net())
    yield m
    m[0].eval()
    yield m
    m.train()


@way
def rebound_cell() -> Iterator[Energy]:
    k = 1.0
    yield lambda u: quartic(u, k)
    k = 3.0


@way
def rebound_tensor() -> Iterator[Energy]:
    w = torch.randn(6)
    yield lambda u: quartic(u * w, 1.0)
    w = torch.randn(6)


@way
def module_in_a_closure() -> Iterator[Energy]:
    m = net()
    yield lambda u: m(u)
    m[1] = nn.SiLU()


@way
def defaults_of_a_function() -> Iterator[Energy]:
    def f(u: Tensor, k: float = 1.0, *, c: float = 1.0) -> Tensor:
        return quartic(u, k * c)

    yield f
    f.__defaults__ = (3.0,)
    yield f
    f.__kwdefaults__["c"] = 2.0


@way
def code_of_a_function() -> Iterator[Energy]:
    def f(u: Tensor) -> Tensor:
        return quartic(u, 1.0)

    yield f
    f.__code__ = (lambda u: quartic(u, 3.0)).__code__


@way
def number_of_the_module() -> Iterator[Energy]:
    def raised() -> None:
        global CHANGED
        CHANGED += 1.0

    yield lambda u: quartic(u, CHANGED)
    raised()


@way
def number_patched() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, NUMBER)

    yield energy
    with patched(sys.modules[__name__], "NUMBER", 3.0):
        yield energy


@way
def table_of_the_module() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, TABLE["k"])

    yield energy
    TABLE["k"] += 1.0


@way
def globals_by_name() -> Iterator[Energy]:
    yield lambda u: quartic(u, globals()["CHANGED"])
    globals()["CHANGED"] += 1.0


def helper() -> float:
    return 1.0


@way
def function_of_the_module() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, helper())

    yield energy
    with patched(sys.modules[__name__], "helper", lambda: 3.0):
        yield energy


def _settings(**values: Any) -> types.ModuleType:
    m = sys.modules[SETTINGS] = types.ModuleType(SETTINGS)
    vars(m).update(values)
    return m


@way
def number_of_another_module() -> Iterator[Energy]:
    conf = _settings(k=1.0)
    yield lambda u: quartic(u, conf.k)
    conf.k = 3.0


@way
def object_of_another_module() -> Iterator[Energy]:
    conf = _settings(inner=_settings(x=Plain()))
    yield lambda u: quartic(u, conf.inner.x.k)
    conf.inner.x.k = 3.0


@way
def function_of_another_module() -> Iterator[Energy]:
    conf = _settings()
    exec("k = 1.0\ndef read():\n    return k", vars(conf))
    yield lambda u: quartic(u, conf.read())
    conf.k = 3.0


@way
def module_by_name() -> Iterator[Energy]:
    conf = _settings(k=1.0)
    name = "k"
    yield lambda u: quartic(u, getattr(conf, name))
    conf.k = 3.0


@way
def import_inside() -> Iterator[Energy]:
    conf = _settings(k=1.0)

    def energy(u: Tensor) -> Tensor:
        import settings_of_a_user

        return quartic(u, settings_of_a_user.k)

    yield energy
    conf.k = 3.0


@way
def import_of_a_name_inside() -> Iterator[Energy]:
    conf = _settings(k=1.0)

    def energy(u: Tensor) -> Tensor:
        from settings_of_a_user import k

        return quartic(u, k)

    yield energy
    conf.k = 3.0


@way
def import_under_another_name() -> Iterator[Energy]:
    conf = _settings(k=1.0)

    def energy(u: Tensor) -> Tensor:
        import settings_of_a_user as s

        return quartic(u, (lambda: s.k)())

    yield energy
    conf.k = 3.0


@way
def attribute_of_a_module_of_an_object() -> Iterator[Energy]:
    x = Plain()
    x.conf = _settings(k=1.0)  # type: ignore[attr-defined]
    yield lambda u: quartic(u, x.conf.k)  # type: ignore[attr-defined]
    x.conf.k = 3.0  # type: ignore[attr-defined]


@way
def names_that_a_module_makes_up() -> Iterator[Energy]:
    conf = _settings(hidden={"k": 1.0})
    exec("def __getattr__(n):\n    if n in hidden:\n        return hidden[n]\n    raise AttributeError", vars(conf))
    yield lambda u: quartic(u, conf.k)
    conf.hidden["k"] = 3.0


@way
def function_of_torch_patched() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return torch.tanh(u).sum(-1)

    yield energy
    with patched(torch, "tanh", torch.sin):
        yield energy


@way
def constant_of_the_library() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, math.pi)

    yield energy
    with patched(math, "pi", 3.0):
        yield energy


@way
def forward_of_a_library_patched() -> Iterator[Energy]:
    m = net()
    yield m
    with patched(nn.Tanh, "forward", lambda self, x: torch.sin(x)):
        yield m


@way
def environment() -> Iterator[Energy]:
    yield from _environment(lambda: float(os.environ.get("NEUROMECH_TEST", "1")))


@way
def environment_by_getenv() -> Iterator[Energy]:
    yield from _environment(lambda: float(os.getenv("NEUROMECH_TEST", "1")))


@way
def environment_imported_inside() -> Iterator[Energy]:
    def read() -> float:
        from os import environ

        return float(environ.get("NEUROMECH_TEST", "1"))

    yield from _environment(read)


def _environment(read: Callable[[], float]) -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, read())

    yield energy
    os.environ["NEUROMECH_TEST"] = "3"
    try:
        yield energy
    finally:
        del os.environ["NEUROMECH_TEST"]


@contextlib.contextmanager
def computing_in_float32() -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float64)


@way
def default_dtype() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, torch.full((), 0.1).sin() / torch.tensor(0.3))

    yield energy
    with computing_in_float32():
        yield energy


@way
def default_dtype_read() -> Iterator[Energy]:
    def energy(u: Tensor) -> Tensor:
        return quartic(u, torch.finfo(torch.get_default_dtype()).bits / 32)

    yield energy
    with computing_in_float32():
        yield energy


@way
def descriptor() -> Iterator[Energy]:
    class Held:
        def __init__(self) -> None:
            self.k = 1.0

        def __get__(self, x: Any, cls: Any = None) -> Any:
            return self if x is None else self.k

    class Object:
        k: Any = Held()

    x = Object()
    yield lambda u: quartic(u, x.k)
    vars(Object)["k"].k = 3.0


@way
def classmethod_of_a_base() -> Iterator[Energy]:
    class Base:
        k = 1.0

        @classmethod
        def read(cls) -> float:
            return cls.k

    class Object(Base):
        def read_super(self) -> float:
            return super().read()

    x = Object()
    yield lambda u: quartic(u, x.read_super())
    Base.k = 3.0


@way
def getattribute() -> Iterator[Energy]:
    hidden = {"k": 1.0}

    class Object:
        def __getattribute__(self, name: str) -> Any:
            return hidden[name]

    x = Object()
    yield lambda u: quartic(u, x.k)
    hidden["k"] = 3.0


@way
def metaclass_property() -> Iterator[Energy]:
    hidden = [1.0]

    class Meta(type):
        @property
        def k(cls) -> float:
            return hidden[0]

    class Object(metaclass=Meta):
        pass

    yield lambda u: quartic(u, Object.k)
    hidden[0] = 3.0


@way
def operator_of_a_class() -> Iterator[Energy]:
    hidden = [1.0]

    class Object:
        def __rmul__(self, other: Any) -> Any:
            return hidden[0] * other

    x = Object()
    yield lambda u: quartic(u * x, 1.0)
    hidden[0] = 3.0


@way
def partial_method() -> Iterator[Energy]:
    factors = [1.0]

    class Object:
        def scaled(self, c: list[float], u: Tensor) -> Tensor:
            return quartic(u, c[0])

        energy = functools.partialmethod(scaled, factors)

    yield Object().energy
    factors[0] = 3.0


@way
def cached_function() -> Iterator[Energy]:
    k = [1.0]

    @functools.lru_cache
    def read(c: float) -> float:
        return c * k[0]

    yield lambda u: quartic(u, read(k[0]))
    k[0] = 3.0


@way
def single_dispatch() -> Iterator[Energy]:
    @functools.singledispatch
    def read(x: object) -> float:
        return 1.0

    yield lambda u: quartic(u, read(1.0))
    read.register(float, lambda x: 3.0)


@way
def decorated() -> Iterator[Energy]:
    k = [1.0]

    def scaled(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(f)
        def wrapper(*args: Any) -> Tensor:
            return f(*args) * k[0]

        return wrapper

    @scaled
    @torch.enable_grad()
    def energy(u: Tensor) -> Tensor:
        return quartic(u, 1.0)

    yield energy
    k[0] = 3.0


@way
def context_manager() -> Iterator[Energy]:
    k = [1.0]

    @contextlib.contextmanager
    def scale() -> Iterator[float]:
        yield k[0]

    def energy(u: Tensor) -> Tensor:
        with scale() as c:
            return quartic(u, c)

    yield energy
    k[0] = 3.0


@way
def generator_function() -> Iterator[Energy]:
    k = [1.0, 2.0]

    def factors() -> Iterator[float]:
        yield from k

    yield lambda u: quartic(u, sum(factors()))
    k[0] = 3.0


@way
def vectorized() -> Iterator[Energy]:
    k = [1.0]
    f = np.vectorize(lambda x: x * k[0])
    yield lambda u: quartic(u, float(f(1.0)))
    k[0] = 3.0


@way
def recursive() -> Iterator[Energy]:
    x = Plain()
    x.itself, x.many = x, [x]  # type: ignore[attr-defined]
    yield lambda u: quartic(u, x.itself.many[0].k)  # type: ignore[attr-defined]
    x.k = 3.0


@way
def long_list() -> Iterator[Energy]:
    k = [1.0] * 3000
    yield lambda u: quartic(u, sum(k) / 3000)
    k[2999] = 9e3


@way
def custom_function() -> Iterator[Energy]:
    m = nn.Tanh()
    pieces = [m, nn.Softplus()]

    def energy(u: Tensor) -> Tensor:
        for f in pieces:
            u = f(u)
        return (u * u).sum(-1)

    yield energy
    pieces.reverse()
    yield energy
    pieces[0] = nn.SiLU()


@way
def counters_of_calls_do_not_matter() -> Iterator[Energy]:
    seen: list[int] = []
    k = [1.0]

    def energy(u: Tensor) -> Tensor:
        seen.append(len(seen))
        return quartic(u, k[0])

    yield energy
    k[0] = 3.0


@way
def precision() -> Iterator[Energy]:
    m = net()
    yield m
    m.float()
    yield m
    m.double()
    yield m
    m[0].weight = nn.Parameter(m[0].weight.detach().float().double())
