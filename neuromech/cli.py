"""The command line: `neuromech demo`, `neuromech report RUN`, `neuromech detect MODULE:CALLABLE`.

Exit codes: 0 done; 1 neuromech could not do it, and says why; 2 the command was not understood.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuromech import __version__
from neuromech.errors import NeuromechError, NeuromechWarning


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    warnings.showwarning = _plain_warning  # type: ignore[assignment]
    try:
        code = int(options.do(options))
        sys.stdout.flush()
        return code
    except NeuromechError as error:
        print(f"neuromech: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("neuromech: interrupted; what was recorded until now is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it exits
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuromech",
        description="The physics of training neural networks: find the symmetries of a model, predict how their "
        "conservation laws evolve in training, and read predicted against observed.",
        epilog="Start with: neuromech demo",
    )
    parser.add_argument("--version", action="version", version=f"neuromech {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a small VGG on handwritten digits, instrumented, and write the report",
        description="Trains a small VGG (convolutions, batch norm, ReLU, linear layers, softmax) on the handwritten "
        "digits of scikit-learn with SGD, momentum, weight decay and a cosine schedule. It takes about a minute and "
        "ends with the path of an HTML report: open it in a browser.",
    )
    demo.add_argument("--run", type=Path, help="directory for the records and the report (default: a new runs/demo-N)")
    demo.add_argument("--epochs", type=_positive, default=40, help="passes over the data (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of initialisation and batches (default: %(default)s)")
    demo.set_defaults(do=_demo)

    report = commands.add_parser(
        "report",
        help="write the report of a recorded run",
        description="Reads a run directory, also one of a run that is still going on or has died, and writes one "
        "self-contained HTML file.",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    report.add_argument("-o", "--output", type=Path, help="where to write (default: RUN/report.html)")
    report.set_defaults(do=_report)

    detect = commands.add_parser(
        "detect",
        help="list the symmetries of a model",
        description="Calls MODULE:CALLABLE without arguments. It returns (model, example), (model, example, loss) or "
        "(model, example, loss, target): the model, what it is called with (a tensor, a tuple or a dict), a loss "
        "function of (output, target) or of the output alone, and its target.",
        epilog="Example, with a file nets.py in this directory that defines small(): neuromech detect nets:small",
    )
    detect.add_argument("factory", metavar="MODULE:CALLABLE", help="where the model comes from")
    detect.add_argument("--json", action="store_true", help="machine-readable output")
    detect.add_argument("--no-verify", action="store_true", help="skip the numerical check of every claim")
    detect.set_defaults(do=_detect)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from neuromech.demo import run

    directory = options.run or _fresh(Path("runs"), "demo")
    path = run(directory, epochs=options.epochs, seed=options.seed)
    print(f"report: {path.resolve()}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from neuromech.report import write_report

    path = write_report(options.run, options.output or options.run / "report.html")
    print(f"report: {path.resolve()}")
    return 0


def _detect(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from neuromech.detect import find_symmetries
    from neuromech.record.run import plain

    given = _call(options.factory)
    with tqdm(total=1, desc="detecting", leave=False, disable=None) as bar:
        model, example, *rest = given
        loss, target = [*rest, None, None][:2]
        found = find_symmetries(model, example, loss, target, verify=not options.no_verify)
        bar.update()
    if options.json:
        document = {
            "symmetries": [s.to_dict() for s in found],
            "rejected": [s.to_dict() for s in found.rejected],
            "opaque": [vars(o) for o in found.opaque],
            "inactive": found.inactive,
            "dimension": found.dimension,
            "notes": found.notes,
        }
        print(json.dumps(plain(document), indent=1, allow_nan=False))
    else:
        print(found)
    return 0


def _call(factory: str) -> tuple[Any, ...]:
    """What MODULE:CALLABLE returns, as (model, example, ...).

    Raises `NeuromechError` if there is no such thing, or if it returns something else.
    """
    module, colon, name = factory.partition(":")
    if not (module and colon and name):
        raise NeuromechError(f"{factory!r} is not of the form MODULE:CALLABLE, as in nets:small")
    sys.path.insert(0, "")  # as python -m does: modules of the current directory count
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise NeuromechError(f"cannot load {factory}: {error}") from error
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as error:
        raise NeuromechError(f"{factory} must be callable without arguments: {error}") from error
    given = make()
    if not isinstance(given, tuple) or not 2 <= len(given) <= 4:
        raise NeuromechError(
            f"{factory} must return (model, example[, loss[, target]]), it returned {type(given).__name__}"
        )
    if not hasattr(given[0], "named_parameters"):
        raise NeuromechError(
            f"{factory} must return a torch.nn.Module first, as in (model, example); it returned a "
            f"{type(given[0]).__name__} there"
        )
    return given


def _fresh(parent: Path, stem: str) -> Path:
    """The first of stem-1, stem-2, ... that is not there yet."""
    n = 1
    while (parent / f"{stem}-{n}").exists():
        n += 1
    return parent / f"{stem}-{n}"


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


def _plain_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Our own warnings are for people: no source line. Others look as ever."""
    ours = issubclass(category, NeuromechWarning)
    text = f"neuromech: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno)
    sys.stderr.write(text)
