"""The command line: what a person types, and what becomes of it.

Exit codes: 0 success; 1 failure, with the reason on stderr; 2 the command line was not understood; 3 success, but
something that --fail-on names was found.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuromech.cli.parser import parser
from neuromech.errors import NeuromechError, NeuromechWarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    understood = parser()
    options, odd = understood.parse_known_args(argv)
    if odd:
        getattr(options, "refuse", understood.error)(f"{' '.join(odd)} is not understood")
    if options.command is None:
        understood.print_help()
        return 0
    warnings.showwarning = _plain_warning  # type: ignore[assignment]
    try:
        code = int(_work(options.command)(options))
        sys.stdout.flush()
        return code
    except NeuromechError as error:
        print("\n".join([f"neuromech: {error}", *_users_frames(error)]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = "; what was recorded until now is kept" if options.command == "demo" else ""
        print(f"neuromech: interrupted{kept}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it exits
        return 1


def _work(command: str) -> Any:
    """The function that does it; each loads no more than it needs."""
    if command in ("demo", "detect"):
        from neuromech.cli import models_commands as module
    elif command in ("explain", "doctor"):
        from neuromech.cli import help_commands as module  # type: ignore[no-redef]
    else:
        from neuromech.cli import run_commands as module  # type: ignore[no-redef]
    return getattr(module, command)


def _users_frames(error: BaseException) -> list[str]:
    """Where in the user's own files it came from: the last four places, if it came from there."""
    while error.__cause__ is not None:
        error = error.__cause__
    here = [str(Path(__file__).parents[1]), *(sysconfig.get_path(p) for p in ("stdlib", "purelib", "platlib")), "<"]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(tuple(here))]
    return "".join(traceback.format_list(frames[-4:])).splitlines()


def _plain_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Our own warnings are for people: no source line. Others look as ever."""
    ours = issubclass(category, NeuromechWarning)
    text = f"neuromech: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno)
    sys.stderr.write(text)
