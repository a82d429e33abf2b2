"""What a user's type checker sees of the public names: their types, and never `Any`."""

import ast
import re
from pathlib import Path

import pytest

import neuromech

ROOT = Path(neuromech.__file__).parent
INNER = {"compat", "hooks", "params", "rounding"}  # public by their path alone: no promise to users
REVEALED = re.compile(r'^use\.py:(\d+):(?:\d+:)? note: Revealed type is "(.*)"$')


def public_names() -> list[str]:
    """Every name on the face of the package and of the packages that it shows, `physics.energy` included."""
    names = []
    for stub in sorted(ROOT.rglob("__init__.pyi")):
        package = ".".join(("neuromech", *stub.parent.relative_to(ROOT).parts))
        if not INNER & set(package.split(".")):
            nodes = (n for n in ast.walk(ast.parse(stub.read_text())) if isinstance(n, ast.ImportFrom))
            names += [f"{package}.{a.asname or a.name}" for n in nodes for a in n.names]
    return names


@pytest.mark.slow
def test_mypy_sees_the_real_type_of_every_public_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy comes with the extra `lint`")
    names = public_names()
    assert {"neuromech.instrument", "neuromech.physics.MLPEnergy", "neuromech.eom.ErrorMeter"} <= set(names)
    packages = sorted({name.rpartition(".")[0] for name in names})
    lines = [*(f"import {p}" for p in packages), "import nowhere", *(f"reveal_type({name})" for name in names)]
    (tmp_path / "use.py").write_text("\n".join([*lines, "reveal_type(nowhere.x)"]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYPYPATH", str(ROOT.parent))
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    cache = ROOT.parent / ".mypy_cache" / "use"
    out, errors, _ = api.run([*options, f"--cache-dir={cache}", "use.py"])
    assert not errors
    revealed = {int(m[1]): m[2] for line in out.splitlines() if (m := REVEALED.match(line))}
    assert len(revealed) == len(names) + 1
    unseen = [lines[number - 1] for number, seen in revealed.items() if seen == "Any" and number <= len(lines)]
    assert not unseen, f"without a type: {unseen}"
    assert revealed[len(lines) + 1] == "Any"  # the test can tell
    wrong = [line for line in out.splitlines() if ": error:" in line and "nowhere" not in line]
    assert not wrong, "\n".join(wrong)
