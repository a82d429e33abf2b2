"""Templates filled in: one self-contained HTML text from a template, the style, the script and the data they draw."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from neuromech.report import words


def rendered(name: str, data: dict[str, Any], **values: Any) -> str:
    """`NAME.html.j2` with `values`; `data` is what the script draws from."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": words.number, "share": words.share, "unbroken": words.unbroken}
    fixed = {kind: markupsafe.Markup(resource(f"page.{kind}")) for kind in ("css", "js")}
    text = markupsafe.Markup(as_json(data))
    return environment.from_string(resource(f"{name}.html.j2")).render(**fixed, data=text, **values)


def resource(name: str) -> str:
    return resources.files("neuromech.report").joinpath(name).read_text(encoding="utf-8")


def as_json(data: Any) -> str:
    """As JSON that may stand inside of a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
