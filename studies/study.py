"""A study as it stands in its file: base options, factors with their values, training-set sizes, and repeats.

`read_study` turns the document of a study file into a checked `Study`; `Study.combinations` are the combinations of the
factors' values, each with the options of its points. docs/studies.md has the format.
"""

import dataclasses
import itertools
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib.util import UserError
from evaluation.effective_memorization import EMM_RATIO, most_sizes

Options = dict[str, Any]  # the options of one command, without their dashes: str, int, float, bool or list of int

PARTS = ('data', 'train', 'evaluate')
# Options that a study sets by itself, by the part of a point that they belong to.
RESERVED = {
    'data': {'dest', 'overwrite', 'max-images', 'seed'},
    'source': {'dest', 'overwrite'},
    'train': {'outdir', 'data', 'nosubdir', 'desc', 'seed', 'resume', 'dry-run'},
    'evaluate': {'expdir', 'knn-ref', 'log', 'images', 'gallery', 'network', 'pipeline', 'table', 'json'},
}
# Lengths that train.py takes relative to the size of the training set, and that a study can give in images.
LENGTHS = ('epochs', 'duration', 'warmup', 'ema')
DEFAULT_TRAIN_SEED = 1024  # the paper's
MIN_TOLERANCE = 0.001
# Far beyond what any study needs; a number with more digits is a mistake.
MAX_SIZE, MAX_REPEATS, MAX_NUMBER = 10**9, 1000, 2**63 - 1
# Columns of the tables, beside which a factor has one of its own name.
COLUMNS = {
    *('size', 'repeats', 'images', 'memorized', 'ratio', 'ratio_low', 'ratio_high', 'interval', 'mean_distance'),
    *('emm', 'emm_relation', 'low', 'low_relation', 'high', 'high_relation'),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of a point: of the selection of images, whose name is `selection`, of train.py and of mem_ratio.py."""

    data: Options
    train: Options
    evaluate: Options

    def merged(self, changes: dict[str, Options]) -> 'Settings':
        return Settings(**{part: getattr(self, part) | changes.get(part, {}) for part in PARTS})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Training-set sizes: fixed `values`, or a search from `low` to `high` until within `tolerance`.

    step: a search measures multiples of it; None for what the selection needs.
    """

    values: tuple[int, ...] = ()
    search: tuple[int, int] | None = None
    tolerance: float = 0.1
    step: int | None = None

    def in_steps(self, step: int) -> 'Sizes':
        """The same with a search in multiples of `step`, unless it has a step of its own; its range shrinks to them."""
        if self.search is None:
            return self
        step = self.step or step
        low, high = self.search
        return dataclasses.replace(self, search=(-(-low // step) * step, high // step * step), step=step)

    def describe(self) -> str:
        if self.search is None:
            return ', '.join(map(str, self.values))
        low, high = self.search
        return f'searched from {low} to {high}, at most {most_sizes(low, high, self.tolerance)} of them'


@dataclasses.dataclass(frozen=True)
class FactorValue:
    """One value of a factor: its name, the options it changes, by part, and sizes of its own if it has any."""

    name: str
    changes: dict[str, Options]
    sizes: Sizes | None = None


@dataclasses.dataclass(frozen=True)
class Factor:
    """A factor: its name in the file, its name in figures, and its values."""

    name: str
    label: str
    values: tuple[FactorValue, ...]


@dataclasses.dataclass(frozen=True)
class Combination:
    """One value of every factor, with the options and sizes that follow. values: name of the factor value by factor."""

    values: dict[str, str]
    settings: Settings
    sizes: Sizes

    @property
    def name(self) -> str:
        return ', '.join(f'{factor} {value}' for factor, value in self.values.items()) or 'all'


@dataclasses.dataclass(frozen=True)
class Repeats:
    """How often each point is trained: repeat r has train.py's seed `train_seed` + r, and selects its images by
    `select_seed` + r, or takes the first ones where that is None."""

    count: int = 1
    train_seed: int = DEFAULT_TRAIN_SEED
    select_seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked study.

    document: the file's content. sources: data sets that are made once, by name, with the options of `data`.
    threshold: the ratio that a model must reach to memorize a training set. steps: by combination's name, the number
    that a search's sizes must be multiples of, where the file does not say; see `studies.validation`.
    """

    name: str
    title: str
    description: str
    settings: Settings
    sizes: Sizes
    repeats: Repeats
    factors: tuple[Factor, ...]
    sources: dict[str, Options]
    threshold: float
    document: dict[str, Any]
    steps: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def combinations(self) -> list[Combination]:
        """All combinations of the factors' values; a single one where there is no factor."""
        result: list[Combination] = []
        for chosen in itertools.product(*(factor.values for factor in self.factors)):
            settings, sizes = self.settings, self.sizes
            for value in chosen:
                settings = settings.merged(value.changes)
                sizes = value.sizes or sizes
            names = {factor.name: value.name for factor, value in zip(self.factors, chosen, strict=True)}
            combination = Combination(names, settings, sizes)
            step = self.steps.get(combination.name, 1)
            result.append(dataclasses.replace(combination, sizes=sizes.in_steps(step)))
        return result


def load_study(path: Path) -> Study:
    """Read a study file (TOML). Raises UserError that names the file, the table and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; give a study file, such as those in scripts/studies') from error
    except (ValueError, RecursionError) as error:  # beside TOML's errors, those of a number or a nesting without end
        raise UserError(f'{path}: not a TOML file ({error})') from error
    return read_study(document, path.stem, str(path))


def read_study(document: dict[str, Any], name: str, where: str) -> Study:
    """Check a study's document. name: of the study, unless the document has one. where: named in messages."""
    return _Reader(where).study(document, name)


class _Reader:
    """Checks a document table by table; `where` is the file that messages name."""

    def __init__(self, where: str):
        self.where = where

    def fail(self, problem: str) -> UserError:
        return UserError(f'{self.where}: {problem}')

    def study(self, document: dict[str, Any], name: str) -> Study:
        known = ('name', 'title', 'description', *PARTS, 'sizes', 'repeats', 'factors', 'sources', 'threshold')
        self.check_keys(document, known, 'the study')
        name = self.text(document, 'name', 'the study', name)
        self.check_file_name(name, 'the name of the study')
        parts = {part: self.options(self.table(document, part, 'the study'), part, f'[{part}]') for part in PARTS}
        factors = self.table(document, 'factors', 'the study')
        sources = self.table(document, 'sources', 'the study')
        threshold = document.get('threshold', EMM_RATIO)
        if not isinstance(threshold, float) or not 0 < threshold < 1:
            raise self.fail(f'threshold = {threshold!r} must be a share between 0 and 1')
        study = Study(
            name=name,
            title=self.text(document, 'title', 'the study', name),
            description=self.text(document, 'description', 'the study', ''),
            settings=Settings(**parts),
            sizes=self.sizes(self.table(document, 'sizes', 'the study'), '[sizes]'),
            repeats=self.repeats(self.table(document, 'repeats', 'the study')),
            factors=tuple(self.factor(key, self.table(factors, key, '[factors]')) for key in factors),
            sources={key: self.source(key, self.table(sources, key, '[sources]')) for key in sources},
            threshold=threshold,
            document=document,
        )
        self.check_factors(study.factors)
        self.check_values(study)
        return study

    def check_keys(self, table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in table:
            if key not in known:
                raise self.fail(f'{where} has no key {key}; it knows {", ".join(known)}')

    def table(self, parent: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        value = parent.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f'{key} in {where} must be a table, not {value!r}')
        return value

    def text(self, table: dict[str, Any], key: str, where: str, default: str) -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise self.fail(f'{key} in {where} must be a text, not {value!r}')
        self.check_printable(value, f'{key} in {where}')
        return value

    def whole(
        self,
        table: dict[str, Any],
        key: str,
        where: str,
        default: int | None,
        low: int = 0,
        high: int = MAX_NUMBER,
    ) -> Any:
        value = table.get(key, default)
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise self.fail(
                f'{key} = {shortened(value)} in {where} must be a whole number of at least {low}'
                f'{f" and at most {high}" if high < MAX_NUMBER else ""}'
            )
        return value

    def check_printable(self, text: str, where: str) -> None:
        if not all(character.isprintable() or character in '\n\t' for character in text):
            raise self.fail(f'{where} holds a control character: {text!r}')

    def check_name(self, name: str, where: str) -> None:
        if not name.strip() or not name.isprintable():
            raise self.fail(f'{where} has the name {name!r}; give it one of printable characters')

    def check_file_name(self, name: str, where: str) -> None:
        """Raise UserError for a name that could lead a path out of the folder that it is put into."""
        if not re.fullmatch(r'\w[\w .+-]*', name):
            raise self.fail(f'{where} is {name!r}; use letters, digits, dots, dashes and underscores')

    def options(self, table: dict[str, Any], part: str, where: str) -> Options:
        for key, value in table.items():
            if key in RESERVED.get(part, ()):
                raise self.fail(f'{key} in {where} is set by the study itself; leave it out')
            self.check_option(key, value, part, where)
        return table

    def check_option(self, key: str, value: Any, part: str, where: str) -> None:
        if isinstance(value, dict):
            if part != 'train' or key not in LENGTHS or set(value) != {'images'}:
                raise self.fail(
                    f'{key} = {value!r} in {where}: only {", ".join(LENGTHS)} of [train] can be given in images, as '
                    f'{{ images = 50000 }}'
                )
            self.whole(value, 'images', f'{key} of {where}', None, low=1)
            return
        if isinstance(value, str):
            self.check_printable(value, f'{key} in {where}')
            return
        numbers = value if isinstance(value, list) else [value]
        kinds = int if isinstance(value, list) else (int, float)
        if not all(isinstance(n, kinds) and is_usable(n) for n in numbers):
            raise self.fail(
                f'{key} = {shortened(value)} in {where} must be a text, a number, true, false or a list of integers'
            )

    def sizes(self, table: dict[str, Any], where: str) -> Sizes:
        self.check_keys(table, ('values', 'search', 'tolerance', 'step'), where)
        if ('values' in table) == ('search' in table):
            raise self.fail(f'{where} needs either values, such as [1000, 2000], or search, such as [500, 20000]')
        key = 'values' if 'values' in table else 'search'
        numbers = table[key]
        if (
            not isinstance(numbers, list)
            or not numbers
            or not all(type(n) is int and 1 <= n <= MAX_SIZE for n in numbers)
        ):
            raise self.fail(
                f'{key} = {shortened(numbers)} in {where} must be a list of sizes of at least 1 and at most {MAX_SIZE}'
            )
        if key == 'values':
            return Sizes(values=tuple(sorted(set(numbers))))
        if len(numbers) != 2 or numbers[0] >= numbers[1]:
            raise self.fail(f'search = {numbers!r} in {where} must be the smallest and the largest size')
        tolerance = table.get('tolerance', Sizes.tolerance)
        if (
            not isinstance(tolerance, int | float)
            or isinstance(tolerance, bool)
            or not MIN_TOLERANCE <= tolerance <= 10
        ):
            raise self.fail(f'tolerance = {tolerance!r} in {where} must be from {MIN_TOLERANCE} to 10')
        step = self.whole(table, 'step', where, None, low=1, high=MAX_SIZE)
        return Sizes(search=(numbers[0], numbers[1]), tolerance=float(tolerance), step=step)

    def source(self, name: str, table: dict[str, Any]) -> Options:
        where = f'[sources.{name}]'
        self.check_file_name(name, f'the name of {where}')
        for key in ('source', 'blend'):
            if source_name(table.get(key)) is not None:
                raise self.fail(f'{key} = {table[key]!r} in {where}: a source is not made of another; name its images')
        return self.options(table, 'source', where)

    def repeats(self, table: dict[str, Any]) -> Repeats:
        self.check_keys(table, ('count', 'train-seed', 'select-seed'), '[repeats]')
        return Repeats(
            self.whole(table, 'count', '[repeats]', 1, low=1, high=MAX_REPEATS),
            self.whole(table, 'train-seed', '[repeats]', DEFAULT_TRAIN_SEED),
            self.whole(table, 'select-seed', '[repeats]', None),
        )

    def factor(self, name: str, table: dict[str, Any]) -> Factor:
        where = f'[factors.{name}]'
        self.check_name(name, where)
        if name in COLUMNS:
            raise self.fail(f'{where}: {name} is a column of every table; give the factor another name')
        self.check_keys(table, ('label', 'option', 'values'), where)
        values = table.get('values')
        if isinstance(values, dict) and values:
            if 'option' in table:
                raise self.fail(f'option in {where} goes with a list of values; each of its tables names its options')
            found = tuple(self.value(where, key, self.table(values, key, where)) for key in values)
        elif isinstance(values, list) and values and 'option' in table:
            found = tuple(self.values_of_option(where, self.text(table, 'option', where, ''), values))
        else:
            raise self.fail(f'{where} needs values: a list together with option, or a table for each value')
        names = [value.name for value in found]
        for value in names:
            self.check_name(value, f'a value of {where}')
        if len(set(names)) < len(names):
            raise self.fail(f'values in {where} has a value twice')
        return Factor(name, self.text(table, 'label', where, name), found)

    def value(self, where: str, name: str, table: dict[str, Any]) -> FactorValue:
        where = f'{where[:-1]}.values.{name}]'
        self.check_keys(table, (*PARTS, 'sizes'), where)
        changes = {
            part: self.options(self.table(table, part, where), part, f'{part} of {where}')
            for part in PARTS
            if part in table
        }
        sizes = self.sizes(self.table(table, 'sizes', where), f'sizes of {where}') if 'sizes' in table else None
        return FactorValue(name, changes, sizes)

    def values_of_option(self, where: str, option: str, values: list[Any]) -> Iterator[FactorValue]:
        part, _, key = option.partition('.')
        if part not in PARTS or not key:
            raise self.fail(
                f'option = {option!r} in {where} must be one such as train.num-channels, of {", ".join(PARTS)}'
            )
        for value in values:
            changes = {part: self.options({key: value}, part, where)}
            yield FactorValue(value_name(value), changes)

    def check_factors(self, factors: tuple[Factor, ...]) -> None:
        """Raise UserError where two factors set the same option."""
        setter: dict[tuple[str, str], str] = {}
        for factor in factors:
            own = {(part, key) for value in factor.values for part, options in value.changes.items() for key in options}
            own |= {('sizes', 'sizes') for value in factor.values if value.sizes is not None}
            for part, key in sorted(own):
                if (part, key) in setter:
                    other = setter[part, key]
                    raise self.fail(f'[factors.{other}] and [factors.{factor.name}] both set {key} of [{part}]')
                setter[part, key] = factor.name

    def check_values(self, study: Study) -> None:
        """Raise UserError where a combination lacks what every point needs, or names a source that is not there."""
        for combination in study.combinations:
            for key in ('selection', 'source'):
                if not isinstance(combination.settings.data.get(key), str):
                    raise self.fail(
                        f'[data] needs {key}, such as {key} = {"size" if key == "selection" else "digits"!r}'
                    )
            for key in ('source', 'blend'):
                path = combination.settings.data.get(key)
                name = source_name(path)
                if name is not None and name not in study.sources:
                    raise self.fail(f'{key} = {path!r}: there is no table [sources.{name}]')


def source_name(path: Any) -> str | None:
    """The name of a data set that the study makes itself, of a path such as 'sources.dogs'; None for other paths."""
    return path.removeprefix('sources.') if isinstance(path, str) and path.startswith('sources.') else None


def value_name(value: Any) -> str:
    """What a value of an option is called: '1,0,2' for a list, '500 images' for a length in images."""
    if isinstance(value, dict):
        return f'{value["images"]} images'
    return ','.join(map(str, value)) if isinstance(value, list) else str(value)


def is_usable(number: float) -> bool:
    return abs(number) <= MAX_NUMBER if isinstance(number, int) else math.isfinite(number)


def shortened(value: Any, longest: int = 60) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return 'a number of thousands of digits'
    return text if len(text) <= longest else f'{text[:longest]}…'
