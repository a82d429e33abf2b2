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
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neuromech.errors import RecordError
from neuromech.record import Record, Run, read
from neuromech.report import render, write_report
from neuromech.report.rendering import decompressed, marked
from neuromech.report.words import short

from .simulate import meta, train

VOID = {"meta", "img", "br", "circle", "line", "rect", "path", "input", "hr", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers text, links, ids and the data that figures are drawn from."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.data: dict[str, Any] = decompressed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        self.labels += [found["aria-label"]] if found.get("aria-label") else []
        assert "src" not in found
        if "href" in found:
            self.links.append(found["href"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def floats(packed: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed), "<f4")


def look(record: Run) -> Page:
    """The page of a record, checked for what every page must be."""
    html = render(record)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not re.search(
        r"https?:(?!//www\.w3\.org/2000/svg)|//[a-z]+\.|@import|url\((?!#)", html.split('id="data"')[0]
    )
    for unwanted in ("nan", "None", "inf ", "{{", "{%", "undefined"):
        assert unwanted not in page.text, unwanted
    for family in page.data["families"]:
        for lines in filter(None, [family["curves"] and family["curves"]["charge"]]):
            assert len({len(floats(x)) for x in lines.values()}) == 1
    for picture in re.findall(r'<svg viewBox="0 0 760.*?</svg>', html, re.DOTALL):
        ET.fromstring(picture)
    return page


def test_a_page_of_a_good_run() -> None:
    record = train(40, lr=lambda k: 0.1 / k)
    record.append("metrics", {"step": range(1, 41), "name": "loss", "value": np.linspace(2.0, 0.5, 40)})
    record.end("finished")
    page = look(record)
    assert "40 steps, loss 2 → 0.5. 3 laws predicted ahead of every step held to rounding" in page.text
    assert "loss: falls from 2 to 0.5." in page.labels
    for title in ("What happened", "One law, explained", "The model, layer by layer", "Limits", "Appendix"):
        assert title in page.text
    assert "a factor passes through ReLU" in page.text
    assert "Nothing out of the ordinary was seen. No monitor was on." in page.text
    assert "learning rate 0.1 → 0.0025" in page.text


def test_figures_hold_what_was_recorded() -> None:
    record = train(40)
    page = look(record)
    assert "Charge: 0.weight[i]" in page.text  # without a loss the first figure is that of a charge, and says so
    family = page.data["families"][0]
    rows = record.frame("charges").query("symmetry == 0 and member == -1")
    assert floats(family["curves"]["charge"]["observed"]) == pytest.approx(rows["observed"].to_numpy(), rel=1e-6)
    assert floats(family["curves"]["charge"]["step"]).tolist() == list(range(41))
    assert [m["member"] for m in family["curves"]["members"]] == [0, 1, 2, 3, 4]
    assert page.data["layers"][0]["families"] == [0]


def test_a_gap_is_a_gap() -> None:
    page = look(diverged())
    observed = floats(page.data["families"][0]["curves"]["charge"]["observed"])
    assert np.isnan(observed[-1])
    assert "not a number from step 7 on" in page.data["families"][0]["told"]


def test_a_directory_and_a_live_record_give_the_same_page(tmp_path: Path) -> None:
    record = train(12, path=tmp_path / "run")
    record.end("finished")
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
    "no symmetry": (lambda: empty(**(meta() | {"symmetries": []})), "Why there is no symmetry"),
    "no step": (lambda: empty(**meta()), "no optimizer step was recorded"),
    "initial state only": (lambda: train(0), "no optimizer step was recorded"),
    "one step": (lambda: train(1), "1 step. 3 laws predicted"),
    "no law": (without_predictions, "3 charges were observed; none was predicted"),
    "diverged": (diverged, "NaN or infinite from step 7 on"),
    "broken": (broken, "Broken from step 5: observed departs from the law by"),
    "bfloat16": (lambda: train(10, torch.bfloat16), "In bfloat16 rounding alone can move a charge"),
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
    assert "Dropout was off while measuring." in text


def test_events_stand_in_the_timeline_and_as_marks() -> None:
    record = train(3)
    record.append("events", {"step": 2, "kind": "settings", "message": ["momentum is 0.5"]})
    record.append("events", {"step": 3, "kind": "note", "message": ["from step 3 on group 0 has lr 1"]})
    record.append("events", {"step": 3, "kind": "note", "message": ["step 3: the books were closed."]})
    page = look(record)
    assert "step 2 Momentum is 0.5." in page.text
    assert "step 3 Group 0 has lr 1." in page.text
    assert "step 3 The books were closed." in page.text
    assert page.data["marks"] == [{"step": 2, "text": "settings", "soft": True}]
    record.append("events", {"step": range(300), "kind": "note", "message": [f"event {i}" for i in range(300)]})
    page = look(record)
    assert "103 more events" in page.text


def test_an_identity_does_not_wear_the_tick_of_a_prediction() -> None:
    """Each layer says what its laws rest on; one without a symmetry says so."""
    record = train(5)
    record.meta["modules"] = [{"name": "9", "type": "Tanh", "shapes": {}}]
    page = look(record)
    assert "✓ holds predicted" in page.text
    assert "– no symmetry" in page.text
    assert "balances" not in page.text.split("The model, layer by layer")[1].split("Limits")[0]
    measured = train(5, optimizers=[{"class": "Mine", "law": "measured", "groups": [{"lr": 0.1}]}])
    table = look(measured).text.split("The model, layer by layer")[1].split("Limits")[0]
    assert "= balances measured" in table
    assert "✓" not in table


def test_words_in_backticks_are_code() -> None:
    assert str(marked("call `probe.monitor()` <now>")) == "call <code>probe.monitor()</code> &lt;now&gt;"
    assert str(marked("`<b>`` alone")) == "<code>&lt;b&gt;</code>` alone"


def test_names_and_messages_are_text_never_markup() -> None:
    evil = "<script>alert('&')</script>\u2028</script><!--"
    shown = evil.replace("\u2028", " ")
    record = train(2, model=evil, name=evil, notes=[evil], inactive=[evil], config={evil: evil})
    record.sessions[-1]["meta"]["symmetries"][0].update(name=evil, reason=evil)
    record.append("events", {"step": 1, "kind": evil, "message": evil})
    record.append("metrics", {"step": [1, 2], "name": evil, "value": 1.0})
    page = look(record)
    assert page.text.count(shown) >= 9
    assert page.tags.count("script") == 2
    assert page.data["families"][0]["name"] == evil


def test_sixty_families_stay_readable() -> None:
    base = meta()["symmetries"]
    assert isinstance(base, list)
    term = [{"parameter": "layer0.weight", "part": None, "along": None, "weight": "1"}]
    names = [
        dict(base[1], name=f"layers.{i}.weight[i]", terms=[dict(term[0], parameter=f"layers.{i}.weight")])
        for i in range(60)
    ]
    record = empty(**(meta() | {"symmetries": names}))
    step = np.repeat(np.arange(4), 60)
    columns = {"observed": 1.0 + 0.1 * step, "exact": 1.0 + 0.1 * step, "ideal": 1.0 + 0.1 * step, "scale": 1.0}
    family = np.tile(np.arange(60), 4)
    off = np.where(family == 59, 1e-3, 1e-16)  # the last one is broken
    record.append("charges", {"step": step, "symmetry": family, "member": -1, "residual": off, **columns})
    page = look(record)
    assert page.tags.count("canvas") == 2
    assert "59 of 60 laws predicted" in page.text
    assert "1 of 60 laws is broken" in page.text
    assert re.search(r"layers\.59 .* ✗ broken .* layers\.0-58 .* ✓ holds", page.text)  # what broke comes first
    assert len(page.data["families"]) == 60


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    train(12, path=tmp_path / "run")
    record = Record(tmp_path / "run", {}, resume=True)
    rows = {"observed": 1.0, "exact": 1.0, "scale": 1.0, "residual": 0.0}
    record.append("charges", {"step": [10, 11, 12, 13], "symmetry": 0, "member": -1, **rows})
    record.append("steps", {"step": [10, 11, 12, 13], "optimizer": 0, "lr": 0.1, "time": 1.0})
    record.close()
    text = look(read(tmp_path / "run")).text
    assert "13 steps" in text
    assert "2, resumed 1 time" in text


def test_a_long_run_gives_a_small_page_quickly() -> None:
    record = empty(**meta())
    n = 100_000
    step = np.arange(n)
    rows = {"observed": np.cos(step / 1e4), "exact": np.cos(step / 1e4), "scale": 1.0, "residual": 1e-15}
    for i in range(3):
        record.append("charges", {"step": step, "symmetry": i, "member": -1, **rows})
    record.append("steps", {"step": step, "optimizer": 0, "lr": 0.1 / (1 + step), "time": step})
    start = time.process_time()
    html = render(record)
    print(f"a page of {n:,} steps: {len(html) / 1e6:.2f} MB in {time.process_time() - start:.1f} CPU-s")
    assert len(html) < 300_000
    assert "99,999 steps. 3 laws predicted ahead of every step held to rounding" in html


def test_importing_the_report_is_cheap_and_its_template_is_there() -> None:
    code = "import sys, json, neuromech.report; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "seaborn", "matplotlib", "jinja2"} & set(json.loads(done.stdout))


def test_before_the_first_forward_nothing_is_denied() -> None:
    """That no symmetry is there can only be said once one has looked."""
    layer = {"name": "0", "type": "Linear", "shapes": {"weight": [3, 2]}}
    waiting = Record(None, {"model": "Sequential", "modules": [layer]})
    waiting.append("events", {"step": 0, "kind": "nothing measured", "message": "no forward has been seen: call it"})
    page = look(waiting)
    assert "Nothing was measured in this run: no forward has been seen: call it." in page.text
    assert page.text.count("not looked for") == 3  # the tile, the row, the choice of rows
    assert "no symmetry" not in page.text
    assert page.data["none"].startswith("Nothing is known of these parameters")  # said of a layer that is opened
    assert "No forward has been seen: call it." in page.text
    waiting.update_meta({"symmetries": [], "dimension": {}})
    page = look(waiting)
    assert "not looked for" not in page.text
    assert page.data["none"].startswith("No symmetry was found")
    assert "no symmetry" in page.text
    assert "no forward has been seen" not in page.text.lower()


def test_claims_that_were_withdrawn_are_no_symmetries_of_the_model() -> None:
    record = train(0)
    claims = record.meta["symmetries"]
    gone = Record(None, dict(record.meta) | {"symmetries": [], "rejected": claims})
    page = look(gone)
    assert "No symmetry was found in this model: 3 claims failed when tried and were withdrawn, so" in page.text
    assert "its gradients did not keep them" in page.text
    assert "ReLU-like activations" not in page.text
    assert "5 of scaling" not in page.text
    assert "5 of scaling" in look(train(1)).text


def test_a_number_that_is_known_once_is_not_the_first_figure() -> None:
    record = train(8)
    record.append("metrics", {"step": [1], "name": "loss", "value": [0.5]})
    record.append("metrics", {"step": range(1, 9), "name": "accuracy", "value": np.linspace(0.1, 0.8, 8)})
    page = look(record)
    assert [m["name"] for m in page.data["metrics"]] == ["accuracy", "loss"]
    assert "accuracy: rises from 0.1 to 0.8." in page.labels


def test_a_value_between_gaps_is_a_dot() -> None:
    record = train(0)
    record.append("metrics", {"step": range(1, 6), "name": "loss", "value": [1.0, math.nan, 0.8, math.nan, 0.7]})
    (path,) = re.findall(r'class="line value" d="([^"]*)"', render(record))
    assert re.fullmatch(r"(M[\d.]+,[\d.]+h0){3}", path)


def test_rows_can_be_chosen_by_the_words_that_they_wear() -> None:
    html = render(train(20, torch.bfloat16))
    chosen = set(re.findall(r"<option>([^<]*)</option>", html))
    assert chosen == set(re.findall(r'data-status="([^"]*)"', html)) == {"within coarse rounding"}
    assert "✓" not in html.split('id="model"')[1].split("</table>")[0]
    assert "and rounding in bfloat16 alone can do" in Page(html).text


def test_repeated_layers_of_a_name_are_one() -> None:
    names = ", ".join(["tok.weight", *(f"layers.{i}.out.weight" for i in range(12)), "fc.weight[:, i]"])
    assert short(names) == "tok.weight, layers.0-11.out.weight, fc.weight[:, i]"


def test_the_first_figure_stays_where_no_number_was_recorded_twice() -> None:
    """A chart of one point, or of the learning rate alone, is drawn below it, and not in its place."""
    record = train(8, lr=lambda k: 0.1 / k)
    assert look(record).data["several"] == 0
    record.append("metrics", {"step": [1], "name": "loss", "value": [0.5]})
    page = look(record)
    assert [m["name"] for m in page.data["metrics"]] == ["loss", "learning rate"]
    assert (page.data["several"], "metrics" in page.ids) == (0, True)
    record.append("metrics", {"step": [2], "name": "loss", "value": [0.4]})
    assert look(record).data["several"] == 1


def test_a_step_is_told_once_in_the_timeline() -> None:
    record = train(8)
    record.append("events", {"step": 3, "kind": "non-finite", "message": "parameters are not finite from step 3 on: x"})
    page = look(record)
    assert "step 3 Parameters are not finite from here on: x." in page.text


def test_what_a_page_without_laws_does_not_promise() -> None:
    record = train(2)
    gone = Record(None, dict(record.meta) | {"symmetries": [], "notes": ["the loss was given", "nothing was verified"]})
    page = look(gone)
    assert "A click on a layer" not in page.text
    limits = page.text.split("Limits: what is not known")[1].split("Appendix")[0]
    assert "Nothing was verified." in limits
    assert "The loss was given." not in limits  # which is no limit, and stands among the settings


def test_a_charge_that_is_infinite_is_no_error_of_the_page() -> None:
    record = train(6)
    charges = record.frame("charges")
    charges.loc[charges["step"] == 5, ["observed", "scale"]] = math.inf
    lost = Record(None, record.meta)
    lost.append("charges", {str(c): charges[c] for c in charges if c != "session"})
    assert "NaN or infinite here, though not for good" in look(lost).text  # nor does it warn
