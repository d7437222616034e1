"""General helpers: errors that users can fix, atomic file writes, file hashes, durations in words.

Packages raise `UserError` for a user's mistake, and `report_errors` prints it as one sentence on stderr. `atomic_file`
writes a file under a temporary name and renames it when it is complete. `tee_output` copies stdout to a log file.
"""

import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'cannot allocate memory')


# If an error occurs on all ranks, the other ranks give the main rank this many seconds to report it.
SECONDS_TO_REPORT = 10


class UserError(ValueError):
    """A user's mistake. The message is one sentence that names the argument or file and says how to fix the mistake.

    Arguments are written in backticks, as in 'give `resize`'. Scripts replace them by options, here --resize.
    """


class ArgumentError(UserError):
    """Arguments that contradict one another, or an argument with an invalid value; scripts exit with status 2."""


def report_errors(command: Callable) -> Callable:
    """Decorate a click command's function so that a user's mistake prints one sentence and exits with status 1.

    This covers `UserError`, OSError (no such file, no space left on device) and running out of memory. A name in
    backticks is replaced by the command's option of that name. ArgumentError exits with status 2.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        for name in ('stdout', 'stderr'):
            if getattr(sys, name) is None:  # closed by the shell; the next file would get its number
                setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors='backslashreplace')  # never fail on unprintable characters
        try:
            return command(*args, **kwargs)
        except UserError as error:
            kind = click.UsageError if isinstance(error, ArgumentError) else click.ClickException
            raise _one_sentence(with_option_names(str(error)), kind) from error
        except BrokenPipeError:
            raise  # click exits silently if the reader of a pipe has closed it
        except OSError as error:
            if isinstance(error, FileExistsError | NotADirectoryError) and os.path.isfile(error.filename or ''):
                raise _one_sentence(f'{error.filename} is a file, not a folder; give a folder') from error
            where = f'{error.filename}: ' if error.filename else ''
            remedy = '; free some space, and run the command again' if error.errno in _FULL else ''
            raise _one_sentence(f'{where}{error.strerror or error}{remedy}') from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _one_sentence(with_option_names(f'out of memory; lower {_batch_argument()}')) from error
        except KeyboardInterrupt:
            print(_interrupted(), file=sys.stderr)
            sys.exit(130)

    return run


def _interrupted() -> str:
    context = click.get_current_context(silent=True)
    while context is not None and not getattr(context.command, 'resumes', False):
        context = context.parent
    return 'Interrupted.' if context is None else 'Interrupted; the same command resumes.'


def with_option_names(text: str) -> str:
    """Replace each name in backticks by the running command's option of that name."""
    context = click.get_current_context(silent=True)
    parameters = context.command.params if context else []
    options = {p.name: f'--{p.name}' if f'--{p.name}' in p.opts else max(p.opts, key=len) for p in parameters}
    return re.sub(r'`(\w+)`', lambda match: options.get(match[1], match[0]), text)


def has_argument(name: str) -> bool:
    """Whether the running command has an argument of this name; True outside of commands."""
    context = click.get_current_context(silent=True)
    return context is None or any(parameter.name == name for parameter in context.command.params)


def _one_sentence(text: str, kind: type[click.ClickException] = click.ClickException) -> Exception:
    return kind(text) if first_to_report(text) else click.exceptions.Exit(kind.exit_code)


def _is_main_rank(text: str) -> bool:
    if os.environ.get('RANK', '0') == '0':
        return True
    time.sleep(SECONDS_TO_REPORT)  # torchrun stops all ranks as soon as one fails, so the main rank must report first
    return False


# Whether this rank is the first to report a text; `torch_utils.distributed` installs a function that asks all ranks.
first_to_report: Callable[[str], bool] = _is_main_rank


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def _batch_argument() -> str:
    context = click.get_current_context(silent=True)
    names = [parameter.name for parameter in context.command.params] if context else []
    return next((f'`{name}`' for name in ('batch_gpu', 'batch_size') if name in names), 'the number of images')


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open `path` for binary writing; the file appears under its name only once it is complete and on disk.

    If the block raises, the partial file is removed and an existing file of that name stays unchanged.
    A symbolic link is kept, and its target is written; a device such as /dev/null is written directly.
    """
    path = Path(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
        if path.is_symlink():  # to itself
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if path.exists() and not path.is_file():
        with open(path, 'wb') as file:
            yield file
        return
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        with open(partial, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)  # report the name that the user gave
        partial.unlink(missing_ok=True)
        raise


def require_writable(argument: str, path: Path | None, suffix: str, makes_folder: bool = False) -> None:
    """Raise UserError if a file cannot be written at a path; call this before any work.

    suffix: required ending, except of devices such as /dev/null. makes_folder: whether the folder is made if needed.
    """
    if path is None:
        return
    is_device = path.exists() and not path.is_file()
    if path.is_dir():
        problem = 'is a folder'
    elif not path.parent.is_dir() and not makes_folder:
        problem = f'there is no folder {path.parent}'
    elif not path.name.lower().endswith(suffix) and not is_device:
        problem = f'does not end in {suffix}'
    elif path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise UserError(f'`{argument}`={path}: the folder is read-only; name a file in another folder')
    else:
        return
    where = '' if makes_folder else ' in a folder that exists'
    raise UserError(f'`{argument}`={path}: {problem}; name a file ending in {suffix}{where}')


def require_separate(
    outputs: Sequence[tuple[str, Path]], inputs: Mapping[str, Sequence[str | os.PathLike | None]]
) -> None:
    """Raise UserError if a command would replace one of its inputs, or write two outputs to one file.

    outputs: each file to write, with the argument that determines its name. inputs: the paths given by each argument.
    Paths are compared after resolving links.
    """
    taken = {os.path.realpath(path): name for name, paths in inputs.items() for path in paths if path is not None}
    for argument, path in outputs:
        other = taken.setdefault(os.path.realpath(path), argument)
        if other in inputs:
            raise UserError(f'`{argument}` would replace {path}, which is an input (`{other}`); give another name')
        if other != argument:
            raise UserError(f'`{other}` and `{argument}` are the same file, {path}; give different files')


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b'\n')


def remove_partial_files(folder: Path, *patterns: str) -> None:
    """Remove partial files and folders left by killed processes on this machine.

    The caller must ensure that no process on another machine is still writing them.
    """
    import psutil  # imported here because --help does not need it

    for pattern in patterns:
        for path in folder.glob(f'{pattern}.*.partial'):
            process = path.name.split('.')[-2]
            if re.fullmatch(r'\d{1,9}', process, re.ASCII) and not psutil.pid_exists(int(process)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def exchange(first: Path, second: Path) -> bool:
    """Swap two files or folders atomically, so that both names always exist; returns whether this succeeded."""
    library, names = ctypes.CDLL(None), (os.fsencode(first), os.fsencode(second))
    if hasattr(library, 'renameat2'):  # Linux; -100 is AT_FDCWD, and 2 is RENAME_EXCHANGE
        return library.renameat2(-100, names[0], -100, names[1], 2) == 0
    return hasattr(library, 'renamex_np') and library.renamex_np(*names, 2) == 0  # macOS; 2 is RENAME_SWAP


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a system crash."""
    with contextlib.suppress(OSError):  # some file systems refuse to open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(*paths: str | os.PathLike) -> str:
    """The SHA-256 of the concatenated files, as `cat ... | sha256sum` prints it."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# All packages whose code can affect the numbers in a record; the scripts are left out because they only parse options.
_PACKAGES = ('cli', 'dataset_utils', 'dnnlib', 'evaluation', 'studies', 'torch_utils', 'training')


@functools.cache
def code_sha256() -> str:
    """The SHA-256 of a sorted list that contains each Python file in the packages and its hash.

    It equals `find PACKAGES -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    """
    root = Path(__file__).parents[1]
    paths = (path for package in _PACKAGES for path in (root / package).rglob('*.py'))
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    return hashlib.sha256(''.join(f'{file_sha256(root / name)}  {name}\n' for name in names).encode()).hexdigest()


def counted(number: float, noun: str, spec: str = ',', digits: int | None = None) -> str:
    """Format a number with a noun: '1 rank', '2,000 ranks', '2 copies'.

    spec: format specification for the number. digits: the number of significant digits (see `significant`), instead.
    """
    text = f'{number:{spec}}' if digits is None else significant(number, digits)
    if text != '1':
        noun = f'{noun[:-1]}ies' if noun.endswith('y') else f'{noun}{"es" if noun.endswith("s") else "s"}'
    return f'{text} {noun}'


def significant(value: float, digits: int = 3) -> str:
    """Format a number with this many significant digits, or, if it has more digits before the point, as an integer."""
    return f'{value:,.0f}' if abs(value) >= 10**digits - 0.5 else f'{value:,.{digits}g}'


def kimg_text(kimg: float) -> str:
    """Format a number of images in thousands, such as '51.2 kimg' or '2,000,000 kimg'."""
    return f'{significant(kimg, 6)} kimg'


def format_time(seconds: float) -> str:
    """Format a duration as in EDM's status lines: '47s', '3m 05s', '2h 01m 09s', '1d 04h 12m'."""
    total = round(seconds)
    if total < 60:
        return f'{total}s'
    if total < 60 * 60:
        return f'{total // 60}m {total % 60:02}s'
    if total < 24 * 60 * 60:
        return f'{total // 3600}h {total // 60 % 60:02}m {total % 60:02}s'
    return f'{total // 86400}d {total // 3600 % 24:02}h {total // 60 % 60:02}m'


@contextlib.contextmanager
def tee_output(path: str | os.PathLike) -> Iterator[None]:
    """Inside the block, append a copy of everything printed to stdout to a log file."""
    with open(path, 'a', encoding='utf-8', errors='backslashreplace') as log:
        tee: Any = _Tee(sys.stdout, log)
        with contextlib.redirect_stdout(tee):
            yield


class _Tee:
    def __init__(self, *streams: IO[str]):
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()

    def isatty(self) -> bool:
        return False
