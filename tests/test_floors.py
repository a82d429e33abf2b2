"""The architecture, read off the source: imports run down only and by the front door, a word means one thing."""

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import neuromech

ROOT = Path(neuromech.__file__).parent
# From the ground up. A file may import what stands on a lower line, and its own package.
HOUSE = """
    compat _version
    errors params rounding rng
    symmetry optimizers record
    detect dynamics eom physics
    hooks transforms
    monitor report
    probe
    __init__
    integrations demo
    cli
    __main__
"""
FLOORS = {name: floor for floor, line in enumerate(HOUSE.split("\n")) for name in line.split()}
HEAVY = {"pandas", "seaborn", "matplotlib", "jinja2", "tqdm", "sklearn", "scipy", "torchdiffeq"}
LONGEST = 350  # lines of a file: more is two ideas
# How many names of classes or type aliases may be defined in more than one module. A few are right: what is private to
# two files that have nothing to do with each other. More, and a search for a word finds other things than it means.
HOMONYMS = 5
FILES = sorted(ROOT.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def unit(path: Path) -> str:
    """The box of the architecture that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def dotted(path: Path) -> str:
    """`neuromech.detect.find` of .../detect/find.py; a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("neuromech", *(p for p in parts if p != "__init__")))


@cache
def imports(tree: ast.AST) -> tuple[tuple[str, bool], ...]:
    """Every imported name in full, and whether the import runs when the file is imported."""

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

    return (*walk(tree, True),)


def of_ours(tree: ast.AST) -> set[str]:
    return {name for name, _ in imports(tree) if name.split(".")[0] == "neuromech"}


def imported_units(tree: ast.AST) -> set[str]:
    """The boxes that a file imports; `import neuromech` and the names at its front door are the root's."""
    parts = {[*name.split("."), "__init__"][1] for name in of_ours(tree)}
    return {p if p in FLOORS else "__init__" for p in parts}


def of_each_file(found: Callable[[Path], Iterable[object]]) -> dict[str, list[object]]:
    """What was found in each file, without those in which nothing was."""
    return {dotted(path): list(wrong) for path in FILES if (wrong := found(path))}


def test_imports_run_down() -> None:
    assert not {unit(p) for p in FILES} - FLOORS.keys(), "a box has no floor yet: give it one"
    upward = of_each_file(lambda p: [u for u in imported_units(tree_of(p)) - {unit(p)} if FLOORS[u] >= FLOORS[unit(p)]])
    assert not upward


def faces() -> dict[str, set[str]]:
    """What every package with a front door shows there, by its dotted name."""
    found = {}
    for stub in sorted(ROOT.rglob("__init__.pyi")):
        names = [a.asname or a.name for n in ast.walk(tree_of(stub)) if isinstance(n, ast.ImportFrom) for a in n.names]
        found[dotted(stub)] = set(names)
    return found


FACES = faces()


def past_a_face(me: str, names: Iterable[str], shown: Mapping[str, set[str]]) -> Iterator[str]:
    """Those of the imported `names` for which the module `me` goes around the front door of another package."""
    for name in names:
        for package, face in shown.items():
            inside = f"{me}.".startswith(f"{package}.")
            if name.startswith(f"{package}.") and not inside and name.removeprefix(f"{package}.") not in face:
                yield name


def test_packages_meet_at_their_faces() -> None:
    assert not of_each_file(lambda p: [*past_a_face(dotted(p), of_ours(tree_of(p)), FACES)])


def test_every_package_has_a_face() -> None:
    assert {f"neuromech.{p.name}" for p in ROOT.iterdir() if (p / "__init__.py").exists()} <= set(FACES)


@pytest.mark.parametrize("stub", sorted(ROOT.rglob("__init__.pyi")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_name_on_a_face_is_a_modules(stub: Path) -> None:
    """Python sets a module as an attribute of its package when it is imported: it would hide the name."""
    modules = {p.stem for p in stub.parent.iterdir()} - {"__init__"}
    shown = (n for n in ast.walk(tree_of(stub)) if isinstance(n, ast.ImportFrom) and n.module)
    assert not {a.asname or a.name for n in shown for a in n.names} & modules


def arrows(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """Which module imports which, whenever it does so: at once, in a function, or for its types alone."""

    def module(name: str) -> str | None:
        return name if name in trees else module(name.rpartition(".")[0]) if "." in name else None

    return {me: {m for name in of_ours(t) if (m := module(name)) and m != me} for me, t in trees.items()}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules that are left when all are taken away that import none of the rest, again and again: on a circle, or
    above one."""
    left = dict(graph)
    while free := [m for m, below in left.items() if not below & left.keys()]:
        for m in free:
            del left[m]
    return sorted(left)


def test_there_are_no_circles() -> None:
    trees = {dotted(p): tree_of(p) for p in FILES}
    graph = {me: below - {"neuromech", *FACES} for me, below in arrows(trees).items() if me not in FACES}
    assert not circle(graph)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    assert not of_each_file(lambda p: HEAVY & {name.split(".")[0] for name, now in imports(tree_of(p)) if now})


def test_files_are_short() -> None:
    assert not of_each_file(lambda p: [n for n in [len(p.read_text().splitlines())] if n > LONGEST])


def test_the_conductor_is_small() -> None:
    """`probe/` holds what conducts; whatever has an idea of its own lives with its kind."""
    assert sum(len(p.read_text().splitlines()) for p in (ROOT / "probe").glob("*.py")) <= 1300


def types_in(tree: ast.Module) -> Iterator[str]:
    """The classes and type aliases that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", target.id):
                yield target.id


def homonyms(trees: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    where: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for name in set(types_in(tree)):
            where[name].append(module)
    return {name: modules for name, modules in where.items() if len(modules) > 1}


def test_a_word_means_one_thing() -> None:
    found = homonyms({dotted(p): tree_of(p) for p in FILES})
    assert len(found) <= HOMONYMS, "\n".join(f"{name}: {', '.join(where)}" for name, where in sorted(found.items()))


def test_the_tests_see_what_they_should() -> None:
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from d import e\nclass G:\n    import h"
    )
    assert list(imports(tree)) == [("a.b", True), ("c", False), ("d.e", False), ("h", True)]
    assert imported_units(ast.parse("import neuromech")) == {"__init__"}
    assert imported_units(ast.parse("from neuromech import instrument, params")) == {"__init__", "params"}
    assert imported_units(ast.parse("import neuromech.detect.find")) == {"detect"}
    shown = {"neuromech.detect": {"Findings"}}
    names = ("neuromech.detect.Findings", "neuromech.detect.find.x", "neuromech.detect.find")
    assert list(past_a_face("neuromech.probe.probe", names, shown)) == list(names[1:])
    assert not list(past_a_face("neuromech.detect.page", names, shown))
    pair = {"neuromech.a": ast.parse("if TYPE_CHECKING:\n    from neuromech.b import x"), "neuromech.b": ast.parse("1")}
    assert not circle(arrows(pair))
    pair["neuromech.b"] = ast.parse("def f():\n    import neuromech.a")
    assert circle(arrows(pair)) == ["neuromech.a", "neuromech.b"]
    twice = {m: ast.parse("class A: ...\nRows = list[int]\nLIMIT = 1\n") for m in ("x", "y")}
    assert set(homonyms({**twice, "z": ast.parse("class B: ...")})) == {"A", "Rows"}
