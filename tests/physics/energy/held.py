"""What an energy may read beside the state, and how it changes: values, each held in every place that can hold one.

A value: how it is made, how a number is read from it, how it is changed in place. A place: how a function of the state
reaches the value. Every value in every place is a kind of reading.
"""

import array
import collections
import contextvars
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import operator
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


def quartic(u: Tensor, k: Any) -> Tensor:
    """An energy that a wrong k is seen in."""
    return k * (u**4).sum(-1) + (u * u).sum(-1)


class Plain:
    """Attributes, a slot's worth of ways to reach them."""

    level = 1.0

    def __init__(self) -> None:
        self.k = 1.0

    @property
    def doubled(self) -> float:
        return 2 * self.k

    def read(self) -> float:
        return self.k

    def __call__(self) -> float:
        return self.k

    def __len__(self) -> int:
        return int(self.k)

    def __float__(self) -> float:
        return self.k

    def __getitem__(self, key: object) -> float:
        return self.k

    def __mul__(self, other: Any) -> Any:
        return self.k * other


class Slotted:
    __slots__ = ("__weakref__", "k", "unset")

    def __init__(self) -> None:
        self.k = 1.0


class Below(Slotted):
    __slots__ = ("deeper",)

    def __init__(self) -> None:
        super().__init__()
        self.deeper = [1.0]


class Private(Slotted):
    """Slots whose names Python mangles, beside a dictionary."""

    __slots__ = ("__dict__", "__hidden")

    def __init__(self) -> None:
        super().__init__()
        self.__hidden = 1.0

    def hidden(self) -> float:
        return self.__hidden

    def hide(self, k: float) -> None:
        self.__hidden = k


class Forwarding:
    """Answers for another object."""

    def __init__(self) -> None:
        self.inner = Plain()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)


class Saved:
    """Pickles without what it holds."""

    def __init__(self) -> None:
        self.k = 1.0

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclasses.dataclass
class Data:
    k: float = 1.0
    inner: list[float] = dataclasses.field(default_factory=lambda: [1.0])


@dataclasses.dataclass(slots=True)
class SlottedData:
    k: float = 1.0


class Pair(NamedTuple):
    first: float
    second: list[float]


class Dict(dict[str, float]):
    __getattr__ = dict.__getitem__


class List(list[float]):
    k = 1.0


class Kind(enum.Enum):
    A = 1.0
    B = 2.0


class Value(NamedTuple):
    make: Callable[[], Any]
    read: Callable[[Any], Any]
    change: Callable[[Any], Any]


def _item(x: Any) -> Any:
    x[0] = 3.0


def _put(value: Any) -> Callable[[Any], Any]:
    return lambda x: x.__setitem__(0, value)


def _named(value: Any, name: str = "k") -> Callable[[Any], Any]:
    return lambda x: setattr(x, name, value)


def _key(x: Any) -> Any:
    x["k"] = 3.0


def _attribute(x: Any) -> None:
    x.k = 3.0


def _weak() -> Any:
    x = Plain()
    ref = weakref.ref(x)
    return types.SimpleNamespace(keep=x, ref=ref, proxy=weakref.proxy(x), by=weakref.WeakValueDictionary({"x": x}))


def _holder() -> Any:
    x = Plain()
    return types.SimpleNamespace(x=x, bound=x.read, partial=functools.partial(operator.mul, 1.0))


def _context() -> contextvars.ContextVar[float]:
    v: contextvars.ContextVar[float] = contextvars.ContextVar("v")
    v.set(1.0)
    return v


ONE = np.ones(3)
VALUES: dict[str, Value] = {
    "list": Value(lambda: [1.0], lambda x: x[0], _item),
    "list in a list": Value(lambda: [[1.0]], lambda x: x[0][0], lambda x: _item(x[0])),
    "length of a list": Value(lambda: [0], len, lambda x: x.append(0)),
    "integer for a float": Value(lambda: [1.0], lambda x: 1.0 if isinstance(x[0], float) else 3.0, _put(1)),
    "boolean": Value(lambda: [False], lambda x: 1.0 + 2 * x[0], _put(True)),
    "text": Value(lambda: ["a"], lambda x: 1.0 if x[0] == "a" else 3.0, _put("b")),
    "minus zero": Value(lambda: [0.0], lambda x: 2 + np.copysign(1.0, x[0]), _put(-0.0)),
    "complex number": Value(lambda: [1 + 1j], lambda x: x[0].imag, _put(1 + 3j)),
    "slice": Value(lambda: [slice(0, 1)], lambda x: float(sum(ONE[x[0]])), _put(slice(0, 3))),
    "range": Value(lambda: [range(1)], lambda x: float(len(x[0])), _put(range(3))),
    "tuple with a list": Value(lambda: (0, [1.0]), lambda x: x[1][0], lambda x: _item(x[1])),
    "named tuple": Value(lambda: Pair(1.0, [1.0]), lambda x: x.second[0], lambda x: _item(x.second)),
    "dict": Value(lambda: {"k": 1.0}, lambda x: x["k"], _key),
    "dict of dicts": Value(lambda: {"a": {"k": 1.0}}, lambda x: x["a"]["k"], lambda x: _key(x["a"])),
    "missing key": Value(dict, lambda x: x.get("k", 1.0), _key),
    "order of a dict": Value(
        lambda: {"a": 1.0, "b": 3.0}, lambda x: next(iter(x.values())),
        lambda x: x.update(a=x.pop("a")),
    ),
    "key that is an object": Value(lambda: {Kind.A: 1.0}, lambda x: x[Kind.A], lambda x: x.update({Kind.A: 3.0})),
    "set": Value(lambda: {"a"}, lambda x: float(len(x)), lambda x: x.add("b")),
    "set of tuples": Value(lambda: {(1, 2)}, lambda x: 1.0 + 2 * ((3, 4) in x), lambda x: x.add((3, 4))),
    "deque": Value(lambda: collections.deque([1.0]), lambda x: x[0], _item),
    "ordered dict": Value(lambda: collections.OrderedDict(k=1.0), lambda x: x["k"], _key),
    "defaultdict": Value(lambda: collections.defaultdict(lambda: 1.0), lambda x: x.get("k", 1.0), _key),
    "counter": Value(lambda: collections.Counter("a"), lambda x: float(x["a"]), lambda x: x.update("aa")),
    "chain map": Value(lambda: collections.ChainMap({}, {"k": 1.0}), lambda x: x["k"], _key),
    "map below a chain": Value(
        lambda: collections.ChainMap({}, {"k": 1.0}), lambda x: x["k"],
        lambda x: _key(x.maps[1]),
    ),
    "user dict": Value(lambda: collections.UserDict(k=1.0), lambda x: x["k"], _key),
    "user list": Value(lambda: collections.UserList([1.0]), lambda x: x[0], _item),
    "proxy of a dict": Value(
        lambda: (d := {"k": 1.0}, types.MappingProxyType(d)), lambda x: x[1]["k"],
        lambda x: _key(x[0]),
    ),
    "own dict": Value(lambda: Dict(k=1.0), lambda x: x.k, _key),
    "own list": Value(lambda: List([1.0]), lambda x: x[0], _item),
    "attribute of an own list": Value(lambda: List([1.0]), lambda x: x.k, _attribute),
    "namespace": Value(lambda: types.SimpleNamespace(k=1.0), lambda x: x.k, _attribute),
    "dataclass": Value(Data, lambda x: x.k, _attribute),
    "list in a dataclass": Value(Data, lambda x: x.inner[0], lambda x: _item(x.inner)),
    "dataclass with slots": Value(SlottedData, lambda x: x.k, _attribute),
    "enum": Value(lambda: [Kind.A], lambda x: x[0].value, _put(Kind.B)),
    "object": Value(Plain, lambda x: x.k, _attribute),
    "new attribute": Value(Plain, lambda x: getattr(x, "new", 1.0), lambda x: setattr(x, "new", 3.0)),
    "attribute over its class": Value(Plain, lambda x: x.level, lambda x: setattr(x, "level", 3.0)),
    "attribute away": Value(Plain, lambda x: getattr(x, "k", 3.0), lambda x: delattr(x, "k")),
    "property": Value(Plain, lambda x: x.doubled, _attribute),
    "called": Value(Plain, lambda x: x(), _attribute),
    "length": Value(Plain, lambda x: float(len(x)), _attribute),
    "number of an object": Value(Plain, float, _attribute),
    "item of an object": Value(Plain, lambda x: x["any"], _attribute),
    "product with an object": Value(Plain, lambda x: x * 1.0, _attribute),
    "method over its class": Value(Plain, lambda x: x.read(), lambda x: setattr(x, "read", lambda: 3.0)),
    "bound method": Value(_holder, lambda x: x.bound(), lambda x: _attribute(x.x)),
    "partial": Value(
        _holder, lambda x: x.partial(1.0),
        lambda x: setattr(x, "partial", functools.partial(operator.mul, 3.0)),
    ),
    "slot": Value(Slotted, lambda x: x.k, _attribute),
    "slot below a slot": Value(Below, lambda x: x.deeper[0], lambda x: _item(x.deeper)),
    "slot of the base": Value(Below, lambda x: x.k, _attribute),
    "mangled slot": Value(Private, lambda x: x.hidden(), lambda x: x.hide(3.0)),
    "dictionary beside slots": Value(Private, lambda x: getattr(x, "new", 1.0), lambda x: setattr(x, "new", 3.0)),
    "slot that was empty": Value(Slotted, lambda x: getattr(x, "unset", 1.0), lambda x: setattr(x, "unset", 3.0)),
    "through __getattr__": Value(Forwarding, lambda x: x.k, lambda x: _attribute(x.inner)),
    "what is not pickled": Value(Saved, lambda x: x.k, _attribute),
    "weak reference": Value(_weak, lambda x: x.ref().k, lambda x: _attribute(x.keep)),
    "weak proxy": Value(_weak, lambda x: x.proxy.k, lambda x: _attribute(x.keep)),
    "weak dictionary": Value(_weak, lambda x: x.by["x"].k, lambda x: _attribute(x.keep)),
    "class": Value(lambda: type("Own", (), {"k": 1.0}), lambda x: x.k, _attribute),
    "base class": Value(
        lambda: type("Own", (type("Base", (), {"k": 1.0}),), {}), lambda x: x.k,
        lambda x: _attribute(x.__mro__[1]),
    ),
    "metaclass": Value(
        lambda: type("Meta", (type,), {"k": 1.0})("Own", (), {}), lambda x: x.k,
        lambda x: _attribute(type(x)),
    ),
    "array": Value(lambda: np.ones(3), lambda x: float(x[0]), _item),
    "array of integers": Value(lambda: np.ones(3, int), lambda x: float(x[0]), _item),
    "array of objects": Value(lambda: np.array([[1.0]], object), lambda x: x[0, 0], lambda x: _item(x[0])),
    "records": Value(lambda: np.zeros(1, [("k", float)]) , lambda x: 1 + float(x["k"][0]), lambda x: x["k"].fill(2.0)),
    "view of an array": Value(lambda: (a := np.ones(6), a[::2]), lambda x: float(x[1][0]), lambda x: _item(x[0])),
    "masked array": Value(
        lambda: np.ma.masked_array(np.ones(3), [0, 0, 0]), lambda x: float(x.sum()),
        _put(np.ma.masked),
    ),
    "number of numpy": Value(lambda: [np.float64(1)], lambda x: float(x[0]), _put(np.float64(3))),
    "array of the standard library": Value(lambda: array.array("d", [1.0]), lambda x: x[0], _item),
    "bytes that change": Value(lambda: bytearray(b"\1"), lambda x: float(x[0]), _put(3)),
    "view of memory": Value(lambda: memoryview(bytearray(b"\1")), lambda x: float(x[0]), _put(3)),
    "text of numpy": Value(lambda: [np.str_("a")], lambda x: 1.0 if x[0] == "a" else 3.0, _put(np.str_("b"))),
    "time of numpy": Value(
        lambda: [np.timedelta64(1, "s")], lambda x: float(x[0] / np.timedelta64(1, "s")), _put(np.timedelta64(1, "m")),
    ),
    "decimal": Value(lambda: [decimal.Decimal(1)], lambda x: float(x[0]), _put(decimal.Decimal(3))),
    "fraction": Value(lambda: [fractions.Fraction(1)], lambda x: float(x[0]), _put(fractions.Fraction(3))),
    "span of time": Value(lambda: [datetime.timedelta(1)], lambda x: float(x[0].days), _put(datetime.timedelta(3))),
    "context variable": Value(_context, lambda x: x.get(), lambda x: x.set(3.0)),
    "cell": Value(lambda: types.CellType(1.0), lambda x: x.cell_contents, lambda x: setattr(x, "cell_contents", 3.0)),
    "polynomial": Value(lambda: np.poly1d([1.0, 0.0]), lambda x: float(x(1.0)), lambda x: x.coeffs.__setitem__(0, 3.0)),
    "tensor": Value(lambda: torch.ones(6), lambda x: x[0], lambda x: x.fill_(3.0)),
    "data of a tensor": Value(lambda: torch.ones(6), lambda x: x[0], lambda x: x.data.fill_(3.0)),
    "tensor in a list": Value(lambda: [torch.ones(())], lambda x: x[0], _put(torch.tensor(3.0))),
    "tensor as a number": Value(lambda: torch.ones(()), float, lambda x: x.fill_(3.0)),
    "data of a number": Value(lambda: torch.ones(()), float, lambda x: x.data.fill_(3.0)),
    "other data": Value(lambda: torch.ones(()), float, lambda x: setattr(x, "data", torch.tensor(3.0))),
    "entry as a number": Value(lambda: torch.ones(6), lambda x: x[2].item(), lambda x: x.data[2:].fill_(3.0)),
    "sum as a number": Value(lambda: torch.ones(3), lambda x: float(x.sum()), lambda x: x.data.fill_(3.0)),
    "list of a tensor": Value(lambda: torch.ones(6), lambda x: x.tolist()[0], lambda x: x.data.fill_(3.0)),
    "array of a tensor": Value(lambda: torch.ones(6), lambda x: float(x.numpy()[0]), lambda x: x.data.fill_(3.0)),
    "branch on a tensor": Value(lambda: torch.ones(()), lambda x: 1.0 if x < 2 else 3.0, lambda x: x.fill_(3.0)),
    "index": Value(lambda: torch.ones((), dtype=torch.long), lambda x: torch.arange(4.0)[x], lambda x: x.fill_(3)),
    "equal tensors": Value(
        lambda: torch.ones(3), lambda x: 1.0 if torch.equal(x, torch.ones(3)) else 3.0,
        lambda x: x.data.fill_(2),
    ),
    "shape of a tensor": Value(lambda: torch.ones(1), lambda x: float(len(x)), lambda x: x.resize_(3)),
    "attribute of a tensor": Value(lambda: setattr(t := torch.ones(1), "k", 1.0) or t, lambda x: x.k, _attribute),
    "does it require gradients": Value(
        lambda: torch.ones(1), lambda x: 1.0 + 2 * x.requires_grad,
        lambda x: x.requires_grad_(),
    ),
    "function": Value(lambda: [lambda: 1.0], lambda x: x[0](), _put(lambda: 3.0)),
    "code of a function": Value(
        lambda: (lambda: 1.0), lambda x: x(),
        lambda x: setattr(x, "__code__", (lambda: 3.0).__code__),
    ),
    "attribute of a function": Value(lambda: setattr(f := (lambda: f.k), "k", 1.0) or f, lambda x: x(), _attribute),
    "wrapped function": Value(
        lambda: functools.wraps(Plain.read)(lambda d=[1.0]: d[0]), lambda x: x(),
        lambda x: _item(x.__defaults__[0]),
    ),
    "iterator of a list": Value(lambda: (d := [1.0], [itertools.chain(d)]), lambda x: x[0][0], lambda x: _item(x[0])),
    "module": Value(lambda: nn.Softplus(), lambda x: x.beta / 1.0, lambda x: setattr(x, "beta", 3.0)),
    "mode of a module": Value(lambda: nn.Tanh(), lambda x: 1.0 + 2 * x.training, lambda x: x.eval()),
    "list of modules": Value(lambda: nn.ModuleList([nn.Tanh()]), lambda x: x[0](torch.ones(())), _put(nn.Softplus())),
    "dict of modules": Value(
        lambda: nn.ModuleDict({"a": nn.Tanh()}), lambda x: x["a"](torch.ones(())),
        lambda x: x.update({"a": nn.Softplus()}),
    ),
    "parameters in a list": Value(lambda: nn.ParameterList([torch.ones(())]), lambda x: x[0], _put(torch.tensor(3.0))),
    "buffer": Value(lambda: _buffered(), lambda x: x.k, lambda x: setattr(x, "k", torch.tensor(3.0))),
}  # fmt: skip


def _buffered() -> nn.Module:
    m = nn.Module()
    m.register_buffer("k", torch.ones(()))
    return m


# -- places ------------------------------------------------------------------------------------------------------------

Energy = Callable[[Tensor], Tensor]
HELD: Any = None


def closure(x: Any, read: Callable[[Any], Any]) -> Energy:
    return lambda u: quartic(u, read(x))


def module_attribute(x: Any, read: Callable[[Any], Any]) -> Energy:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = x

        def forward(self, u: Tensor) -> Tensor:
            return quartic(u, read(self.x))

    return Module()


def of_this_module(x: Any, read: Callable[[Any], Any]) -> Energy:
    globals()["HELD"] = x
    return lambda u: quartic(u, read(HELD))


def default(x: Any, read: Callable[[Any], Any]) -> Energy:
    def energy(u: Tensor, x: Any = x, *, read: Callable[[Any], Any] = read) -> Tensor:
        return quartic(u, read(x))

    return energy


def partial(x: Any, read: Callable[[Any], Any]) -> Energy:
    return functools.partial(lambda x, u: quartic(u, read(x)), x)


def bound_method(x: Any, read: Callable[[Any], Any]) -> Energy:
    class Object:
        def energy(self, u: Tensor) -> Tensor:
            return quartic(u, read(x))

    return Object().energy


def class_attribute(x: Any, read: Callable[[Any], Any]) -> Energy:
    class Object:
        held = (x,)

        def __call__(self, u: Tensor) -> Tensor:
            return quartic(u, read(self.held[0]))

    return Object()


def nested(x: Any, read: Callable[[Any], Any]) -> Energy:
    def energy(u: Tensor) -> Tensor:
        def inner() -> Any:
            return (lambda: read(x))()

        return quartic(u, inner())

    return energy


def slot(x: Any, read: Callable[[Any], Any]) -> Energy:
    class Object:
        __slots__ = ("_x",)

        def __call__(self, u: Tensor) -> Tensor:
            return quartic(u, read(self._x))

    made = Object()
    made._x = x
    return made


PLACES = (closure, module_attribute, of_this_module, default, partial, bound_method, class_attribute, nested, slot)


def kinds() -> Iterator[tuple[str, Callable[[], tuple[Energy, Callable[[], Any]]]]]:
    """Name, and what makes (an energy, its change), of every value; the places take turns."""
    for k, (name, value) in enumerate(VALUES.items()):
        for place in {closure, PLACES[k % len(PLACES)]}:
            yield f"{name}, {place.__name__}", functools.partial(_made, value, place)


def _made(value: Value, place: Callable[..., Energy]) -> tuple[Energy, Callable[[], Any]]:
    x = value.make()
    return place(x, value.read), lambda: value.change(x)
