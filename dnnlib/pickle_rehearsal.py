"""The child process of `dnnlib.safe_pickle`: reads the pickle on stdin under memory and time limits.

Every function or class that the pickle names is replaced by an inert object, so nothing is executed. The exit status is
nonzero if reading exceeds a limit or crashes Python. Otherwise it is 0, even if reading fails with another error.
"""

import contextlib
import io
import pickle
import sys
from typing import Any

MEMORY_BYTES, MEMORY_PER_BYTE = 1 << 28, 4
SECONDS, BYTES_PER_SECOND = 10, 10_000_000


class Inert(dict):
    """An object that accepts every operation that a pickle can apply to it, and does nothing."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, *arguments: Any):
        pass

    def __call__(self, *arguments: Any) -> 'Inert':
        return self

    append = extend = add = update = __setstate__ = __call__  # type: ignore[assignment]


class Rehearsal(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return Inert


def main() -> None:
    data = sys.stdin.buffer.read()
    with contextlib.suppress(ImportError, ValueError, OSError):  # systems without such limits
        import resource

        memory, seconds = MEMORY_BYTES + MEMORY_PER_BYTE * len(data), SECONDS + len(data) // BYTES_PER_SECOND
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        Rehearsal(io.BytesIO(data), encoding='bytes').load()
    except MemoryError:
        sys.exit(1)
    except Exception:
        return  # the parent process raises the same error


if __name__ == '__main__':
    main()
