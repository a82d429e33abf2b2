"""The process that writes a run: how it was started, and whether it is still there."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

SECRET = re.compile(r"(key|token|secret|passw|credential|auth)", re.IGNORECASE)
LONGEST = 2000  # characters of a command line that are kept


def describe() -> dict[str, Any]:
    """Host, process, working directory, command line (secrets are left out) and commit of the code."""
    directory = Path.cwd()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "directory": str(directory),
        "command": command(sys.argv),
        "commit": commit(directory),
    }


def command(argv: list[str]) -> str:
    """The command line, but for what follows a word like key, token or password."""
    said: list[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("-"):
            said.append("***")
            hide = False
            continue
        secret = bool(SECRET.search(name)) and (word.startswith("-") or bool(equals))
        said.append(f"{name}=***" if secret and equals else word)
        hide = secret and not equals
    return shlex.join(said)[:LONGEST]


def commit(directory: Path) -> str:
    """The commit that is checked out in the repository around `directory`; "" if there is none. Git is not called."""
    for folder in (directory, *directory.parents):
        git = folder / ".git"
        try:
            if git.is_file():  # a work tree or a submodule
                git = (folder / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
            if git.is_dir():
                return _head(git)
        except (OSError, UnicodeDecodeError):
            return ""
    return ""


def alive(process: dict[str, Any]) -> bool | None:
    """Whether the process still runs; None: it ran elsewhere, so there is no telling."""
    pid = process.get("pid")
    if process.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _head(git: Path) -> str:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head[:40]
    name = head.removeprefix("ref:").strip()
    common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").is_file() else git
    for folder in (git, common):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").strip()[:40]
    packed = common / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0][:40] for line in lines if line.endswith(f" {name}")), "")
