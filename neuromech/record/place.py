"""The directory of a run: one process writes it at a time, and no link in it leads anywhere else.

The lock is that of POSIX records: the system gives it up when the process ends, however it ends, and a forked child
does not inherit it. Where the file system knows no locks, runs are written without one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, ClassVar

LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Taken(OSError):
    """Another process writes this directory."""


class Lock:
    """The right to write one directory, held from `take` to `release`: by one process, and there by who took it last.

    `lost`: it has gone to another of this process; `took_over`: it came from one.
    """

    _held: ClassVar[dict[Path, Lock]] = {}

    def __init__(self, directory: Path) -> None:
        self._file, self._handle, self._process = directory / LOCK, -1, os.getpid()
        self.lost = self.took_over = False

    def take(self) -> None:
        """Raises `Taken` if another process has it, `OSError` if the directory cannot be written."""
        self.release()
        handle = open_plainly(self._file, os.O_RDWR | os.O_CREAT)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(handle)
                raise Taken(error.errno, "another process writes this run", str(self._file.parent)) from error
        if (other := self._held.get(self._file)) is not None:
            other.lost = self.took_over = True
            other.release()  # its handle: closing any of them frees the file
            _lock_if_possible(handle)
        self._handle, self._held[self._file] = handle, self

    def release(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0 and os.getpid() == self._process:
            os.close(handle)
            self._held.pop(self._file, None)


def open_plainly(file: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a plain file: links are not followed, and pipes and devices are not waited for.

    Raises `OSError` for them.
    """
    handle = os.open(file, flags | _PLAIN, mode)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a plain file", str(file))
    return handle


def reading(file: Path) -> BinaryIO:
    """A plain file, opened for reading. Raises `OSError`, which says so of a link."""
    try:
        return os.fdopen(open_plainly(file, os.O_RDONLY), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link, which is not followed", str(file)) from error
        raise


def _lock_if_possible(handle: int) -> None:
    with contextlib.suppress(OSError):
        _lock(handle)


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
