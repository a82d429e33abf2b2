"""Templates filled in: one self-contained HTML text from a template, the style, the script and the data they draw."""

from __future__ import annotations

import base64
import gzip
import json
import re
from importlib import resources
from typing import Any

from neuromech.report import words

SCRIPTS = ("drawing", "chart", "family", "page")  # each uses those before it
SCRIPT = """"use strict";
// The page can be read before this runs, so that it loads as fast as one without a script.
addEventListener("load", () => setTimeout(async () => {{
document.documentElement.classList.add("whole");
{parts}
}}));"""


def rendered(name: str, data: dict[str, Any], **values: Any) -> str:
    """`NAME.html.j2` with `values`; `data` is what the script draws from."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )
    asked = (words.number, words.share, words.unbroken, words.short, marked)
    environment.filters |= {f.__name__: f for f in asked}
    script = SCRIPT.format(parts="\n".join(resource(f"{part}.js") for part in SCRIPTS))
    fixed = {"css": markupsafe.Markup(resource("page.css")), "js": markupsafe.Markup(script)}
    return environment.get_template(f"{name}.html.j2").render(**fixed, data=compressed(data), **values)


def marked(text: str) -> Any:
    """Text whose words in `backticks` are code."""
    import markupsafe

    code = markupsafe.Markup("<code>{}</code>")
    parts = enumerate(re.split(r"`([^`\n]+)`", text))
    return markupsafe.Markup("").join(code.format(x) if k % 2 else x for k, x in parts)


def resource(name: str) -> str:
    return resources.files("neuromech.report").joinpath(name).read_text(encoding="utf-8")


def compressed(data: Any) -> str:
    """As JSON, gzip and base64: two fifths of the text, which a browser has to read before it shows anything."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode()


def decompressed(page: str) -> Any:
    """The data of a page that `rendered` has made."""
    found = re.search(r'id="data">([^<]*)<', page)
    return json.loads(gzip.decompress(base64.b64decode(found[1]))) if found else None
