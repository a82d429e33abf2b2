"""The page: complete in itself, well-formed, and right for every kind of run."""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neuromech.errors import RecordError
from neuromech.record import Record, Run, read
from neuromech.report import render, write_report

from .simulate import meta, train

VOID = {"meta", "img", "br", "circle", "line", "rect", "input", "hr", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers text, images, links and ids."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        if tag == "img":
            self.images.append((found["src"] or "", found["alt"] or ""))
        elif "src" in found:
            pytest.fail(f"<{tag} src={found['src']}> is a reference")
        if "href" in found:
            self.links.append(found["href"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def look(record: Run) -> Page:
    """The page of a record, checked for what every page must be."""
    html = render(record)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"data:[^\"]*", "", html))
    for source, alt in page.images:
        kind, _, data = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert alt
        picture = base64.b64decode(data).decode()
        ET.fromstring(picture)
        assert not re.search(r'href="(?!#)|url\((?!#)|@import', picture)
    for unwanted in ("nan", "None", "inf ", "{{", "{%", "undefined"):
        assert unwanted not in page.text
    return page


def test_a_page_of_a_good_run() -> None:
    page = look(train(40, lr=lambda k: 0.1 / k))
    assert "In this run of 40 steps 3 of 3 laws hold to rounding: worst relative residual" in page.text
    assert len(page.images) == 4
    assert page.text.count("✓ holds to rounding") == 6  # in the table, and with the figure
    for title in ("How to read this", "All laws at a glance", "What was found, and why", "Predicted against observed"):
        assert title in page.text
    assert "a factor passes through ReLU" in page.text
    assert "Nothing: every operation of the model was understood" in page.text
    assert "Nothing out of the ordinary." in page.text


def test_a_directory_and_a_live_record_give_the_same_page(tmp_path: Path) -> None:
    record = train(12, path=tmp_path / "run")
    live, stored = (write_report(r, tmp_path / f"{i}.html") for i, r in enumerate((record, tmp_path / "run")))
    assert live.read_text() == stored.read_text()
    assert write_report(str(tmp_path / "run"), str(tmp_path / "new" / "report.html")).exists()


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    record = Record(None, {})
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(RecordError, match="cannot write the report"):
            write_report(record, path)
    with pytest.raises(RecordError, match="not a directory"):
        write_report(tmp_path / "none", tmp_path / "report.html")


def empty(**known: object) -> Record:
    return Record(None, known)


def without_predictions() -> Record:
    return train(5, adam=True)


def diverged() -> Record:
    def meddle(k: int, model: nn.Module) -> None:
        if k > 6:
            with torch.no_grad():
                model[0].weight.fill_(math.nan)

    return train(10, meddle=meddle)


def broken() -> Record:
    def meddle(k: int, model: nn.Module) -> None:
        if k == 5:
            with torch.no_grad():
                model[2].weight[0, 0] += 0.5

    return train(10, meddle=meddle)


CASES = {
    "nothing": (empty, "Nothing was measured in this run"),
    "no symmetry": (lambda: empty(**(meta() | {"symmetries": []})), "No symmetry was found in this model"),
    "no step": (lambda: empty(**meta()), "no optimizer step was recorded"),
    "initial state only": (lambda: train(0), "no optimizer step was recorded"),
    "one step": (lambda: train(1), "In this run of 1 step 3 of 3 laws"),
    "no law": (without_predictions, "3 charges were observed; none was predicted"),
    "diverged": (diverged, "not a number any more from step 7 on; until then it holds to rounding"),
    "broken": (broken, "broken from step 5: observed departs from the law by"),
    "bfloat16": (lambda: train(10, torch.bfloat16), "3 of 3 laws hold to rounding"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_run_is_told(case: str) -> None:
    make, says = CASES[case]
    assert says in look(make()).text


def test_what_limits_the_answer_is_listed() -> None:
    limits = {
        "opaque": [{"op": "aten.foo", "module": "block.3", "blocks": ["a.weight", "b"], "why": "data-dependent"}, {}],
        "rejected": [{"name": "c.weight[i]", "defect": 0.25, "reason": "it looked like it"}, {"defect": None}],
        "inactive": ["d.bias", "e.bias"],
        "notes": ["dropout was off while measuring", "it ignores a common shift of the output"],
    }
    text = look(train(3, **limits)).text
    for said in ("aten.foo", "block.3", "a.weight, b", "data-dependent", "no rule for it", "c.weight[i]", "0.25"):
        assert said in text
    assert "it looked like it" in text
    assert "d.bias , e.bias" in text
    assert "dropout was off while measuring" in text
    assert text.count("it ignores a common shift of the output") == 1  # said once, with the loss
    assert "Nothing: every operation" not in text


def test_events_are_listed_and_many_are_folded() -> None:
    record = train(3)
    record.append("events", {"step": 2, "kind": "no gradient", "message": ["fc.bias received no gradient"]})
    page = look(record)
    assert "fc.bias received no gradient" in page.text
    assert "details" not in page.tags
    record.append("events", {"step": range(30), "kind": "note", "message": [f"event {i}" for i in range(30)]})
    page = look(record)
    assert "details" in page.tags
    assert "19 more" in page.text
    assert all(f"event {i}" in page.text for i in range(30))


def test_names_and_messages_are_text_never_markup() -> None:
    evil = "<script>alert('&')</script>"
    record = train(2, model=evil, notes=[evil], inactive=[evil])
    record.append("events", {"step": 1, "kind": evil, "message": evil})
    page = look(record)
    assert page.text.count(evil) == 7  # title, heading, fact, note, parameter, event twice
    assert page.tags.count("script") == 1


def test_sixty_families_stay_readable() -> None:
    base = meta()["symmetries"]
    assert isinstance(base, list)
    names = [dict(base[i % 3], name=f"layer{i}.weight[i]") for i in range(60)]
    record = empty(**(meta() | {"symmetries": names}))
    step = np.repeat(np.arange(4), 60)
    columns = {"observed": 1.0, "exact": 1.0, "ideal": 1.0, "continuous": 1.1, "flow": 1.2, "scale": 1.0}
    family = np.tile(np.arange(60), 4)
    off = np.where(family == 59, 1e-3, 1e-16)  # the last one is broken
    record.append("charges", {"step": step, "symmetry": family, "member": -1, "residual": off, **columns})
    page = look(record)
    assert len(page.images) == 61
    assert page.tags.count("details") == 2
    assert "59 of 60 laws hold to rounding and 1 is broken" in page.text
    assert re.search(r"Predicted against observed .* Translation layer59\.weight", page.text)  # what broke comes first


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    train(12, path=tmp_path / "run")
    record = Record(tmp_path / "run", {}, resume=True)
    rows = {"observed": 1.0, "exact": 1.0, "scale": 1.0, "residual": 0.0}
    record.append("charges", {"step": [10, 11, 12, 13], "symmetry": 0, "member": -1, **rows})
    record.append("steps", {"step": [10, 11, 12, 13], "optimizer": 0, "lr": 0.1, "time": 1.0})
    record.close()
    text = look(read(tmp_path / "run")).text
    assert "In this run of 13 steps" in text
    assert "2, resumed 1 time" in text


def test_a_long_run_gives_a_small_page_quickly() -> None:
    record = empty(**meta())
    n = 100_000
    step = np.arange(n)
    rows = {"observed": np.cos(step / 1e4), "exact": np.cos(step / 1e4), "scale": 1.0, "residual": 1e-15}
    for i in range(3):
        record.append("charges", {"step": step, "symmetry": i, "member": -1, **rows})
    record.append("steps", {"step": step, "optimizer": 0, "lr": 0.1 / (1 + step), "time": step})
    start = time.perf_counter()
    html = render(record)
    print(f"a page of {n:,} steps: {len(html) / 1e6:.2f} MB in {time.perf_counter() - start:.1f} s")
    assert len(html) < 1_000_000
    assert "In this run of 99,999 steps 3 of 3 laws hold to rounding" in html


def test_importing_the_report_is_cheap_and_its_template_is_there() -> None:
    code = "import sys, json, neuromech.report; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "seaborn", "matplotlib", "jinja2"} & set(json.loads(done.stdout))
