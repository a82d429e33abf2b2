"""The command line: `neuromech demo`, `neuromech report RUN`, `neuromech detect MODEL`.

Exit codes: 0 done; 1 neuromech could not do it, and says why; 2 the command was not understood.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuromech._version import __version__
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
        description="MODEL is one of\n\n"
        "  MODULE:CALLABLE  called without arguments; returns (model, example), (model, example, loss) or (model,\n"
        "                   example, loss, target): the model, what it is called with (a tensor, a tuple or a dict),\n"
        "                   a loss function of (output, target) or of the output alone, and its target\n"
        "  PROGRAM.pt2      a program saved by torch.export.save, with the example that it was exported with\n"
        "  CONFIG.json      the configuration of a Hugging Face model, or a directory with one (extra: hf); large\n"
        "                   models are built without numbers, and nothing is verified then\n",
        epilog="Example, with a file nets.py in this directory that defines small(): neuromech detect nets:small",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    detect.add_argument("model", metavar="MODEL", help="where the model comes from")
    detect.add_argument("--json", action="store_true", help="machine-readable output, one entry a family")
    detect.add_argument("--no-verify", action="store_true", help="skip the numerical check of every claim")
    detect.add_argument("--meta", action="store_true", help="shapes only: no memory for parameters, no check")
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

    from neuromech.cli.models import load
    from neuromech.detect import find_symmetries, watched
    from neuromech.record import plain

    given = load(options.model, options.meta)
    with tqdm(desc="recording and solving", leave=False, disable=None, unit="check") as bar:

        def progress(done: int, total: int) -> None:
            bar.set_description("verifying", refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        with watched(progress):
            found = find_symmetries(*given, verify=not options.no_verify)
    print(json.dumps(plain(found.to_dict()), indent=1, allow_nan=False) if options.json else found)
    return 0


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
