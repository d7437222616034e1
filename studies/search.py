"""Converts the options of a search to a study with one configuration."""

import shlex
from collections.abc import Sequence
from typing import Any

from dnnlib.util import ArgumentError
from studies.study import Study
from studies.study_file import read_study
from studies.study_options import SearchOptions


def search_study(options: SearchOptions, train_options: Sequence[str]) -> Study:
    """Make the study for a search. train_options: words such as --lr=2e-4.

    Every such study is named 'search' instead of after its folder, so that the folder can be renamed.
    """
    return read_study(search_document(options, train_options), 'search', 'the search')


def search_document(options: SearchOptions, train_options: Sequence[str]) -> dict[str, Any]:
    """The search as the content of a study file (a parsed TOML document)."""
    try:
        words = shlex.split(options.selection)
    except ValueError as error:
        raise ArgumentError(f'`selection`={options.selection}: {error}; use quotes as in a shell') from error
    if not words:
        raise ArgumentError('`selection` is empty; give a sub-command of dataset_utils such as size')
    repeats = {'count': options.repeats}
    if options.select_seed is not None:
        repeats['select-seed'] = options.select_seed
    sizes = {'search': options.size_range, 'tolerance': options.tolerance}
    if options.step is not None:
        sizes['step'] = options.step
    return {
        'title': f'EMM of {options.outdir.resolve().name}',
        'data': {'selection': words[0], 'source': options.source, **long_options(words[1:])},
        'train': {name: length(value) for name, value in long_options(train_options).items()},
        'evaluate': {'seeds': options.seeds, 'batch': options.batch} | ({'race': True} if options.race else {}),
        'sizes': sizes,
        'repeats': repeats,
        'threshold': options.threshold,
    }


def long_options(words: Sequence[str]) -> dict[str, str]:
    """Parse words such as --lr=2e-4 into a dict of names and values. Raises ArgumentError for other words."""
    found = {}
    for word in words:
        name, equals, value = word.removeprefix('--').partition('=')
        if not word.startswith('--') or not equals:
            raise ArgumentError(f'{word}: write options as --name=value')
        found[name] = value
    return found


def length(value: str) -> str | dict[str, int]:
    """Convert a length in images, such as '76800images', to its form in a parsed study file, {'images': 76800}.

    Other values are returned unchanged.
    """
    number = value.removesuffix('images')
    return {'images': int(number)} if number != value and number.isdecimal() else value
