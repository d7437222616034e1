"""Reads study files (TOML); docs/studies.md describes the format.

`load_study` reads a file, and `read_study` checks a parsed document. Errors name the file, the table and the key.
"""

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType, to_builtins

from dnnlib.typed import Typed, parse, shown
from dnnlib.util import UserError
from evaluation.effective_memorization import EMM_RATIO
from studies.study import (
    COLUMNS,
    MEASUREMENTS,
    MIN_TOLERANCE,
    PARTS,
    Factor,
    FactorValue,
    Options,
    Repeats,
    Settings,
    Sizes,
    Study,
    made_by,
    other_half,
    source_name,
)

# For each table, the options that it must not contain, because the study sets them itself.
RESERVED = {
    'data': {'dest', 'overwrite', 'max-images', 'seed'},
    'sources': {'dest', 'overwrite'},
    'train': {'outdir', 'data', 'nosubdir', 'desc', 'seed', 'resume', 'dry-run'},
    'evaluate': {
        *('expdir', 'data', 'knn-ref', 'log', 'images', 'gallery', 'network', 'pipeline', 'table', 'json', 'dry-run'),
    },
    'diagnose': {'expdir', 'network', 'denoiser', 'data', 'outdir', 'plot'},
}
# Lengths that train.py scales with the training-set size; a study can also give them in images.
LENGTHS = ('epochs', 'duration', 'warmup', 'ema')

# These limits are far beyond what any study needs, so a number outside them is a mistake.
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=1, le=10**9)]
Share = Annotated[float, Meta(gt=0, lt=1)]


class Length(Typed, frozen=True):
    """A training length in images."""

    images: Size


OptionTable = dict[str, bool | Whole | float | str | list[Whole] | Length]


class SizesTable(Typed, frozen=True):
    values: list[Size] = []
    search: list[Size] = []
    tolerance: Annotated[float, Meta(ge=MIN_TOLERANCE, le=10)] = Sizes.tolerance
    step: Size | UnsetType = UNSET

    def __post_init__(self) -> None:
        if bool(self.values) == bool(self.search):
            raise ValueError('requires either values, such as [1000, 2000], or search, such as [500, 20000]')
        if self.search and (len(self.search) != 2 or self.search[0] >= self.search[1]):
            raise ValueError(f'search = {self.search} must be the smallest and the largest size')

    def sizes(self) -> Sizes:
        if self.values:
            return Sizes(values=tuple(sorted(set(self.values))))
        low, high = self.search
        return Sizes(search=(low, high), tolerance=self.tolerance, step=None if self.step is UNSET else self.step)


class ValueTable(Typed, frozen=True):
    data: OptionTable | UnsetType = UNSET
    train: OptionTable | UnsetType = UNSET
    evaluate: OptionTable | UnsetType = UNSET
    sizes: SizesTable | UnsetType = UNSET


class FactorTable(Typed, frozen=True):
    label: str = ''
    option: str = ''
    values: list[bool | Whole | float | str | list[Whole] | Length] | dict[str, ValueTable] = []

    def __post_init__(self) -> None:
        if not self.values or isinstance(self.values, dict) == bool(self.option):
            raise ValueError('requires values: either option and a list, or a table for each value')


class DiagnoseTable(Typed, frozen=True):
    levels: OptionTable | UnsetType = UNSET
    agreement: OptionTable | UnsetType = UNSET
    clocks: OptionTable | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.clocks is not UNSET and 'test' not in self.clocks:
            raise ValueError('clocks requires test (the held-out set)')


class StudyTable(Typed, frozen=True):
    sizes: SizesTable
    name: str | UnsetType = UNSET
    title: str = ''
    description: str = ''
    data: OptionTable = {}
    train: OptionTable = {}
    evaluate: OptionTable = {}
    diagnose: DiagnoseTable = DiagnoseTable()
    repeats: Repeats = Repeats()
    factors: dict[str, FactorTable] = {}
    sources: dict[str, OptionTable] = {}
    threshold: Share = EMM_RATIO


def load_study(path: Path) -> Study:
    """Read a study file. Raises a UserError that names the file, the TOML table and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; give a study file, such as those in scripts/studies') from error
    except (ValueError, RecursionError) as error:  # also raised for too many digits or nesting levels
        raise UserError(f'{path} is not a TOML file ({error})') from error
    return read_study(document, path.stem, str(path))


def read_study(document: dict[str, Any], name: str, where: str) -> Study:
    """Check a parsed study file. name: the study's name if the document has none. where: the file, for messages."""
    table = parse(document, StudyTable, where)
    name = name if table.name is UNSET else table.name
    try:
        check_texts(document)
        check_file_name(name, 'name')
        study = Study(
            name=name,
            title=table.title or name,
            description=table.description,
            settings=Settings(**{part: options_of(getattr(table, part), part, f'[{part}]') for part in PARTS}),
            sizes=table.sizes.sizes(),
            repeats=table.repeats,
            factors=tuple(read_factor(key, factor) for key, factor in table.factors.items()),
            sources={key: read_source(key, source) for key, source in table.sources.items()},
            threshold=table.threshold,
            document=document,
            where=where,
            diagnose={
                name: options_of(options, 'diagnose', f'[diagnose.{name}]')
                for name in MEASUREMENTS
                if (options := getattr(table.diagnose, name)) is not UNSET
            },
        )
        check_factors(study.factors)
        check_combinations(study)
    except ValueError as error:
        raise UserError(f'{where}: {error}') from error
    return study


def check_texts(table: dict[str, Any], place: str = '') -> None:
    """Raise ValueError for text with control characters, and for names that are blank or not printable."""
    for key, value in table.items():
        if not key.strip() or not key.isprintable():
            raise ValueError(f'{place}{key!r} is not a name; use printable characters')
        if isinstance(value, str) and not all(c.isprintable() or c in '\n\t' for c in value):
            raise ValueError(f'{place}{key} contains a control character: {value!r}')
        if isinstance(value, dict):
            check_texts(value, f'{place}{key}.')


def check_file_name(name: str, where: str) -> None:
    """Raise ValueError for a name that is not safe as a file name, such as one that leads to another folder."""
    if not re.fullmatch(r'\w[\w .+-]*', name):
        raise ValueError(f'{where} is {name!r}; use letters, digits, dots, dashes and underscores')


def options_of(table: OptionTable, part: str, where: str) -> Options:
    """The options of a table as plain values. Raises ValueError for options that are not allowed in a study."""
    for key, value in table.items():
        if key in RESERVED[part]:
            raise ValueError(f'{key} in {where} is set by the study itself; remove it')
        if isinstance(value, Length) and (part != 'train' or key not in LENGTHS):
            raise ValueError(
                f'{key} in {where} cannot be given in images; these options of [train] can: {", ".join(LENGTHS)}'
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'{key} = {value} in {where} must be a finite number')
    return to_builtins(table)


def read_source(name: str, table: OptionTable) -> Options:
    where = f'[sources.{name}]'
    check_file_name(name, f'the name of {where}')
    for key in ('source', 'blend'):
        if source_name(table.get(key)) is not None:
            raise ValueError(
                f'{key} = {table[key]!r} in {where}: a source cannot be made from another source; make the other one '
                f'with python -m dataset_utils, and give its path'
            )
    return options_of(table, 'sources', where)


def read_factor(name: str, table: FactorTable) -> Factor:
    where = f'[factors.{name}]'
    if name in COLUMNS:
        raise ValueError(f'{where}: every table already has a column {name}; give the factor another name')
    if isinstance(table.values, dict):
        values = [read_value(f'{where[:-1]}.values.{key}]', key, value) for key, value in table.values.items()]
    else:
        values = list(values_of_option(where, table.option, table.values))
    if len({value.name for value in values}) < len(values):
        raise ValueError(f'values in {where} contains a value twice; remove the duplicate')
    return Factor(name, table.label or name, tuple(values))


def read_value(where: str, name: str, table: ValueTable) -> FactorValue:
    changes = {
        part: options_of(options, part, f'{part} of {where}')
        for part in PARTS
        if (options := getattr(table, part)) is not UNSET
    }
    return FactorValue(name, changes, None if table.sizes is UNSET else table.sizes.sizes())


def values_of_option(where: str, option: str, values: list[Any]) -> Iterator[FactorValue]:
    part, _, key = option.partition('.')
    if part not in PARTS or not key:
        raise ValueError(f'option = {option!r} in {where} must name an option of {", ".join(PARTS)}, such as train.lr')
    for value in values:
        changes = {part: options_of({key: value}, part, where)}
        yield FactorValue(value_name(changes[part][key]), changes)


def value_name(value: Any) -> str:
    """Name an option's value, such as '1,0,2' for a list or '500 images' for a length in images."""
    if isinstance(value, dict):
        return f'{value["images"]} images'
    return ','.join(map(str, value)) if isinstance(value, list) else str(value)


def check_factors(factors: tuple[Factor, ...]) -> None:
    """Raise ValueError if two factors set the same option."""
    setter: dict[tuple[str, str], str] = {}
    for factor in factors:
        own = {(part, key) for value in factor.values for part, options in value.changes.items() for key in options}
        own |= {('sizes', 'sizes') for value in factor.values if value.sizes is not None}
        for part, key in sorted(own):
            if (part, key) in setter:
                other = setter[part, key]
                raise ValueError(f'[factors.{other}] and [factors.{factor.name}] both set {key} of [{part}]')
            setter[part, key] = factor.name


def check_combinations(study: Study) -> None:
    """Raise ValueError if a combination lacks a required option, has conflicting options, or uses an unknown source."""
    made = made_by(study.sources)
    known = f'; available: {", ".join(f"sources.{name}" for name in made)}' if made else ''
    for combination in study.combinations:
        data = combination.settings.data
        for key, example in (('selection', 'size'), ('source', 'digits')):
            if not isinstance(data.get(key), str):
                raise ValueError(f'[data] requires {key}, such as {key} = {example!r}')
        if 'agreement' in study.diagnose and other_half(data, study.sources) is None:
            raise ValueError(
                '[diagnose.agreement] trains a second network on the other half of a split; define a split in a '
                'table [sources.NAME] with selection = "split", and set source = "sources.NAME-a" in [data]'
            )
        denoiser = combination.settings.denoiser
        if denoiser is not None and study.diagnose:
            raise ValueError(
                f'[diagnose.{next(iter(study.diagnose))}] measures a training run, but the closed form denoiser = '
                f'{shown(denoiser)} in '
                f'[evaluate] has none; remove one of them'
            )
        if denoiser is not None and study.repeats.count > 1 and study.repeats.select_seed is None:
            raise ValueError(
                f'denoiser = {shown(denoiser)} in [evaluate] gives the same images in every repeat; set select-seed in '
                f'[repeats], or count = 1'
            )
        if study.diagnose and combination.settings.evaluate.get('keep-best'):
            raise ValueError('keep-best in [evaluate] deletes snapshots that [diagnose] measures; remove either')
        tables = {f'[{part}]': getattr(combination.settings, part) for part in PARTS}
        tables |= {f'[diagnose.{name}]': options for name, options in study.diagnose.items()}
        for table, options in tables.items():
            for key, value in options.items():
                name = source_name(value)
                if name is not None and name not in made:
                    raise ValueError(f'{key} = {shown(value)} in {table} is not made by any table of [sources]{known}')
