"""What may be typed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from neuromech._version import __version__

EXITS = (
    "Exit codes: 0 success; 1 failure, with the reason on stderr; 2 the command line was not understood; 3 success, "
    "but something that --fail-on names was found."
)
MODELS = (
    "MODEL is one of\n\n"
    "  MODULE:CALLABLE  called without arguments; returns (model, example), (model, example, loss) or (model,\n"
    "                   example, loss, target): the model, what it is called with (a tensor, a tuple or a dict),\n"
    "                   a loss function of (output, target) or of the output alone, and its target\n"
    "  PROGRAM.pt2      a program saved by torch.export.save, with the example that it was exported with\n"
    "  CONFIG.json      the configuration of a Hugging Face model, or a directory with one (extra: hf); large\n"
    "                   models are built without weights, and nothing is verified then\n"
)
LOSSES = ("cross_entropy", "mse", "bce")


def parser() -> argparse.ArgumentParser:
    """All commands; a bare call asks for help."""
    out = argparse.ArgumentParser(
        prog="neuromech",
        description="The physics of training neural networks: find the symmetries of a model, predict how their "
        "conservation laws evolve in training, and compare what was predicted with what was observed.",
        epilog=f"Start with: neuromech demo. {EXITS}",
    )
    out.add_argument("--version", action="version", version=f"neuromech {__version__}")
    commands = out.add_subparsers(metavar="COMMAND", dest="command")

    def command(name: str, summary: str, more: str = "", **options: object) -> argparse.ArgumentParser:
        text = f"{summary[:1].upper()}{summary[1:]}. {more}".strip()
        said = {"help": summary, "description": text, "epilog": EXITS} | options
        own = commands.add_parser(name, **said)  # type: ignore[arg-type]
        own.set_defaults(refuse=own.error)  # which shows the usage of this command, not of all
        return own

    demo = command(
        "demo",
        "train a small VGG on handwritten digits, instrumented, and write the report",
        "Trains a small VGG (convolutions, batch norm, ReLU, linear layers, softmax) on the handwritten digits of "
        "scikit-learn with SGD, momentum, weight decay and a cosine schedule. It takes about a minute and ends with "
        "the path of an HTML report: open it in a browser.",
    )
    demo.add_argument(
        "--run", type=Path, metavar="DIR", help="directory for the records and the report (default: a new runs/demo-N)"
    )
    demo.add_argument(
        "--epochs", type=positive, default=40, metavar="N", help="passes over the data (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batches (default: %(default)s)")

    runs = command("runs", "list the runs in a directory: how each went, and its verdict")
    runs.add_argument("directory", type=Path, metavar="DIR", nargs="?", default=Path("runs"), help="default: runs")
    runs.add_argument("--json", action="store_true", help="machine-readable output, one entry a run")

    show = command("show", "say what happened in a run: verdict, faults and what to do, as text")
    show.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    show.add_argument("--json", action="store_true", help="machine-readable output")
    diverged = "a loss, weights or charges that exploded or are not numbers"
    _fail_on(show, fault="", broken="a law", diverged=diverged, unfinished="")

    report = command(
        "report",
        "write the report of a recorded run",
        "Reads a run directory, also one of a run that is still going on or has died, and writes one self-contained "
        "HTML file.",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write (default: RUN/report.html)")
    report.add_argument("--open", action="store_true", help="open it in the browser")

    compare = command(
        "compare",
        "compare runs: settings that differ, how each ended, and the first step at which charges part",
        "Charges part where they differ by more than rounding can explain.",
    )
    compare.add_argument("runs", type=Path, metavar="RUN", nargs="+", help="two or more run directories")
    compare.add_argument("--json", action="store_true", help="machine-readable output")
    compare.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write a page with losses and charges overlaid"
    )
    compare.add_argument(
        "--open",
        action="store_true",
        help="open the page in the browser (default page: comparison.html in the first RUN)",
    )

    watch = command("watch", "follow a run that is going on: one line whenever there is something new, until it ends")
    watch.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    every = "seconds between looks (default: %(default)s); more for a run that takes long to read"
    watch.add_argument("--every", type=seconds, default=2.0, metavar="SECONDS", help=every)
    page = "also write the report there whenever something is new; in a browser it refreshes itself until the end"
    watch.add_argument("--page", type=Path, metavar="FILE", help=page)

    export = command("export", "hand a run to other tools: charges, loss and other numbers by step")
    export.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    export.add_argument(
        "--to",
        required=True,
        choices=("tensorboard", "wandb", "parquet", "csv"),
        help="the format (all but csv: extra export)",
    )
    export.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="directory to write to (default: RUN/export-FORMAT)"
    )

    explain = command("explain", "explain a cause of a fault, or the code of a warning (NM-...)")
    explain.add_argument("code", nargs="*", metavar="CODE", help="as in NM-edited-weights; without one, lists them all")

    command("doctor", "say which versions and extras are installed, and whether the basics work")

    detect = command(
        "detect",
        "list the symmetries of a model",
        description=MODELS,
        epilog="Example, with a file nets.py in this directory that defines small(): neuromech detect nets:small\n\n"
        + EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    detect.add_argument("model", metavar="MODEL", help="where the model comes from")
    detect.add_argument("--json", action="store_true", help="machine-readable output, one entry a family")
    detect.add_argument("--html", type=Path, metavar="FILE", help="write a page as well")
    detect.add_argument("--match", metavar="PATTERN", help="only families that move a parameter like this: 'layers.0*'")
    detect.add_argument("--loss", choices=LOSSES, help="a loss for a model that comes without one")
    detect.add_argument("--no-verify", action="store_true", help="skip the numerical check of every claim")
    detect.add_argument("--meta", action="store_true", help="shapes only: no memory for parameters, no check")
    _fail_on(detect, opaque="operations that are not understood", withdrawn="claims", none="no family")
    return out


def _fail_on(command: argparse.ArgumentParser, **known: str) -> None:
    """`known`: what can be asked for, and what it means if the word does not say it."""
    told = ", ".join(f"{word} ({meaning})" if meaning else word for word, meaning in known.items())
    text = f"exit with 3 on any of these, with commas between: {told}"
    command.add_argument("--fail-on", type=partial(words, known=tuple(known)), default=(), metavar="WHAT", help=text)


def words(text: str, known: Sequence[str]) -> tuple[str, ...]:
    out = tuple(w.strip() for w in text.split(",") if w.strip())
    if unknown := [w for w in out if w not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(known)}")
    return out


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value
