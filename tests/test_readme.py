"""README and documentation keep their word: every block runs as pasted, alone, and prints what is shown."""

import atexit
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from _pytest.mark.structures import ParameterSet

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# ```python blocks run; those behind `<!-- fragment -->` are parts of a program, and only shown.
BLOCK = re.compile(r"(?P<fragment><!-- fragment -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
# What these blocks print is looked at more closely, in a test of their own.
CLOSER = (
    "# the one line",
    "ErrorMeter",
    "descend",
    "MLPEnergy(2, hidden=32).double()  # any",
    "mylib",
    "resume=True",
    "HodgeDecomposition, MovingMixture",
)


# These leave nothing behind that another test would see, and run in this process: their imports are paid for already.
CLEAN = re.compile(r"^from neuromech import physics$", re.MULTILINE)
# Seconds, for tracing, drawing, compiling or importing.
DEAR = (
    "Metriplectic(",
    "Windows(",
    "plots.film(",
    "fit_mixture(",
    "torch.compile(",
    *(OTHERS := ("pl.Trainer(", "BertConfig(")),
)


def blocks(clean: bool) -> list[ParameterSet]:
    found = ((page, k, m) for page in PAGES for k, m in enumerate(BLOCK.finditer(page.read_text())))
    return [
        pytest.param(page, m["code"], id=f"{page.stem}-{k}", marks=pytest.mark.slow if dear(m["code"]) else ())
        for page, k, m in found
        if not m["fragment"]
        and not any(word in m["code"] for word in CLOSER)
        and bool(CLEAN.search(m["code"])) is clean
    ]


def dear(code: str) -> bool:
    return any(word in code for word in DEAR)


# A fresh interpreter that has imported torch and nothing else; every folder that it is told gets a copy of it, which
# runs the example.py there and ends as any script does. Importing torch anew costs more than most of the blocks.
COPIES = """
import os, runpy, sys, warnings
import torch, torch._dynamo  # as torch itself does when the first optimizer is made
for folder in sys.stdin:
    with warnings.catch_warnings(action="ignore"):  # of forks beside threads: there are none yet
        child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
os.chdir(folder.strip())
for stream, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
    os.dup2(os.open(name, os.O_RDONLY if stream == 0 else os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
sys.argv = ["example.py"]
runpy.run_path("example.py", run_name="__main__")
"""


@cache
def copies() -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", COPIES]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def run(code: str, folder: Path) -> str:
    (folder / "example.py").write_text(code)
    if any(word in code for word in OTHERS):  # warnings of others are not ours
        command = [sys.executable, "example.py"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    process = copies()
    process.stdin.write(f"{folder}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "0\n", (folder / "stderr").read_text()
    return (folder / "stdout").read_text()


def with_output(page: str, containing: str) -> tuple[str, str]:
    """The block of a page that contains some words, and the output that is shown after it."""
    pairs = re.findall(
        r"```python\n((?:(?!```).)*)```(?:(?!```).)*?```\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
    )
    return next((code, shown) for code, shown in pairs if containing in code)


@pytest.mark.parametrize(("page", "code"), blocks(clean=True))
def test_every_block_of_physics_runs_and_finds_what_it_says(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_default_dtype()
    try:
        exec(compile(code, page.name, "exec"), {"__name__": "__main__"})
    finally:
        torch.set_default_dtype(before)
    shown = capsys.readouterr().out
    assert shown or list(tmp_path.iterdir()), "the block shows nothing"
    assert "False" not in shown


@pytest.mark.parametrize(("page", "code"), blocks(clean=False))
def test_every_block_runs_as_pasted_alone(page: Path, code: str, tmp_path: Path) -> None:
    shown = run(code, tmp_path)
    if "cosmic ray" in code:
        _, promised = with_output(page.name if page.parent == ROOT else f"docs/{page.name}", "cosmic ray")
        said, words = shown.splitlines(), promised.splitlines()
        assert len(said) == len(words) == 2
        assert all(line.startswith(start.removesuffix("...")) for line, start in zip(said, words, strict=True))
    if 'report("report.html")' in code:
        assert (tmp_path / "report.html").exists()


def test_the_first_example_finds_what_is_shown(tmp_path: Path) -> None:
    code, shown = with_output("README.md", "# the one line")
    out = run(code, tmp_path)
    assert (tmp_path / "report.html").exists()
    moves = re.findall(r"^ +\d+  (\S.*?)  ", shown, re.MULTILINE)  # numbers differ between runs
    assert len(moves) == 3
    assert all(what in out for what in moves)
    table = out[re.search(r"observed +exact", out).start() :].splitlines()[1:4]  # as wide as the numbers are
    assert all(abs(float(row.split()[-4]) - float(row.split()[-3])) < 1e-4 for row in table)


def test_steps_that_follow_a_flow(tmp_path: Path) -> None:
    code = next(m["code"] for m in BLOCK.finditer((ROOT / "docs/eom.md").read_text()) if "ErrorMeter" in m["code"])
    assert float(re.search(r"within 1e-3 of the flow: (\S+)", run(code, tmp_path))[1]) > 0


def test_the_flow_of_gradient_descent(tmp_path: Path) -> None:
    code = next(m["code"] for m in BLOCK.finditer((ROOT / "docs/eom.md").read_text()) if "descend" in m["code"])
    assert float(re.search(r"tensor\(([^,)]+)", run(code, tmp_path))[1]) < 1e-3


def test_energy_is_kept(tmp_path: Path) -> None:
    code = next(m["code"] for m in BLOCK.finditer((ROOT / "docs/energy.md").read_text()))
    assert run(code, tmp_path).splitlines() == ["identity: True", "energy kept: True"]


def test_conservation_laws_hold_as_shown(tmp_path: Path) -> None:
    code, shown = with_output("docs/conservation.md", "NeuralConservationLaw")
    lines = run(code, tmp_path).splitlines()
    assert [re.split(": | 2", line)[0] for line in lines] == [re.split(": | 2", line)[0] for line in shown.splitlines()]
    divergence, continuity, cost, inner = lines
    assert float(divergence.split(": ")[1]) < 1e-6
    assert float(continuity.split(": ")[1]) < 1e-5
    ours, exact = map(float, re.findall(r"\d\.\d\d", cost))
    assert abs(ours - exact) <= 0.05 * exact
    assert float(inner.split(": ")[1]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "docs/tutorials").glob("*.py")), ids=lambda p: p.stem)
def test_every_tutorial_runs_and_finds_what_it_says(script: Path, tmp_path: Path) -> None:
    assert run(script.read_text(), tmp_path)
    assert script.with_suffix(".md").exists()


def test_an_operator_is_taught(tmp_path: Path) -> None:
    code = next(m["code"] for m in BLOCK.finditer((ROOT / "docs/extending.md").read_text()) if "mylib" in m["code"])
    assert run(code, tmp_path).splitlines() == ["before: 0", "after: 8"]


def test_a_run_is_resumed(tmp_path: Path) -> None:
    code = next(m["code"] for m in BLOCK.finditer((ROOT / "docs/howto.md").read_text()) if "resume=True" in m["code"])
    assert run(code, tmp_path) == "step 20\n"


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_a_page_points_to_exists(page: Path) -> None:
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, page in module.PAGES.items():
        assert (ROOT / "docs" / name).read_text() == page(), f"python docs/generate.py writes {name} anew"


def test_inner_products_are_no_tags() -> None:
    spec = importlib.util.spec_from_file_location("inner_products", ROOT / "docs/inner_products.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = '<p>With <g, D theta> = <DH(u, v), u - v> <a href="x, y">there</a><br /></p>'
    shown = module.on_page_content(page, page=None, config=None, files=None)
    assert shown == '<p>With &lt;g, D theta&gt; = &lt;DH(u, v), u - v&gt; <a href="x, y">there</a><br /></p>'


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="comes with the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="comes with the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "index.html").exists()
    assert "&lt;g, D theta&gt; = 0" in (tmp_path / "site" / "theory" / "index.html").read_text()
    assert len(list((tmp_path / "site" / "reports").glob("*.html"))) == 4
