"""What people read is whole: no string or docstring has been cut by a formatter and left so."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import neuromech

ROOT = Path(neuromech.__file__).parents[1]

CUT = re.compile(r'"\n\s*f?"')  # a string that a line wrapper has continued, inside of a docstring
SHORT = re.compile(r'\s*f?"(?:\S+ ){1,2}"')  # a line of one or two words, amid the lines of a string
STRING = re.compile(r'\s*f?".*"')
UNFILLED = re.compile(r"""(?i)\br?fr?(["'])(?:(?!\1)[^{\n])*\1""")  # tokenizing takes long: only where one may be


def scars(source: str) -> Iterator[int]:
    """The lines at which text has been cut."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CUT.search(node.value):
            yield node.lineno
    lines = source.splitlines()
    for i, (above, line, below) in enumerate(zip(lines, lines[1:], lines[2:], strict=False), 2):
        if SHORT.fullmatch(line) and STRING.fullmatch(above) and STRING.match(below):
            yield i
    if UNFILLED.search(source):
        yield from pointless(source)


def pointless(source: str) -> Iterator[int]:
    """The lines of strings marked f that have nothing to fill in."""
    start, filled = 0, False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING" and re.match(r"(?i)r?fr?['\"]", token.string) and "{" not in token.string:
            yield token.start[0]
        elif kind == "FSTRING_START":  # from Python 3.12 on
            start, filled = token.start[0], False
        elif kind == "FSTRING_END" and not filled:
            yield start
        filled = filled or (kind == "OP" and token.string == "{")


@pytest.mark.parametrize("folder", ["neuromech", "tests", "experiments", "analysis"])
def test_no_text_is_cut(folder: str) -> None:
    cut = [f"{path}:{line}" for path in (ROOT / folder).rglob("*.py") for line in scars(path.read_text())]
    assert cut == []


def test_cut_text_is_seen() -> None:
    quote = '"'
    docstring = 'def f():\n    """From the end of the #\n    #step."""'.replace("#", quote)
    message = "error(\n    f#a long line #\n    f#options. #\n    #and on#\n)".replace("#", quote)
    assert list(scars(docstring)) == [2]
    assert list(scars(message)) == [3, 2, 3]
    pieces = "x = (\n    #a#\n    f#b #\n    f#{c}#\n)".replace("#", quote)
    assert list(pointless(pieces)) == [3]


# Phrases that a native reader stumbles over, in what people read: messages, README and documentation.
# "3.5 is no number", but not "there is no number", "no longer", "no closer", "no accident".
NEGATED = re.compile(
    r"(?<!here )(?<!what )\b(?:is|are|was|were) no (?!longer|more|less|such|better|worse|closer|smaller|larger|"
    r"accident|doubt|need)[A-Za-z]",
    re.IGNORECASE,
)
FOREIGN = re.compile(
    NEGATED.pattern + r"|than thought\b|there is no telling|\bother hands\b|the books balance|bring both to one|"
    r"warns beyond\.|\b(?:allows?|enables?) to\b|\binformations\b|\bof who\b|\bcan not\b|"
    r"\bin the same time\b|\bsince \d+ steps\b|\bto be said\b",
    re.IGNORECASE,
)


def strings(source: str) -> Iterator[tuple[int, str, bool]]:
    """The strings of a file, with their lines; whether each is a docstring."""
    nodes = list(ast.walk(ast.parse(source)))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {id(n.body[0].value) for n in nodes if isinstance(n, owners) and isinstance(n.body[0], ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, id(node) in docs


def test_english_is_native() -> None:
    pages = [(path, 0, path.read_text(), False) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
    code = [(path, *string) for path in (ROOT / "neuromech").rglob("*.py") for string in strings(path.read_text())]
    found = [
        f"{path}:{line}: {m[0]}"
        for path, line, text, is_docstring in pages + code
        for m in (NEGATED if is_docstring else FOREIGN).finditer(text)
    ]
    assert found == []


def test_foreign_phrases_are_seen() -> None:
    assert FOREIGN.search("3.5 is no number of steps")
    assert not FOREIGN.search("there is no file a.csv; it is no longer there")
    assert not FOREIGN.search("It is no accident, and no closer than that; what is no state of its own")
    assert FOREIGN.search("which allows to see them")
    assert list(strings('def f():\n    """is no page"""\n    raise E("no")')) == [
        (2, "is no page", True),
        (3, "no", False),
    ]
