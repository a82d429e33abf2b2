"""The command line, as a person types it."""

import ast
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import neuromech
from neuromech.cli import main
from neuromech.errors import NeuromechWarning, code_of, headed
from neuromech.report.rendering import decompressed

FACTORY = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return model, torch.randn(8, 4), nn.CrossEntropyLoss(), torch.randint(0, 3, (8,))

def wrong():
    return nn.Linear(2, 2)

def failing():
    return nn.Linear(2, 2), torch.randn(3, 5)

def asking(width):
    return nn.Linear(width, 2), torch.randn(3, width)

def words():
    return "a model", torch.randn(3, 5)

number = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch) -> Path:
    (tmp_path / "cli_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "cli_nets", raising=False)
    return tmp_path


def test_detect_prints_a_table(nets, capsys) -> None:
    assert main(["detect", "cli_nets:small"]) == 0
    out = capsys.readouterr().out
    assert "rescale" in out
    assert "0.weight" in out
    assert "translation" in out


def test_detect_json_is_what_find_symmetries_says(nets, capsys) -> None:
    assert main(["detect", "cli_nets:small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {s["kind"]: s["size"] for s in found["symmetries"] if s["kind"] == "rescale"} == {"rescale": 6}
    assert found["dimension"] == {"scaling": 6, "translation": 7, "matrix": 0}
    assert all(s["defect"] < 1e-12 for s in found["symmetries"])


def test_json_without_verification_is_still_json(nets, capsys) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert main(["detect", "cli_nets:small", "--json", "--no-verify"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert all(s["defect"] is None for s in found["symmetries"])


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_crash(nets) -> None:
    command = [sys.executable, "-m", "neuromech", "detect", "cli_nets:small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=nets, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("cli_nets", "MODULE:CALLABLE"),
        ("no_such_module:f", "cannot load"),
        ("cli_nets:no_such", "cannot load"),
        ("cli_nets:asking", "without arguments"),
        ("cli_nets:number", "without arguments"),
        ("cli_nets:words", "returned a str there"),
        ("cli_nets:wrong", "must return"),
        ("cli_nets:failing", "Linear"),
    ],
)
def test_detect_explains_what_is_wrong(nets, capsys, factory: str, message: str) -> None:
    assert main(["detect", factory]) == 1
    error = capsys.readouterr().err
    assert error.startswith("neuromech: ")
    assert message in error
    assert "Traceback" not in error


COMMANDS = ("demo", "runs", "show", "report", "compare", "watch", "export", "explain", "doctor", "detect")


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)])
def test_help_teaches(command: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert len(out) > 300
    assert "Exit codes: 0 success; 1" in out


@pytest.mark.parametrize("wrong", [["fly"], ["demo", "--epochs", "0"], ["report"]])
def test_misunderstood_commands_exit_with_2(wrong: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_report_of_nothing(tmp_path, capsys) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_demo_ends_with_the_path_of_its_report(tmp_path) -> None:
    """In a process of its own, as `make demo` runs it, but for one epoch only."""
    command = [sys.executable, "-m", "neuromech", "demo", "--epochs", "1", "--run", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    path = Path(re.fullmatch(r"report: (.+)", last).group(1))
    page = path.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert '<span class="badge tone-ok">finished</span>' in page
    assert "running when written" not in page
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").exists()


def exported(path: Path) -> Path:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    torch.export.save(torch.export.export(model, (torch.randn(8, 4),)), path)
    return path


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))) * scale


def test_detect_a_saved_program(tmp_path, capsys) -> None:
    assert main(["detect", str(exported(tmp_path / "small.pt2"))]) == 0
    assert "0.weight[i], 0.bias[i] / 2.weight[:, i]" in capsys.readouterr().out
    program = torch.export.export(Scaled(), (torch.randn(8, 4),), {"scale": torch.tensor(2.0)})
    torch.export.save(program, tmp_path / "scaled.pt2")
    assert main(["detect", str(tmp_path / "scaled.pt2"), "--json"]) == 0
    (family,) = json.loads(capsys.readouterr().out)["symmetries"]
    assert family["name"] == "a.weight[i], a.bias[i] / b.weight[:, i]"
    assert family["defect"] < 1e-12


def configuration(path: Path, **more: object) -> Path:
    data = {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 8, "intermediate_size": 6,
        "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 11, "hidden_dropout_prob": 0.0,
    }  # fmt: skip
    path.write_text(json.dumps(data | more))
    return path


def test_detect_a_configuration(tmp_path, capsys) -> None:
    """Families of all layers in one row, and the directory is as good as the file."""
    pytest.importorskip("transformers")
    configuration(tmp_path / "config.json")
    for where in (tmp_path, tmp_path / "config.json"):
        assert main(["detect", str(where)]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if re.match(r" +3 x 8 +bert\.encoder\.layer\.0-2\.", line)]
    assert len(rows) >= 2
    assert max(map(len, out.splitlines())) <= 120


def test_detect_without_numbers(nets, tmp_path, capsys) -> None:
    pytest.importorskip("transformers")
    configuration(tmp_path / "config.json")
    for where in (str(tmp_path / "config.json"), "cli_nets:small", str(exported(tmp_path / "small.pt2"))):
        assert main(["detect", where, "--meta"]) == 0
        assert "nothing was verified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pt2", None, "there is no file"),
        ("text.pt2", "not a program", "could not be read as a program"),
        ("missing.json", None, "could not be read as a configuration"),
        ("text.json", "not json", "could not be read as a configuration"),
        ("other.json", '{"name": 1}', "names no model_type"),
        ("list.json", "[1]", "names no model_type"),
        ("unknown.json", '{"model_type": "no such"}', "no model could be built"),
        ("odd.json", '{"model_type": "bert", "hidden_size": 7, "num_attention_heads": 2}', "no model could be built"),
    ],
)
def test_detect_explains_what_is_wrong_with_a_file(tmp_path, capsys, name: str, content: str | None, message: str):
    if name.endswith("json"):
        pytest.importorskip("transformers")
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["detect", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_detect_shows_progress(nets) -> None:
    """On a terminal, check by check."""
    from neuromech.detect import find_symmetries
    from neuromech.detect.verify import watched

    seen = []
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with watched(lambda done, total: seen.append((done, total))):
        found = find_symmetries(model, torch.randn(8, 4), nn.CrossEntropyLoss(), torch.randint(0, 3, (8,)))
    done, totals = zip(*seen, strict=True)
    assert set(totals) == {2 * len(found)}
    assert list(done) == sorted(done)
    assert done[0] == 0
    assert done[-1] == totals[0]
    assert len(set(done)) > len(found)


# -- recorded runs


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A run that went well, one with a fault, and one that raised."""
    import neuromech

    root = tmp_path_factory.mktemp("runs")

    def train(name: str, lr: float = 0.1, trouble: str = "") -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
        with neuromech.instrument(model, run=root / name, config={"lr": lr}) as probe:
            probe.monitor(lambda fault: None)
            for k in range(30):
                optimizer.zero_grad()
                lost = torch.nan if trouble == "lost" and k == 25 else 1.0
                nn.functional.cross_entropy(model(x * lost), y).backward()
                optimizer.step()
                if trouble == "edit" and k == 15:
                    with torch.no_grad():
                        model[0].weight[0] += 1.0
                if trouble == "raise" and k == 20:
                    raise ZeroDivisionError("oh no")

    train("good")
    train("lost", trouble="lost")
    train("same")
    train("other", lr=0.2)
    train("edited", trouble="edit")
    with pytest.raises(ZeroDivisionError):
        train("raised", trouble="raise")
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    return root


def test_a_bare_call_prints_help(capsys) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "Exit codes: 0 success; 1" in " ".join(out.split())
    assert "explain" in out


def test_runs_lists_each_with_status_and_verdict(recorded, capsys) -> None:
    assert main(["runs", str(recorded)]) == 0
    lines = {Path(line.split()[0]).name: line for line in capsys.readouterr().out.splitlines()}
    assert "finished" in lines["good"]
    assert "✓ good" in lines["good"]
    assert "raised" in lines["raised"]
    assert "unreadable" in lines["broken"]
    assert "Weights were changed outside" in lines["edited"]
    assert main(["runs", str(recorded), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 7
    assert main(["runs", str(recorded / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["runs", str(recorded / "good" / "run.json")]) == 1
    assert "is not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "fail_on", "code"),
    [
        ("good", "fault,broken,unfinished", 0),
        ("edited", "broken", 0),
        ("edited", "fault", 3),
        ("raised", "fault,broken", 0),
        ("raised", "unfinished", 3),
        ("lost", "unfinished,broken", 0),
        ("lost", "diverged", 3),
        ("good", "diverged", 0),
    ],
)
def test_show_gates(recorded, capsys, run: str, fail_on: str, code: int) -> None:
    assert main(["show", str(recorded / run), "--fail-on", fail_on]) == code
    assert ("21 steps" if run == "raised" else "30 steps") in capsys.readouterr().out
    assert main(["show", str(recorded / run), "--json", "--fail-on", fail_on]) == code
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == ("raised" if run == "raised" else "finished")
    assert bool(said["faults"]) == (run in ("edited", "lost"))


@pytest.mark.parametrize("what", ["everything", "opaque"])
def test_fail_on_what_a_command_does_not_know_is_not_understood(recorded, what: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["show", str(recorded / "good"), "--fail-on", what])
    assert left.value.code == 2


def test_a_run_without_its_description_is_listed(recorded, tmp_path, capsys) -> None:
    shutil.copytree(recorded / "good", tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "run.json").unlink()
    assert main(["runs", str(tmp_path / "runs")]) == 0
    assert "could not be read" in capsys.readouterr().out


def test_compare_says_what_differs_and_where_charges_part(recorded, tmp_path, capsys) -> None:
    good, same, other, edited = (str(recorded / n) for n in ("good", "same", "other", "edited"))
    assert main(["compare", good, same]) == 0
    out = capsys.readouterr().out
    assert "no recorded setting differs" in out
    assert "no charge parts" in out
    assert main(["compare", good, other, "-o", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "config.lr: 0.1 | 0.2" in out
    assert "part at step 1:" in out
    drawn = decompressed((tmp_path / "page.html").read_text())["overlays"]
    assert any(chart["title"].startswith("Charge: ") for chart in drawn)
    assert main(["compare", good, edited, "--json"]) == 0
    (parting,) = json.loads(capsys.readouterr().out)["partings"]
    assert parting["step"] in (16, 17)
    assert main(["compare", good]) == 1


def test_a_page_is_not_written_through_a_link_in_a_run_directory(recorded, tmp_path, capsys, monkeypatch) -> None:
    """Links elsewhere are the user's own."""
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    runs = [str(recorded / "good"), str(recorded / "other")]
    monkeypatch.setattr("webbrowser.open", lambda uri: True)
    assert main(["compare", *runs, "--open"]) == 0
    page = recorded / "good" / "comparison.html"
    assert "<!DOCTYPE html>" in page.read_text()
    for name in ("comparison.html", "report.html"):
        (recorded / "good" / name).unlink(missing_ok=True)
        (recorded / "good" / name).symlink_to(kept)
    assert main(["compare", *runs, "--open"]) == 1
    assert main(["compare", *runs[::-1], "-o", str(page)]) == 1
    assert main(["report", runs[0]]) == 1
    assert "is a symbolic link" in capsys.readouterr().err
    assert kept.read_text() == "mine"
    (tmp_path / "link.html").symlink_to(kept)
    assert main(["compare", *runs, "-o", str(tmp_path / "link.html")]) == 0
    assert kept.read_text() != "mine"
    for name in ("comparison.html", "report.html"):
        (recorded / "good" / name).unlink()


def test_watch_follows_until_the_end(recorded, capsys) -> None:
    assert main(["watch", str(recorded / "good"), "--every", "0.01"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "finished" in line
    assert "30 steps" in line


@pytest.mark.parametrize("then", ["ends", "interrupted", "vanishes"])
def test_the_page_of_watch_loads_itself_anew_until_nothing_more_comes(tmp_path, monkeypatch, capsys, then) -> None:
    from neuromech.cli import run_commands
    from neuromech.record import Record

    run, page = tmp_path / "run", tmp_path / "page.html"
    record = Record(run, {"symmetries": []})
    record.append("metrics", {"step": [1, 2], "name": "loss", "value": [2.0, 1.0]})
    record.flush()
    seen = []

    def sleep(seconds: float) -> None:
        seen.append(page.read_text())
        if then == "interrupted":
            raise KeyboardInterrupt
        record.end("finished")
        if then == "vanishes":
            shutil.rmtree(run)

    monkeypatch.setattr(run_commands.time, "sleep", sleep)
    assert main(["watch", str(run), "--every", "0.5", "--page", str(page)]) == (then == "vanishes")
    assert len(seen) == 1
    assert 'data-refresh="0.5"' in seen[0]
    assert "running when written" in seen[0]
    last = page.read_text()
    assert "data-refresh=" not in last
    assert ("finished" in last) == (then == "ends")
    assert ("the run can no longer be read" in capsys.readouterr().err) == (then == "vanishes")
    assert [file.name for file in tmp_path.glob("*.html*")] == ["page.html"]
    assert not [*tmp_path.glob(".*")]
    record.end("finished")


def test_watch_leaves_a_page_alone_that_it_has_not_written(tmp_path, capsys) -> None:
    from neuromech.record import Record

    page = tmp_path / "page.html"
    page.write_bytes(b'mine: data-refresh="2.0"\r\n\xff')
    assert main(["watch", str(tmp_path / "none"), "--page", str(page)]) == 1
    assert page.read_bytes() == b'mine: data-refresh="2.0"\r\n\xff'
    (tmp_path / "folder").mkdir()
    Record(tmp_path / "run", {"symmetries": []}).end("finished")
    assert main(["watch", str(tmp_path / "run"), "--page", str(tmp_path / "folder")]) == 1
    assert "cannot write the report" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupting_watch_ends_it_and_not_the_run(tmp_path) -> None:
    """Ctrl-C in a real process: no traceback, and the run is left as it is."""
    from neuromech.record import Record

    record = Record(tmp_path / "run", {"symmetries": []})
    record.append("metrics", {"step": [1, 2], "name": "loss", "value": [2.0, 1.0]})
    record.flush()
    command = [sys.executable, "-m", "neuromech", "watch", str(tmp_path / "run"), "--every", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert "running" in line
    assert process.returncode == 0
    assert (out, said.strip()) == ("", "neuromech: no longer watched; the run itself is not touched")
    assert "ended" not in json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][0]
    record.end("finished")


def test_export_writes_tables_that_spreadsheets_do_not_execute(tmp_path, capsys) -> None:
    import pandas as pd

    from neuromech.record import Record

    record = Record(tmp_path / "run", {"symmetries": []})
    record.append("events", {"step": 1, "kind": "=1+1", "message": "@SUM(A1)"})
    record.end("finished")
    assert main(["export", str(tmp_path / "run"), "--to", "csv"]) == 0
    rows = pd.read_csv(tmp_path / "run" / "export-csv" / "events.csv")
    assert rows[["kind", "message"]].to_numpy().tolist() == [["'=1+1", "'@SUM(A1)"]]


def test_explain_knows_every_cause_and_every_kind_of_event(capsys) -> None:
    from neuromech.errors import code_of
    from neuromech.monitor import CAUSES

    assert main(["explain"]) == 0
    listed = capsys.readouterr().out
    for cause in CAUSES:
        assert code_of(cause) in listed
        assert main(["explain", cause]) == 0
        assert CAUSES[cause].title in capsys.readouterr().out
    assert main(["explain", "nm-none-found"]) == 0
    assert main(["explain", "NM-qqq"]) == 1
    assert "there is no code NM-qqq: `neuromech explain` lists them all" in capsys.readouterr().err
    assert main(["explain", "NM-edited-weight"]) == 1
    assert "do you mean NM-edited-weights" in capsys.readouterr().err
    assert main(["explain", "clamping"]) == 1
    assert "NM-edited-weights" in capsys.readouterr().err


def test_the_doctor_tries_a_run(capsys) -> None:
    assert main(["doctor"]) == 0
    assert "a tiny instrumented run works" in capsys.readouterr().out


def test_detect_matches_writes_and_gates(nets, capsys) -> None:
    assert main(["detect", "cli_nets:small", "--match", "2.bias", "--html", "found.html"]) == 0
    out = capsys.readouterr().out
    assert "2.bias" in out
    assert "rescale" not in out.split("independent")[1].split("\n", 1)[1] or "2.bias" in out
    assert "<pre>" in (nets / "found.html").read_text()
    assert main(["detect", "cli_nets:small", "--match", "nothing*", "--fail-on", "none"]) == 3
    assert "none moves a parameter like 'nothing*'" in capsys.readouterr().err
    assert main(["detect", "cli_nets:small", "--fail-on", "opaque,withdrawn,none"]) == 0


BOOM = """
import torch
from torch import nn

class Model(nn.Linear):
    def forward(self, x):
        return deep(x)

def deep(x):
    raise KeyError("my own")

def boom():
    deep(None)

def model():
    return Model(4, 4), torch.randn(2, 4)

def loss():
    return nn.Linear(4, 4), torch.randn(2, 4), lambda out, target: deep(out), torch.zeros(2, 4)

def leaving():
    raise SystemExit(7)
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["boom"], "cli_boom:boom raised KeyError: 'my own'"),
        (["model"], "the forward of Model failed while it was recorded: KeyError: 'my own'"),
        (["model", "--loss", "mse"], "cli_boom:model raised KeyError: 'my own'"),
        (["loss"], "the loss failed on the output of Linear: KeyError: 'my own'"),
    ],
)
def test_the_users_own_error_is_told_with_the_users_frames(nets, capsys, monkeypatch, arguments, said) -> None:
    (nets / "cli_boom.py").write_text(BOOM)
    monkeypatch.delitem(sys.modules, "cli_boom", raising=False)
    assert main(["detect", f"cli_boom:{arguments[0]}", *arguments[1:]]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert 'cli_boom.py", line 10, in deep\n' in err
    assert "neuromech/" not in err
    assert "site-packages" not in err


def test_a_model_that_leaves_python_is_an_error_as_any_other(nets, capsys, monkeypatch) -> None:
    (nets / "cli_boom.py").write_text(BOOM)
    monkeypatch.delitem(sys.modules, "cli_boom", raising=False)
    assert main(["detect", "cli_boom:leaving"]) == 1
    assert "cli_boom:leaving raised SystemExit: 7" in capsys.readouterr().err


# -- warnings


@functools.cache
def all_calls() -> dict[str, list[tuple[Path, ast.Call]]]:
    """Every call in the package, by the last name of the function or method."""
    found: dict[str, list[tuple[Path, ast.Call]]] = defaultdict(list)
    for file in sorted(Path(neuromech.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                found[getattr(node.func, "attr", getattr(node.func, "id", ""))].append((file, node))
    return found


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Every call of a function or method called `name` in the package."""
    return all_calls()[name]


def test_every_warning_of_the_package_has_a_code_that_is_explained(capsys) -> None:
    from neuromech.cli.codes import SAID
    from neuromech.monitor import CAUSES

    keys: set[str] = set()
    for file, call in calls("warn"):
        if ast.unparse(call.func) == "warnings.warn":
            assert file.name == "errors.py", f"{file}: use neuromech.errors.warn, which gives it a code"
            continue
        key = call.args[1]
        if not isinstance(key, ast.Constant):
            assert ast.unparse(key) in ("kind or key", "fault.cause"), file
            continue
        keys.add(key.value)
        assert any(k.arg == "short" for k in call.keywords) or len(call.args) == 4, f"{file}: say it in one line"
    kinds = {ast.literal_eval(c.args[2]) for _, c in calls("once")}
    kinds |= {ast.literal_eval(c.args[1]) for _, c in calls("event") if isinstance(c.args[1], ast.Constant)}
    kinds |= {ast.literal_eval(c.args[0]) for _, c in calls("warn_once") if isinstance(c.args[0], ast.Constant)}
    assert len(keys) >= 12
    assert len(kinds) >= 12
    assert keys | kinds <= SAID.keys() | CAUSES.keys()  # an event may bear the name of a cause
    assert SAID.keys() <= keys | kinds  # and no explanation is of nothing
    for key in {*SAID, *CAUSES}:
        assert main(["explain", code_of(key)]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{code_of(key)}: ")
        assert len(out) > 120


@given(st.text(max_size=300), st.sampled_from(["none found", "edited weights"]), st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_the_first_line_of_a_warning_is_short_and_nothing_is_lost(message: str, key: str, short: str) -> None:
    told = headed(message, code_of(key), short)
    first = told.splitlines()[0]
    assert first.startswith(f"{code_of(key)}: ")
    assert len(first) <= 100
    assert message.strip() in told or " ".join(message.split()) in " ".join(told.split())


def test_a_warning_points_at_the_line_of_the_user() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    neuromech.instrument(model)
    model(torch.randn(4, 3)).square().mean().backward()
    with pytest.warns(NeuromechWarning, match=r"^NM-none-found: .*\n") as caught:
        optimizer.step()
    assert caught[0].filename == __file__


def test_a_code_that_a_fault_and_an_event_share_is_explained_as_both(capsys) -> None:
    from neuromech.cli.codes import SAID
    from neuromech.monitor import CAUSES

    for shared in SAID.keys() & CAUSES.keys():
        assert main(["explain", shared]) == 0
        told = capsys.readouterr().out
        assert told.index(CAUSES[shared].title) < told.index("ignore=") < told.rindex(f"{SAID[shared][0]}\n")


def test_what_is_not_understood_shows_the_usage_of_the_command_that_it_was_given_to(capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(["detect", "nets:small", "--input", "3,20"])
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert "--input 3,20 is not understood" in told
    assert "[--match PATTERN]" in told
