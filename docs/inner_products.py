"""Keeps inner products, as in <g, D theta>, from being taken for HTML tags when mkdocs makes pages of docstrings."""

import re
from typing import Any

# A tag's name is never followed by a comma.
INNER_PRODUCT = re.compile(r"<([A-Za-z]\w*'?(?:\([^<>()]*\))?, [^<>]+)>")


def shown(html: str) -> str:
    """`html` with every inner product written so that a browser shows it."""
    return INNER_PRODUCT.sub(r"&lt;\1&gt;", html)


def on_page_content(html: str, **_: Any) -> str:
    """mkdocs' hook."""
    return shown(html)
