"""The README keeps its word: its example runs as it stands, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_example_runs_when_pasted_into_a_file(tmp_path) -> None:
    example = re.search(r"## Use\n\n```python\n(.*?)```", README, re.DOTALL).group(1)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").exists()
    shown = re.search(r"prints .*?\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    moves = re.findall(r"^ +\d+  (\S.*?)  ", shown, re.MULTILINE)  # numbers differ between machines in the last digits
    assert len(moves) == 3
    for what in moves:
        assert what in done.stdout


def test_the_examples_of_eom_run_one_after_the_other(tmp_path) -> None:
    examples = [e for e in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "eom" in e]
    assert len(examples) == 2
    (tmp_path / "example.py").write_text("\n".join(examples))
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sharpness" in done.stdout
    assert float(re.search(r"within 1e-3 of the flow: (\S+)", done.stdout).group(1)) > 0
    assert float(re.search(r"tensor\(([^,)]+)", done.stdout).group(1)) < 1e-3


def test_physics_example_keeps_its_energy(tmp_path) -> None:
    example = re.search(r"## Physics\n.*?```python\n(.*?)```", README, re.DOTALL).group(1)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["identity: True", "energy kept: True"]


def test_the_monitor_tells_what_the_readme_says(tmp_path) -> None:
    section = README[README.index("**Catches what goes wrong.**") :]
    example, shown = re.search(r"```python\n(.*?)```.*?```\n(.*?)```", section, re.DOTALL).groups()
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told, promised = done.stdout.splitlines(), shown.splitlines()
    assert len(told) == len(promised) == 2
    for line, start in zip(told, promised, strict=True):
        assert line.startswith(start.removesuffix("..."))


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_pictures_exist() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 0
