"""The package as a whole: cheap to import, and its public names are there."""

import json
import subprocess
import sys

import neuromech


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy() -> None:
    """Not even the whole instrument needs more than torch does: reports and tables load their libraries when asked."""
    heavy = {"pandas", "seaborn", "matplotlib", "jinja2", "tqdm", "sklearn"}
    extra = modules_after("import neuromech.probe") - modules_after("import torch")
    assert not {name.split(".")[0] for name in extra} & heavy
    assert "torch" not in modules_after("import neuromech")


def test_public_names() -> None:
    assert set(neuromech.__all__) <= set(dir(neuromech))
    for name in neuromech.__all__:
        assert getattr(neuromech, name) is not None
    assert callable(neuromech.instrument)


def test_instrument_stays_a_function_whatever_was_imported_first() -> None:
    code = "import neuromech.probe, neuromech; assert callable(neuromech.instrument)"
    subprocess.run([sys.executable, "-c", code], check=True)
