"""Private names of torch stand in `neuromech/compat` alone, and what is built on them does what it says."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import checkpoint

import neuromech
from neuromech import compat
from neuromech.compat import autograd, modules, optimizers

ROOT = Path(neuromech.__file__).parent.parent
FILES = [
    path
    for folder in ("neuromech", "experiments", "analysis")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent.name != "compat"
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


# Private by their look only (NamedTuple, sys), or another library's: Lightning, Hugging Face, matplotlib.
OTHERS = {"_replace", "_fields", "_asdict", "_make", "_getframe", "_current_frames"}
OTHERS |= {"_make_closure", "_should_accumulate", "_prepare_inputs", "_reset_state", "_offsets3d"}
THROUGH = {"__func__", "__code__", "__wrapped__"}  # what tricks with other people's functions need
# Of whatever one may hold of torch's, so that a name of ours that it has too does not hide its use.
THINGS = (
    torch, Tensor, nn.Module(), nn.Parameter, Optimizer, torch.autograd.Function, torch.ops.aten.add.Tensor,
    torch.fx.Node, torch.fx.GraphModule, torch.optim.lr_scheduler.LRScheduler, torch.amp.GradScaler,
    torch.UntypedStorage, torch.Generator, torch.distributed, nn.parallel.DistributedDataParallel,
)  # fmt: skip
TORCHS = {name for thing in THINGS for name in dir(thing) if is_private(name)}
# What `self` has without a line of ours, in the classes of torch that ours extend.
INHERITED = {
    n for kind in (Tensor, nn.Module(), Optimizer, torch.autograd.Function) for n in dir(kind) if is_private(n)
}
# Functions of the namespace alone, in torch's schema: a string that says so names an operator.
OPERATORS = {n for n in vars(torch) if is_private(n) and hasattr(torch.ops.aten, n)} - {*dir(Tensor), *dir(nn.Module)}
A_PATH = re.compile(r"\btorch(\.\w+)*\._[a-z]", re.IGNORECASE)  # written in a string, to be imported or looked up by it


Nodes = list[ast.AST]


def nodes(source: str) -> Nodes:
    return [*ast.walk(ast.parse(source))]


def ours(file: Nodes) -> Iterator[str]:
    """The private names that a file defines itself."""
    for node in file:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and on_self(node):
            yield node.attr
        elif isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "__dict__":
            yield str(getattr(node.slice, "value", ""))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name


def on_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def private_names(file: Nodes, own: set[str]) -> Iterator[str]:
    """What a file uses of torch that torch keeps to itself. `own`: the private names that the project defines."""
    here = own - INHERITED | {*ours(file)}
    elsewhere, words = own - TORCHS, TORCHS - OPERATORS - here
    for node in file:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("torch") and "._" in a.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from (name for a in node.names if "._" in (name := f"{node.module}.{a.name}"))
        elif isinstance(node, ast.Attribute) and (is_private(node.attr) or node.attr in THROUGH):
            whole = ast.unparse(node)
            known = node.attr in (here if on_self(node) else elsewhere) or node.attr in OTHERS
            if not whole.startswith("torch.ops.") and (whole.startswith("torch.") or not known):
                yield whole
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
            if A_PATH.search(name) or name in words:
                yield repr(name)


def test_private_torch_is_in_one_file() -> None:
    files = {path: nodes(path.read_text()) for path in FILES}
    own = {name for file in files.values() for name in ours(file)}
    found = {f"{path.relative_to(ROOT)}: {name}" for path, file in files.items() for name in private_names(file, own)}
    assert not found, f"private names of torch belong to neuromech/compat, with what they are for: {sorted(found)}"


def test_the_search_sees_what_it_should() -> None:
    """A sceptic's list: attributes, imports, names in strings, and `self._parameters` of a class that inherits it."""
    seen = private_names(
        nodes(
            "import torch._dynamo\nfrom torch.optim import _muon\nfrom torch._C import f\nt._version\ntorch._C.f()\n"
            "getattr(m, '_version')\nimport_module('torch.distributed._tensor')\nf.__func__\nt.storage()._cdata\n"
            "self._parameters"
        ),
        {"_mine"},
    )
    assert len(list(seen)) == 10
    fine = "self._version = 1\nself._version\nx._mine\ntorch.ops.aten._softmax\nhasattr(m, '_mine')\nx = '_softmax'"
    assert not list(private_names(nodes(fine), {"_mine", "_version"}))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (5, 5)])
def test_the_direction_of_muon_is_written_out_as_torch_has_it(shape: tuple[int, int]) -> None:
    told = torch.randn(shape), (3.4445, -4.775, 2.0315), 5, 1e-7
    assert torch.equal(optimizers.newton_schulz(*told), compat.muon_direction(*told))


class Plain(torch.autograd.Function):
    seen: str = ""

    @staticmethod
    def forward(ctx, x):
        Plain.seen = compat.running_function()
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


class WithSetup(torch.autograd.Function):
    seen: str = ""

    @staticmethod
    def forward(x):
        WithSetup.seen = compat.running_function()
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g * 2


class Decorated(torch.autograd.Function):
    seen: str = ""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x):
        Decorated.seen = compat.running_function()
        return x * 2

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, g):
        return g * 2


@pytest.mark.parametrize("function", [Plain, WithSetup, Decorated])
@pytest.mark.parametrize("in_python", [True, False], ids=["as torch has it", "apply in C"])
def test_the_running_custom_function_is_seen(function, in_python: bool, monkeypatch) -> None:
    """`Function.apply` is a Python function to torch 2.13 and a built-in one from 2.14 on: both ways are tried."""
    if not in_python:
        monkeypatch.setattr(autograd, "_APPLY", None)
    function.seen = ""
    function.apply(torch.ones(3, requires_grad=True))
    assert function.seen == function.__name__
    apply = function.apply  # bound before, as modules do
    function.seen = ""
    nn.Sequential(Call(apply))(torch.ones(3))
    assert function.seen == function.__name__
    assert compat.running_function() == ""


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_function_made_on_the_way_is_seen(monkeypatch) -> None:
    monkeypatch.setattr(autograd, "_APPLY", None)
    names = []

    def make(k: int) -> type[torch.autograd.Function]:
        class Local(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                names.append(compat.running_function())
                return k * x

        return Local

    make(1).apply(torch.ones(1))
    make(2).apply(torch.ones(1))
    assert names == ["Local", "Local"]


def test_versions_and_storages() -> None:
    x = torch.zeros(3)
    before = compat.version(x)
    x.add_(1)
    assert compat.version(x) > before
    assert compat.storage_id(x) == compat.storage_id(x[1:]) != compat.storage_id(x.clone())
    meta = torch.empty(3, device="meta"), torch.empty(3, device="meta")
    assert compat.storage_id(meta[0]) != compat.storage_id(meta[1])


def test_lists_of_tensors_are_what_loops_make() -> None:
    x, y = [torch.randn(3), torch.randn(2, 2)], [torch.randn(3), torch.randn(2, 2)]
    for made, expected in (
        (compat.foreach_add(x, y, alpha=0.5), [a + 0.5 * b for a, b in zip(x, y, strict=True)]),
        (compat.foreach_mul(x, 2.0), [2 * a for a in x]),
        (compat.foreach_mul(x, (2.0, 3.0)), [2 * x[0], 3 * x[1]]),
        (compat.foreach_lerp(x, y, 0.25), [a.lerp(b, 0.25) for a, b in zip(x, y, strict=True)]),
    ):
        assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


def test_checkpoints_run_once_for_us_and_as_ever_for_others() -> None:
    calls, mine = [], True

    def part(x: Tensor) -> Tensor:
        calls.append(1)
        return x.sin()

    for reentrant in (False, True):
        for mine, expected in ((True, 1), (False, 2)):
            calls.clear()
            x = torch.ones(2, requires_grad=True)
            with compat.run_checkpoints_once(functools.partial(bool, mine)):
                checkpoint.checkpoint(part, x, use_reentrant=reentrant).sum().backward()
            assert len(calls) == expected
    assert not isinstance(checkpoint.CheckpointFunction, modules._Direct)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # PyTorch's own, as its compiler is loaded
def test_modules() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[1].register_buffer("scratch", torch.ones(1), persistent=False)
    assert compat.is_persistent(net[1], "running_mean")
    assert not compat.is_persistent(net[1], "scratch")
    assert compat.own_parameter(net[0], "weight") is net[0].weight
    assert compat.own_parameter(net[0], "nothing") is None
    assert not compat.is_hooked(net)
    net.register_forward_hook(lambda *_: None)
    assert compat.is_hooked(net)
    assert compat.uncompiled(net) is None
    assert compat.uncompiled(torch.compile(net)) is net


def test_a_part_in_two_places_gets_its_own_tensors_back() -> None:
    part, tied = nn.Linear(2, 2), nn.Linear(2, 2)
    net = nn.Sequential(part, nn.BatchNorm1d(2), part, nn.ModuleList([tied])[0], nn.BatchNorm1d(2))
    tied.weight = part.weight
    net[4].running_mean = net[1].running_mean
    net.eval()
    before = [*net.parameters(), *net.buffers()]
    other = {k: torch.rand_like(t) for k, t in (*net.named_parameters(), *net.named_buffers()) if t.ndim}
    x = torch.randn(3, 2)
    found = compat.called_with(net, other, (x,))
    assert all(a is b for a, b in zip(before, (*net.parameters(), *net.buffers()), strict=True))
    net.load_state_dict(other, strict=False)
    torch.testing.assert_close(found, net(x))
    torch.testing.assert_close(compat.called_with(net, net.state_dict(), (x,)), net(x))


def test_backwards_are_told_apart_and_end_with_the_callback() -> None:
    seen = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda g: seen.append(compat.backward_id()))
    x.register_hook(lambda g: compat.at_end_of_backward(lambda: seen.append("end")))
    for _ in range(2):
        (3 * x).sum().backward()
    first, end, second, again = seen
    assert (end, again) == ("end", "end")
    assert first != second
    assert compat.backward_id() == -1
