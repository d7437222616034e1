"""File locks. A lock is released when the process that holds it ends, even if the process is killed."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dnnlib.util import UserError

# For this many seconds, `locked` keeps trying: another process's `is_locked` may hold the lock for a moment.
SECONDS_TO_TRY = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(path: Path, seconds: float = SECONDS_TO_TRY) -> Iterator[int | None]:
    """Hold a file's lock inside the block, creating the file if needed.

    seconds: how long to wait for the lock; can be infinite.
    Yields the file descriptor, or None if another process still holds the lock. A child process that inherits the
    descriptor holds the lock as well.
    """
    deadline = time.monotonic() + seconds
    while True:
        with open(path, 'a') as file:
            if not _locked_in_time(file, deadline):
                yield None
                return
            if _is_at(file, path):
                yield file.fileno()
                return


@contextlib.contextmanager
def sole_use(path: Path, what: str) -> Iterator[None]:
    """Hold a file's lock inside the block, and remove the lock file at the end.

    what: what the lock protects, as the subject of the error message. The lock file's folder is created if needed, and
    removed at the end if it was created here and is empty. Raises UserError if another process holds the lock.
    """
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path) as descriptor:
        if descriptor is None:
            raise UserError(f'{what} is in use by another process; wait until it ends, or choose another folder')
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # the folder now contains other files
                    path.parent.rmdir()


def is_locked(path: Path) -> bool:
    """Whether any process holds the lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_at(file: IO, path: Path) -> bool:
    """Whether the open file is still the one at `path`; the lock's previous holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked_in_time(file: IO, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno in _NO_LOCKS:  # the file system does not support locks
                return True
            raise
