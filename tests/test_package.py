"""The package as a whole: cheap to import, and its public names are there."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neuromech


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy() -> None:
    """Not even the whole instrument needs more than torch does: reports and tables load their libraries when asked."""
    heavy = {"pandas", "seaborn", "matplotlib", "jinja2", "tqdm", "sklearn"}
    # And `instrument` stays a function, whatever was imported first.
    probe = "import neuromech.probe, neuromech; assert callable(neuromech.instrument)"
    extra = modules_after(probe) - modules_after("import torch")
    assert not {name.split(".")[0] for name in extra} & heavy
    assert "torch" not in modules_after("import neuromech")


def test_public_names() -> None:
    assert set(neuromech.__all__) <= set(dir(neuromech))
    for name in neuromech.__all__:
        assert getattr(neuromech, name) is not None
    assert callable(neuromech.instrument)


DOTTED = re.compile(r"\bneuromech(?:\.[A-Za-z_]\w*)+")
# What the recorder calls events that are no operator of torch's; they stand in findings beside `aten.add`.
EVENTS = {"neuromech.set_data", "neuromech.partial_write", "neuromech.hidden_alias"}
LOADED = {"neuromech.detect.operators"}  # by its name, for the lines that it adds to a table


def written_names() -> set[str]:
    """Every `neuromech.x.y` of README, documentation, docstrings and messages."""
    root = Path(neuromech.__file__).parent
    pages = [p.read_text() for p in (*root.parent.glob("*.md"), *root.parent.glob("docs/*.md"))]
    pages = [re.sub("^:::.*", "", page, flags=re.MULTILINE) for page in pages]  # places, tried by building the site
    trees = (ast.parse(p.read_text()) for p in root.rglob("*.py"))
    strings = (n.value for t in trees for n in ast.walk(t) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {name for text in (*pages, *strings) for name in DOTTED.findall(text)} - EVENTS - LOADED


# Every name in a process of its own, which is a copy of one that has imported torch, and nothing of neuromech.
EVALUATE = """
import os, sys
import torch
for name in sys.stdin.read().split():
    child = os.fork()
    if child == 0:
        try:
            import neuromech
            value = neuromech
            for part in name.split(".")[1:]:
                value = getattr(value, part)
        except Exception as error:
            print(name, error)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies its process")
def test_every_name_that_is_written_works_in_a_fresh_interpreter() -> None:
    names = sorted(written_names())
    assert "neuromech.instrument" in names
    run = [sys.executable, "-c", EVALUATE]
    done = subprocess.run(
        run, input=" ".join([*names, "neuromech.nowhere"]), capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["neuromech.nowhere"], done.stdout
