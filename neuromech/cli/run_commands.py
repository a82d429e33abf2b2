"""Commands about recorded runs: `runs`, `show`, `report`, `compare`, `watch`, `export`."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuromech.errors import NeuromechError, RecordError
from neuromech.record import Run, plain, read, refuse_link

FOUND = 3  # exit code
REST = 4  # times the CPU time of a look, before the next: those who watch a long run do not slow it down
REFRESH = r' data-refresh="[\d.e+-]+"'


def runs(options: argparse.Namespace) -> int:
    from neuromech.report import SAYS, summarise

    directory: Path = options.directory
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise NeuromechError(f"{directory} {what}: give the directory of your runs, where instrument(run=...) writes")
    found = sorted({p.parent for table in ("run.json", "charges.csv") for p in directory.glob(f"**/{table}")})
    entries = []
    for path in found:
        try:
            entries.append({"run": str(path), **summarise(read(path))})
        except RecordError as error:
            unread = {"status": "unreadable", "tone": "bad", "headline": str(error), "steps": 0}
            entries.append({"run": str(path), **unread})
    if options.json:
        print(json.dumps(plain(entries), indent=1, allow_nan=False))
    elif not entries:
        print(f"no run in {directory}")
    width = max((len(e["run"]) for e in entries), default=0)
    for e in () if options.json else entries:
        print(f"{e['run']:<{width}}  {e['status']:<11}  {SAYS[e['tone']]:<12}  {e['headline']}")
    return 0


def show(options: argparse.Namespace) -> int:
    from neuromech.report import summarise, told

    run = read(options.run)
    summary = summarise(run)
    print(json.dumps(plain(summary), indent=1, allow_nan=False) if options.json else told(run))
    trouble = {"fault": summary["faults"], "broken": summary["broken"], "diverged": summary["diverged"]}
    trouble["unfinished"] = summary["status"] != "finished"
    seen = [what for what in options.fail_on if trouble.get(what)]
    if seen:
        print(f"neuromech: found {', '.join(seen)}", file=sys.stderr)
    return FOUND if seen else 0


def report(options: argparse.Namespace) -> int:
    from neuromech.report import write_report

    if sys.stderr.isatty():
        print("writing the report ...", file=sys.stderr)
    written = write_report(options.run, options.output or options.run / "report.html")
    return _open(written, "report", options.open)


def compare(options: argparse.Namespace) -> int:
    from neuromech.report import compare_runs, comparison_page

    if len(options.runs) < 2:
        raise NeuromechError("compare takes two runs or more")
    opened = dict(zip(_names(options.runs), map(read, options.runs), strict=True))
    compared = compare_runs(opened)
    print(json.dumps(plain(compared.data()), indent=1, allow_nan=False) if options.json else compared)
    output = options.output or (options.runs[0] / "comparison.html" if options.open else None)
    if output is None:
        return 0
    from neuromech.cli.models_commands import write

    for run in opened.values():
        refuse_link(output, run)
    write(output, comparison_page(opened, compared))
    return _open(output, None, options.open)


def _names(paths: Sequence[Path]) -> list[str]:
    """By their last parts, as many as tell them apart; what is given twice has its number."""
    whole = [path.expanduser().absolute() for path in paths]
    for n in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-n:]) for path in whole]
        if len(set(names)) == len(set(whole)):
            break
    return [f"{name} ({k})" if name in names[: k - 1] else name for k, name in enumerate(names, 1)]


def watch(options: argparse.Namespace) -> int:
    try:
        return _follow(options)
    except KeyboardInterrupt:
        print("\nneuromech: no longer watched; the run itself is not touched", file=sys.stderr)
        return 0


def _follow(options: argparse.Namespace) -> int:
    last: tuple[Any, ...] = ()
    try:
        while True:
            begun, first = time.process_time(), not last  # the first look loads what it needs: it tells nothing
            last, going = _look(options, last)
            if not going:
                return 0
            time.sleep(options.every if first else max(options.every, REST * (time.process_time() - begun)))
    except RecordError as error:
        raise RecordError(f"the run can no longer be read: {error}" if last else str(error)) from error
    finally:
        if last and options.page:
            _settle(options.page)


def _look(options: argparse.Namespace, last: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:
    """What is new since `last` is printed; returns what is known now, and whether the run goes on."""
    from neuromech.report import summarise

    run = read(options.run)
    summary = summarise(run)
    going = summary["status"] == "running" or (summary["status"] == "unknown" and _recent(run))
    now = (summary["steps"], summary["status"], summary["headline"])
    if now != last:
        print(f"{time.strftime('%H:%M:%S')}  {summary['status']:<10} {summary['headline']}", flush=True)
        if options.page:
            _show(run, options.page, options.every)
    if not going and summary["status"] == "unknown":
        print("no end of this run was recorded, and nothing was written for a minute", file=sys.stderr)
    return now, going


def _show(run: Run, page: Path, refresh: float) -> None:
    """The page of a run that goes on. It takes the place of the one before, which a browser may be reading, whole."""
    from neuromech.report import write_report

    draft = page.expanduser().with_name(f".{page.name}.tmp")
    write_report(run, draft, refresh)
    try:
        draft.replace(page.expanduser())
    except OSError as error:
        raise RecordError(f"cannot write the report to {page}: {error}. Choose another file") from error


def _settle(page: Path) -> None:
    """Nothing more will come: the page, as it was last written, stays as it is."""
    with contextlib.suppress(OSError):
        text = page.expanduser().read_text(encoding="utf-8")
        page.expanduser().write_text(re.sub(REFRESH, "", text, count=1), encoding="utf-8")


def export(options: argparse.Namespace) -> int:
    from neuromech.report import export_run

    path = options.output or options.run / f"export-{options.to}"
    print(f"{options.to}: {export_run(read(options.run), options.to, path)}")
    return 0


def _recent(run: Run) -> bool:
    files = [f.stat().st_mtime for f in run.path.glob("*.csv")] if run.path else []
    return bool(files) and time.time() - max(files) < 60


def _open(path: Path, what: str | None, browse: bool) -> int:
    if what:
        print(f"{what}: {path.resolve()}")
    if browse and not webbrowser.open(path.resolve().as_uri()):
        raise NeuromechError(f"no browser could be opened: open {path.resolve()} by hand")
    return 0
