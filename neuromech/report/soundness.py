"""Records of any origin made fit to be read: what has another shape than a run writes is left out, and said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.record import taken

if TYPE_CHECKING:
    import pandas as pd

TEXT = {"kind", "message", "name", "cause", "strength", "title", "parameters", "evidence", "advice"}
NEEDED = {
    "steps": {"step"},
    "charges": {"step", "symmetry"},
    "terms": {"step", "symmetry", "member"},
    "events": {"step", "kind", "message"},
    "faults": {"fault", "step", "last", "times", "rank"},
    "metrics": {"step", "name", "value"},
    "progress": {"step", "seconds", "measuring"},
    "sides": {"step", "symmetry", "weights_up", "weights_down", "gradient_up", "gradient_down"},
}
LARGEST = 2**53  # a step that a float still counts
LONGEST = 2000  # characters of a text that a page shows
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # which a terminal would obey


def sound_rows(table: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows whose numbers are numbers, and what was wrong with the table ("" if nothing); `rows` are changed."""
    import pandas as pd

    if rows.empty:
        return rows, ""
    if missing := NEEDED[table] - {*rows}:
        return pd.DataFrame(), f"it has no column {', '.join(sorted(missing))}"
    wrong = ""
    for column in {*rows} - TEXT:
        if rows[column].dtype.kind not in "iuf":
            rows[column] = pd.to_numeric(rows[column], errors="coerce").astype(float)
            wrong = "some of its fields are not numbers"
    for column in TEXT & {*rows}:
        rows[column] = rows[column].astype(str).str.slice(0, LONGEST).str.replace(CONTROL, "\ufffd", regex=True)
    good = np.ones(len(rows), bool)
    for column in [c for c in ("step", "symmetry", "member", "fault", "last", "times", "rank") if c in rows]:
        values = rows[column].to_numpy(float)
        known = np.isfinite(values) | ((column == "member") & np.isnan(values))
        good &= known & ~(np.abs(values) >= LARGEST)
    good &= rows["symmetry"].to_numpy(float) >= 0 if "symmetry" in rows else True
    if not good.all():
        wrong = f"{int((~good).sum())} of its rows make no sense"
    return (rows if good.all() else taken(rows, good)), wrong


def sound_meta(meta: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What is of the shape that a run writes, its texts cut to `LONGEST`, and the names of what is not.

    A text that is only long is nothing wrong: a family of many tied layers has a name of thousands of letters.
    """
    out: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in meta.items():
        shape = _SHAPES.get(key, _any)
        out[key] = shape(value)
        if key in _SHAPES and out[key] != value and value is not None:
            wrong.append(str(key)[:80])
    return {k: _cut(v) if k in _SHAPES else v for k, v in out.items() if v is not None}, wrong


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return CONTROL.sub("\ufffd", value[:LONGEST])
    if isinstance(value, Mapping):
        return {k: _cut(v) for k, v in value.items()}
    return [_cut(v) for v in value] if isinstance(value, (list, tuple)) else value


def _any(value: Any) -> Any:
    return value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and abs(value) < LARGEST else None


def _number(value: Any) -> Any:
    """A number, or the text that stands for an infinity."""
    if isinstance(value, (int, float)) or value in ("inf", "-inf"):
        return value
    return None


def _texts(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else []


def _entry(shapes: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], dict[str, Any]]:
    def entry(value: Any) -> dict[str, Any]:
        given = value if isinstance(value, Mapping) else {}
        known = {str(k): shapes.get(str(k), _any)(v) for k, v in given.items()}
        return {k: v for k, v in known.items() if v is not None or k not in shapes or given[k] is None}

    return entry


def _entries(shapes: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], list[dict[str, Any]]]:
    """A list of dicts; what is none counts as an empty one, so that places stay what they were."""
    each = _entry(shapes)
    return lambda value: [each(v) for v in value] if isinstance(value, (list, tuple)) else []


def _shapes_of(value: Any) -> dict[str, list[int]]:
    given = value if isinstance(value, Mapping) else {}
    return {
        str(k): [int(n) for n in v]
        for k, v in given.items()
        if isinstance(v, (list, tuple)) and all(isinstance(n, int) for n in v)
    }


def _bounds(value: Any) -> list[int] | None:
    """[first, stop) of a run of members."""
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int for n in value)
    return [*value] if whole and 0 <= value[0] < value[1] else None


_GROUP = {
    "lr": _number, "weight_decay": _number, "momentum": _number, "parameters": _whole, "names": _texts,
}  # fmt: skip
_SHAPES: dict[str, Callable[[Any], Any]] = {
    "symmetries": _entries(
        {
            "kind": _text, "name": _text, "reason": _text, "size": _whole, "defect": _number, "broken_by": _texts,
            "dtype": _text, "measured": _bounds, "directions": _whole, "of": _whole,
            "terms": _entries({"parameter": _text}),
        }
    ),
    "optimizers": _entries(
        {"class": _text, "law": _text, "groups": _entries(_GROUP), "wrapper": _entry({"class": _text})}
    ),
    "functions": _texts,
    "permutations": _entries({"name": _text}),
    "modules": _entries({"name": _text, "type": _text, "shapes": _shapes_of}),
    "opaque": _entries({"op": _text, "module": _text, "why": _text, "blocks": _texts}),
    "rejected": _entries({"name": _text, "reason": _text, "defect": _number}),
    "inactive": _texts,
    "notes": _texts,
    "dimension": lambda v: {str(k): n for k, n in v.items() if isinstance(n, int)} if isinstance(v, Mapping) else {},
    "config": lambda v: v if isinstance(v, Mapping) else None,
    "every": _whole,
    "unwatched": _whole,
    "parameters": _whole,
    **dict.fromkeys(("name", "model", "dtype", "device", "autocast", "loss"), _text),
}  # fmt: skip
