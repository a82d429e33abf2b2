"""Saved programs that nobody vouches for: read without running anything that they bring along, or refused.

`torch.export.load` trusts its file. It unpickles what the file says is pickled; evaluates sizes (`expr_str`) and guards
(`guards_code`), which are Python; writes names into the code of a forward; loads compiled libraries; and takes for an
operator whatever its name leads to from `torch` on (`torch.os.system`). So every part of an archive is looked at first,
and what is not known to be harmless is refused: data by being read weights-only, all else by being spelled out here.

The bytes that were looked at are those that are loaded, by the reader that loads them.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from neuromech.compat import PyTorchFileReader, operator_libraries
from neuromech.errors import NeuromechError

MEMBER = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|data/(weights|constants|sample_inputs)/[\w.]+"
    r"|models/\w+\.json|extra/[\w./]+)"
)
CODE_FREE = re.compile(r"[\w.]*")  # a name, a number, a dotted path
OPERATOR = re.compile(r"torch\.ops\.([a-z]\w*)\.([A-Za-z_]\w*)\.(\w+)")
ON_NUMBERS = re.compile(r"(math|torch)\.(_?sym_\w+|trunc|ceil|floor|sqrt)")
ARITHMETIC = set(
    "_operator.getitem _operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod "
    "_operator.neg _operator.pow _operator.pos _operator.abs _operator.eq _operator.ne _operator.lt _operator.le "
    "_operator.gt _operator.ge _operator.and_ _operator.or_ _operator.not_".split()
)
FILES = {("aten", "save"), ("aten", "from_file")}  # operators that read or write files
NO_KERNELS = {"prim", "debugprims", "rpc"}  # libraries of the interpreter
# Of sizes, as sympy and PyTorch write them.
FUNCTIONS = set(
    "Add Mul Mod PythonMod FloorDiv CeilDiv CleanDiv TrueDiv IntTrueDiv FloatTrueDiv ModularIndexing Max Min Pow Abs "
    "Eq Ne Lt Le Gt Ge And Or Not floor ceiling Where Identity ToFloat FloatPow PowByNatural RoundToInt TruncToInt "
    "CeilToInt FloorToInt Integer Rational".split()
)
OF_TENSORS = {"size", "stride", "storage_offset", "dim"}  # what guards ask
PLAIN = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple,
    ast.keyword, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context,
)  # fmt: skip
_OLDER = b"serialized_exported_program.json"  # what an archive of torch 2.6 begins with
IMPORTING = ("defaultdict", "namedtuple")  # containers that say which module to import


def checked(path: Path) -> io.BytesIO:
    """The program at `path`, fit for `torch.export.load`. Raises `NeuromechError` if it is none, or if loading it might
    run code that it brings along."""
    content = path.read_bytes()
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
        reader = PyTorchFileReader(io.BytesIO(content))
        records = [f"{names[0].split('/')[0]}/{name}" for name in reader.get_all_records()]
    except Exception as error:  # whatever a file that is no archive makes it say
        old = ", in the way of torch 2.6: export it anew with a newer one" if _OLDER in content else ""
        raise NeuromechError(
            f"{path} could not be read as a program saved by torch.export.save{old} ({type(error).__name__}: {error})"
        ) from error
    for what in _suspicious(names, records, reader):
        raise NeuromechError(
            f"{path} is not opened: {what}, and loading it might run code. If you trust where it comes from, load it "
            "in a function of your own that returns (model, example), and pass MODULE:FUNCTION"
        )
    return io.BytesIO(content)


def _suspicious(names: list[str], records: list[str], reader: Any) -> Iterator[str]:
    """What is not known to be harmless, in words."""
    if len({*names}) != len(names) or sorted(names) != sorted(records):
        yield "its table of contents is ambiguous"
    yield from (f"it contains {name!r}" for name in names if not MEMBER.fullmatch(name))
    inside = [name.partition("/")[2] for name in names]
    if "archive_format" not in inside:
        yield "it was saved by an older version of PyTorch, or by something else"
    for name in inside:
        folder = name.rpartition("/")[0]
        if name.endswith(".json") and folder in ("data/weights", "data/constants"):
            yield from _of_tensors(json.loads(reader.get_record(name)).get("config"), folder, reader)
        elif name.endswith(".pt"):
            yield from _of_data(name, reader)
        elif folder == "models":
            yield from _of_graph(json.loads(reader.get_record(name)), "")


def _of_tensors(config: Any, folder: str, reader: Any) -> Iterator[str]:
    for name, told in (config or {}).items():
        file = str(told.get("path_name"))
        if not re.fullmatch(r"(weight|tensor)_\d+", file):
            yield f"{name} is an object ({file}), not a tensor"
        elif told.get("use_pickle"):
            yield from _of_data(f"{folder}/{file}", reader)


def _of_data(name: str, reader: Any) -> Iterator[str]:
    try:
        torch.load(io.BytesIO(reader.get_record(name)), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever else it holds
        first = str(error).split(". ")[0].splitlines()[0]
        yield f"{name} holds more than tensors and plain data ({first})"


def _of_graph(x: Any, key: str) -> Iterator[str]:
    """Of a program's graph, told as nested dicts and lists: whatever is a piece of code, and what its operators are."""
    if isinstance(x, dict):
        for k, v in x.items():
            if not CODE_FREE.fullmatch(k):
                yield f"it has a name {k!r}"
            if k != "metadata":  # where it came from: comments
                yield from _of_graph(v, k)
    elif isinstance(x, list):
        for v in x:
            yield from _of_graph(v, key)
    elif isinstance(x, str):
        if key == "target":
            yield from () if _is_operator(x) else (f"it calls {x!r}",)
        elif key in ("expr_str", "guards_code"):
            yield from () if _is_arithmetic(x, key == "guards_code") else (f"it computes {x!r}",)
        elif key in ("in_spec", "out_spec"):
            yield from (f"it holds a {name}" for name in IMPORTING if name in x)
        elif not (CODE_FREE.fullmatch(x) or key in ("as_string", "torch_version")):
            yield f"it has a name {x!r}"


def _is_operator(name: str) -> bool:
    """True for operators that are there and compute with tensors, and for arithmetic on numbers."""
    if name in ARITHMETIC or ON_NUMBERS.fullmatch(name):
        return True
    found = OPERATOR.fullmatch(name)
    if found is None or found[1] in NO_KERNELS or found.groups()[:2] in FILES:
        return False
    if found[1] not in operator_libraries() or hasattr(type(torch.ops), found[1]):
        return False
    packet = getattr(getattr(torch.ops, found[1]), found[2], None)
    return packet is not None and found[3] in packet.overloads()


def _is_arithmetic(text: str, guard: bool) -> bool:
    """True for expressions of names and numbers; of a `guard`, also of the shapes of inputs, L['x'].size()[0]."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return all(_is_plain(node, guard) for node in ast.walk(tree))


def _is_plain(node: ast.AST, guard: bool) -> bool:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return guard and node.func.attr in OF_TENSORS and not node.keywords
        known = isinstance(node.func, ast.Name) and (node.func.id in FUNCTIONS or node.func.id == "Symbol")
        return known and all(isinstance(k.value, ast.Constant) for k in node.keywords)
    if isinstance(node, ast.Attribute):
        return guard and node.attr in OF_TENSORS
    if isinstance(node, ast.Subscript):
        return guard
    if isinstance(node, ast.Constant):  # names of symbols, and of inputs
        return isinstance(node.value, (int, float)) or (isinstance(node.value, str) and node.value.isidentifier())
    if isinstance(node, ast.Name):
        return not node.id.startswith("__")
    return isinstance(node, PLAIN)
