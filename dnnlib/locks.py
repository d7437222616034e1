"""File locks, which end with the processes that hold them, even if they are killed."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dnnlib.util import UserError

try:
    import fcntl
except ImportError:  # Windows
    raise SystemExit('Error: the toolkit needs Linux or macOS; on Windows run it in WSL') from None

# Checking whether a lock is held takes it for a moment, so attempts to hold it continue for longer than that.
SECONDS_TO_TRY = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(path: Path, seconds: float = SECONDS_TO_TRY) -> Iterator[int | None]:
    """Hold a file's lock inside the block; the file is created if needed. seconds: to wait for it, or infinity.

    Yields the descriptor, for child processes that are to hold the lock as well, or None if another process holds it.
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
    """Hold a file's lock inside the block, and remove the file at the end. what: its name in messages.

    The folder is made if needed, and removed if it stays empty. Raises UserError if another process holds the lock.
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
                with contextlib.suppress(OSError):  # it has files by now
                    path.parent.rmdir()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_at(file: IO, path: Path) -> bool:
    """Whether an open file is still the one at a path: the process that held its lock before may have removed it."""
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
            if error.errno in _NO_LOCKS:  # the file system has no locks
                return True
            raise
