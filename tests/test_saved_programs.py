"""Saved programs that nobody vouches for: what is harmless is read, and nothing that one brings along ever runs."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuromech.cli.models import load
from neuromech.cli.programs import _is_arithmetic, _is_operator
from neuromech.errors import NeuromechError

Change = Callable[[dict[str, bytes], Path], None]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.register_buffer("c", torch.arange(2.0))

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        y = torch.relu(self.n(self.a(x))) * scale + torch.tensor(1.0)
        return self.b(y.reshape(x.shape[0], -1)) + self.c


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.pt2"
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Net(), (torch.randn(8, 4),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, path)
    return path


def rewritten(source: Path, path: Path, change: Change) -> Path:
    """The program, some of its members changed by `change(members, proof)`: what runs is to write the file `proof`."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members, path.with_suffix(".proof"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def member(members: dict[str, bytes], ending: str) -> str:
    return next(name for name in members if name.endswith(ending))


def graph(edit: Callable[[dict[str, Any], str], None]) -> Change:
    def change(members: dict[str, bytes], proof: Path) -> None:
        name = member(members, "models/model.json")
        told = json.loads(members[name])
        edit(told, str(proof))
        members[name] = json.dumps(told).encode()

    return change


class Runs:
    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.proof!r}, 'w').close()",)


def pickled(x: Any) -> bytes:
    out = io.BytesIO()
    torch.save(x, out)
    return out.getvalue()


def in_inputs(members: dict[str, bytes], proof: Path) -> None:
    members[member(members, "sample_inputs/model.pt")] = pickled(((Runs(proof),), {}))


def in_weights(members: dict[str, bytes], proof: Path) -> None:
    name = member(members, "model_weights_config.json")
    told = json.loads(members[name])
    told["config"]["a.weight"]["use_pickle"] = True
    members[name] = json.dumps(told).encode()
    members[member(members, "weights/" + told["config"]["a.weight"]["path_name"])] = pickled(Runs(proof))


def in_constants(members: dict[str, bytes], proof: Path) -> None:
    name = member(members, "model_constants_config.json")
    members[name] = json.dumps(
        {"config": {"o": {"path_name": "opaque_obj_0", "use_pickle": True, "is_param": False, "tensor_meta": None}}}
    ).encode()
    members[name.replace("model_constants_config.json", "opaque_obj_0")] = pickle.dumps(Runs(proof))


def in_a_name(told: dict[str, Any], proof: str) -> None:
    told["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = f"x=open({proof!r}, 'w')"


def in_a_call(told: dict[str, Any], proof: str) -> None:
    node = told["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.os.system"
    node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {proof}"}, "kind": 1}]


def in_a_size(told: dict[str, Any], proof: str) -> None:
    values = told["graph_module"]["graph"]["sym_int_values"]
    values[next(iter(values))] = {"as_expr": {"expr_str": f"open({proof!r}, 'w').close()", "hint": None}}


def in_a_guard(told: dict[str, Any], proof: str) -> None:
    told["guards_code"] = [f"open({proof!r}, 'w').close() is None"]


def in_a_library(members: dict[str, bytes], proof: Path) -> None:
    root = next(iter(members)).split("/")[0]
    members[f"{root}/data/aotinductor/model/model.so"] = b"not a library"


def in_an_older_format(members: dict[str, bytes], proof: Path) -> None:
    members.clear()
    members |= {"version": b"8.1", "serialized_exported_program.json": b"{}", "serialized_constants.pt": b""}
    members["serialized_state_dict.pt"] = members["serialized_example_inputs.pt"] = pickled({"a": Runs(proof)})


ATTACKS: dict[str, tuple[Change, str]] = {
    "inputs": (in_inputs, "holds more than tensors and plain data"),
    "weights": (in_weights, "holds more than tensors and plain data"),
    "constants": (in_constants, "is an object"),
    "name": (graph(in_a_name), "it has a name"),
    "call": (graph(in_a_call), r"it calls 'torch\.os\.system'"),
    "size": (graph(in_a_size), "it computes"),
    "guard": (graph(in_a_guard), "it computes"),
    "library": (in_a_library, "it contains"),
    "older": (in_an_older_format, "it contains|could not be read"),
}


def test_a_program_is_read(saved: Path) -> None:
    given = load(str(saved))
    assert given.model(*given.example).shape == (8, 2)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_may_run_code_is_refused_and_does_not_run(name: str, saved: Path, tmp_path: Path) -> None:
    change, message = ATTACKS[name]
    path = rewritten(saved, tmp_path / "net.pt2", change)
    with pytest.raises(NeuromechError, match=message):
        load(str(path))
    assert not path.with_suffix(".proof").exists()


@pytest.mark.parametrize("name", ["inputs", "weights", "constants", "size", "guard"])
def test_the_attacks_are_real(name: str, saved: Path, tmp_path: Path) -> None:
    """PyTorch itself runs what these bring along, so that a test which passes says something."""
    path = rewritten(saved, tmp_path / "net.pt2", ATTACKS[name][0])
    try:
        program = torch.export.load(path)
        program.module()(torch.randn(8, 4))
    except Exception:  # behind the point where it ran
        pass
    assert path.with_suffix(".proof").exists()


def test_a_rewritten_program_that_was_not_changed_is_read(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "net.pt2", lambda members, proof: None)
    assert load(str(path)).example[0].shape == (8, 4)


def test_two_members_of_one_name_are_refused(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "net.pt2", lambda members, proof: None)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member(dict.fromkeys(archive.namelist(), b""), "model.json"), b"{}")
    with pytest.raises(NeuromechError, match="ambiguous"):
        load(str(path))


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("torch.ops.aten.add.Tensor", True),
        ("torch.ops.aten._native_batch_norm_legit_no_training.default", True),
        ("_operator.getitem", True),
        ("torch.sym_max", True),
        ("math.ceil", True),
        ("_operator.methodcaller", False),
        ("torch.ops.load_library", False),
        ("torch.ops.load_library.__call__.default", False),
        ("torch.ops.import_module.x.y", False),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.aten.add", False),
        ("torch.ops.aten.no_such.default", False),
        ("torch.ops.nowhere.add.Tensor", False),
        ("torch.load", False),
        ("torch.hub.load", False),
        ("#anything", False),
    ],
)
def test_operators_are_known_by_name(name: str, harmless: bool) -> None:
    assert _is_operator(name) is harmless


@pytest.mark.parametrize(
    ("text", "guard", "harmless"),
    [
        ("s77", False, True),
        ("Mul(Integer(2), Symbol('s77', positive=True, integer=True))", False, True),
        ("Symbol('exec(1)')", False, False),
        ("Symbol('s', integer=exec)", False, False),
        ("2*s0*Mod(s1, 4) + FloorDiv(s0, 2)", False, True),
        ("Max(1, s0) >= 2", False, True),
        ("L['x'].size()[0] % 2 == 0", True, True),
        ("L['x'].size()[0]", False, False),
        ("exec('1')", False, False),
        ("().__class__", False, False),
        ("L['x'].__class__", True, False),
        ("L['x'].size().__class__()", True, False),
        ("[x for x in y]", False, False),
        ("lambda: 0", True, False),
        ("s0; s1", False, False),
        ("__import__", False, False),
    ],
)
def test_sizes_and_guards_are_arithmetic(text: str, guard: bool, harmless: bool) -> None:
    assert _is_arithmetic(text, guard) is harmless
