"""Plug-ins: external code that adds metrics, selections, denoisers, networks or feature extractors to the registries.

docs/plugins.md has an example. Scripts call `load_plugins` before they use any registry; Python code simply imports its
own modules.
"""

import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from dnnlib.util import UserError

ENTRY_POINTS = 'diffusion_memorization.plugins'
VARIABLE = 'MEMORIZATION_PLUGINS'  # environment variable with paths of Python files, separated as in PATH


@functools.cache
def load_plugins() -> None:
    """Import the plug-ins of installed packages and the files listed in `VARIABLE`; a second call does nothing.

    Raises UserError if a plug-in fails.
    """
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _run(entry.name, entry.load)
    for name in filter(None, os.environ.get(VARIABLE, '').split(os.pathsep)):
        _run(name, functools.partial(_import_file, Path(name)))


def _import_file(path: Path) -> None:
    name = f'plugin_{path.stem}'
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError('not a Python file')
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _run(name: str, load: Callable[[], object]) -> None:
    try:
        load()
    except Exception as error:  # a plug-in can raise anything
        raise UserError(f'the plug-in {name} failed: {type(error).__name__}: {error}') from error
