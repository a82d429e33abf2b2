"""Every kind of page in a real browser, both themes, on a desk and on a phone: no violation of WCAG A and AA that
axe-core finds, nothing wider than the window, no error of the script, no request to anywhere.

Asks for `pip install -e '.[browser]'` and Chromium or Chrome; is skipped without them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import neuromech
from neuromech.record import Run, read
from neuromech.report import compare_runs, comparison_page, render

from .simulate import meta, train

pytestmark = pytest.mark.slow
STANDARDS = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("axe_playwright_python", reason="asks for pip install -e '.[browser]'")
    sync_api = pytest.importorskip("playwright.sync_api", reason="asks for pip install -e '.[browser]'")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


def broken() -> Run:
    def meddle(step: int, model: nn.Module) -> None:
        if step == 10:
            with torch.no_grad():
                model[0].weight.mul_(1.5)

    return train(60, meddle=meddle)


def lost() -> Run:
    def meddle(step: int, model: nn.Module) -> None:
        if step == 10:
            with torch.no_grad():
                model[2].bias.fill_(torch.inf)

    return train(20, meddle=meddle)


def without_symmetry(path: Path) -> Run:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with neuromech.instrument(model, run=path):
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).square().mean().backward()
            optimizer.step()
    return read(path)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    runs = {"good": train(60), "broken": broken(), "lost": lost(), "one step": train(1), "none": train(0)}
    runs["without symmetry"] = without_symmetry(root / "run")
    opaque = {"op": "roll", "module": "0", "why": "no rule for it", "blocks": ["0.weight"]}
    runs["limits"] = train(12)
    runs["limits"].sessions[-1]["meta"] |= meta(opaque=[opaque], rejected=[{"name": "x", "reason": "y", "defect": 1.0}])
    texts = {name: render(run) for name, run in runs.items()}
    two = {"one": runs["good"], "another": runs["broken"]}
    texts["followed"] = render(runs["good"], refresh=1e6)
    texts["comparison"] = comparison_page(two, compare_runs(two))
    for name, text in texts.items():
        (root / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: root / f"{name}.html" for name in texts}


def seen(browser: Any, page: Path, width: int, theme: str, script: str = "") -> dict[str, Any]:
    """What axe and the browser say of a page that was scrolled through and whose folds are open."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    tab, said = context.new_page(), []
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    tab.goto(page.as_uri())
    tab.wait_for_timeout(300)
    tab.evaluate(
        "document.querySelectorAll('button.open').forEach(b => b.click());"
        "document.querySelectorAll('details').forEach(d => { d.open = true; });" + script
    )
    for y in range(0, 12_000, 600):
        tab.evaluate(f"scrollTo(0, {y})")
        tab.wait_for_timeout(20)
    found = Axe().run(tab, options=STANDARDS).response["violations"]
    wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    parts = "[...document.querySelectorAll('section > *')]"
    skipped = f"{parts}.filter(e => !e.checkVisibility({{contentVisibilityAuto: true}}))"  # pictures of it were empty
    said += tab.evaluate(f"{skipped}.map(e => 'not laid out: ' + e.outerHTML.slice(0, 80))")
    drawn = tab.evaluate("document.querySelectorAll('figure svg path.line').length")
    context.close()
    return {
        "violations": [(v["id"], v["nodes"][0]["html"][:200]) for v in found],
        "wide": wide,
        "said": said,
        "n": drawn,
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_every_kind_of_page(browser: Any, pages: dict[str, Path], width: int, theme: str) -> None:
    told = {name: seen(browser, page, width, theme) for name, page in pages.items()}
    assert {name: t["violations"] for name, t in told.items() if t["violations"]} == {}
    assert {name: t["wide"] for name, t in told.items() if t["wide"] > 0} == {}
    assert {name: t["said"] for name, t in told.items() if t["said"]} == {}
    assert [name for name, t in told.items() if not t["n"]] == []


def test_a_page_that_follows_a_run_reloads_until_it_is_used_or_the_run_has_ended(browser: Any, tmp_path: Path) -> None:
    page, ended = tmp_path / "page.html", render(train(60))
    page.write_text(render(train(40), refresh=0.5), encoding="utf-8")
    tab = browser.new_page(color_scheme="light")
    loads: list[None] = []
    tab.on("load", lambda _: loads.append(None))
    tab.goto(page.as_uri())
    tab.wait_for_timeout(100)
    tab.click("#theme")
    tab.wait_for_timeout(4000)
    assert len(loads) >= 3
    tab.click("h1")
    assert tab.inner_text("header button >> nth=0") == "Paused: follow the run"
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    n = len(loads)
    tab.wait_for_timeout(2000)
    assert len(loads) == n
    page.write_text(ended, encoding="utf-8")
    tab.click("text=Paused: follow the run")
    tab.wait_for_timeout(4000)
    assert len(loads) == n + 1
    assert tab.query_selector("text=Following the run") is None
    tab.close()


def test_what_is_wrong_is_found(browser: Any, pages: dict[str, Path]) -> None:
    bad = "document.body.append(document.createElement('img'));" + "document.body.style.width = '3000px';"
    told = seen(browser, pages["good"], 1400, "light", bad)
    assert [name for name, _ in told["violations"]] == ["image-alt"]
    assert told["wide"] > 0
