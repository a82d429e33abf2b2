"""The architecture, read off the source: imports run down only, heavy packages wait until they are needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import neuromech

ROOT = Path(neuromech.__file__).parent
FLOORS = {
    "errors": 0, "params": 0, "rounding": 0, "compat": 0, "rng": 0, "_version": 0,
    "symmetry": 1, "optimizers": 1, "record": 1,
    "detect": 2, "dynamics": 2, "eom": 2, "physics": 2,
    "hooks": 3, "transforms": 3,
    "monitor": 4, "report": 4,
    "probe": 5,
    "__init__": 6,
    "integrations": 7, "demo": 7,
    "cli": 8,
    "__main__": 9,
}  # fmt: skip
HEAVY = {"pandas", "seaborn", "matplotlib", "jinja2", "tqdm", "sklearn", "scipy", "torchdiffeq"}
LONGEST = 350
FILES = sorted(ROOT.rglob("*.py"))


def unit(path: Path) -> str:
    """The box of the architecture that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether the import runs when the file is imported."""

    def walk(node: ast.AST, now: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((a.name, now) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from ((f"{node.module}.{a.name}", now) for a in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.body:
                yield from walk(child, False)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from walk(child, now and not inside)

    return walk(tree, True)


def imported_units(path: Path) -> set[str]:
    names = {name for name, _ in imports(ast.parse(path.read_text())) if name.split(".")[0] == "neuromech"}
    parts = {name.split(".")[1] for name in names if "." in name}
    return {p if p in FLOORS else "__init__" for p in parts}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down(path: Path) -> None:
    me = unit(path)
    assert me in FLOORS, f"{me} has no floor yet: give it one"
    for other in imported_units(path) - {me}:
        assert FLOORS[other] < FLOORS[me], (
            f"{path.relative_to(ROOT)} (floor {FLOORS[me]}) imports {other} (floor {FLOORS[other]})"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_heavy_is_imported_before_it_is_needed(path: Path) -> None:
    at_once = {name.split(".")[0] for name, now in imports(ast.parse(path.read_text())) if now}
    assert not at_once & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_the_walk_sees_what_it_should() -> None:
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from d import e\nclass G:\n    import h"
    )
    assert list(imports(tree)) == [("a.b", True), ("c", False), ("d.e", False), ("h", True)]
