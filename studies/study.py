"""A study: base options, factors with their values, training-set sizes, and repeats.

`Study.combinations` lists the combinations of factor values, each with its options and sizes.
"""

import dataclasses
import itertools
from typing import Annotated, Any

from msgspec import Meta

from dnnlib.typed import Typed
from evaluation.effective_memorization import most_sizes

# The options of one command. Names have no leading dashes; values are str, int, float, bool or list of int.
Options = dict[str, Any]

PARTS = ('data', 'train', 'evaluate')
MEASUREMENTS = ('levels', 'agreement', 'clocks')  # made by diagnose.py
DEFAULT_TRAIN_SEED = 1024  # the paper's
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
MIN_TOLERANCE = 0.001
# Columns of the tables. Each factor adds a column with its name, which must not be one of these.
COLUMNS = {
    *('size', 'repeats', 'images', 'memorized', 'ratio', 'ratio_low', 'ratio_high', 'interval'),
    *('mean_distance', 'far', 'far_share'),
    *('emm', 'emm_relation', 'low', 'low_relation', 'high', 'high_relation'),
    *('dataset_sha256', 'repeat', 'kimg', 'source', 'sigma', 'pairs'),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A point's options, for three commands.

    data: options of the image selection, and its name under the key `selection`. train: options of train.py.
    evaluate: options of mem_ratio.py.
    """

    data: Options
    train: Options
    evaluate: Options

    @property
    def denoiser(self) -> str | None:
        """The closed form to evaluate instead of training a network; None to train."""
        return self.evaluate.get('denoiser')

    def merged(self, changes: dict[str, Options]) -> 'Settings':
        return Settings(**{part: getattr(self, part) | changes.get(part, {}) for part in PARTS})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Training-set sizes: either fixed `values`, or a search for the EMM.

    search: smallest and largest size. tolerance: the search ends when the size above the EMM is at most 1 + tolerance
    times the size below it. step: all sizes of a search are multiples of this number; None uses the number that the
    selection requires.
    """

    values: tuple[int, ...] = ()
    search: tuple[int, int] | None = None
    tolerance: float = 0.1
    step: int | None = None

    def in_steps(self, step: int) -> 'Sizes':
        """Round both ends of a search range inward to multiples of `self.step` or, if that is None, of `step`."""
        if self.search is None:
            return self
        step = self.step or step
        low, high = self.search
        return dataclasses.replace(self, search=(-(-low // step) * step, high // step * step), step=step)

    def describe(self) -> str:
        if self.search is None:
            return ', '.join(map(str, self.values))
        low, high = self.search
        return f'a search from {low} to {high}, at most {most_sizes(low, high, self.tolerance)} sizes'


@dataclasses.dataclass(frozen=True)
class FactorValue:
    """One value of a factor.

    changes: the options that it changes, by part ('data', 'train' or 'evaluate'). sizes: training-set sizes to use
    instead of the study's sizes; None keeps the study's sizes.
    """

    name: str
    changes: dict[str, Options]
    sizes: Sizes | None = None


@dataclasses.dataclass(frozen=True)
class Factor:
    """A factor: its name in the file, its label in figures, and its values."""

    name: str
    label: str
    values: tuple[FactorValue, ...]


@dataclasses.dataclass(frozen=True)
class Combination:
    """One value of each factor, with the resulting options and sizes.

    values: maps each factor to the name of its value. labels: the factors' labels, in the same order.
    """

    values: dict[str, str]
    labels: tuple[str, ...]
    settings: Settings
    sizes: Sizes

    @property
    def name(self) -> str:
        pairs = zip(self.labels, self.values.values(), strict=True)
        return ', '.join(f'{label} {value}' for label, value in pairs) or 'all'


class Repeats(Typed, frozen=True, rename='kebab'):
    """How many times each size of each combination is measured.

    Repeat r trains with seed `train_seed` + r, and draws its images with seed `select_seed` + r (or takes the first
    images if `select_seed` is None).
    """

    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    train_seed: Seed = DEFAULT_TRAIN_SEED
    select_seed: Seed | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked study.

    sources: the study file's tables [sources.NAME], by NAME; each data set is made once. threshold: the ratio at or
    above which a training set counts as memorized. document: the study file's content. where: name of the study file,
    for messages. diagnose: the options of each diagnose.py measurement, by the measurement's name. steps: maps the
    name of each combination with a search to the step that its selection requires. This step is used if the study file
    sets none (see `Sizes`).
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
    where: str = dataclasses.field(compare=False)
    diagnose: dict[str, Options] = dataclasses.field(default_factory=dict)
    steps: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def combinations(self) -> list[Combination]:
        """All combinations of factor values; a single one if there are no factors.

        For combinations that evaluate a closed form, options of train.py are left out.
        """
        result: list[Combination] = []
        for chosen in itertools.product(*(factor.values for factor in self.factors)):
            settings, sizes = self.settings, self.sizes
            for value in chosen:
                settings = settings.merged(value.changes)
                sizes = value.sizes or sizes
            if settings.denoiser is not None:
                settings = dataclasses.replace(settings, train={})
            names = {factor.name: value.name for factor, value in zip(self.factors, chosen, strict=True)}
            combination = Combination(names, tuple(factor.label for factor in self.factors), settings, sizes)
            step = self.steps.get(combination.name, 1)
            result.append(dataclasses.replace(combination, sizes=sizes.in_steps(step)))
        return result


def source_name(path: Any) -> str | None:
    """The name of the study's own data set that a path such as 'sources.dogs' refers to; None for other paths."""
    return path.removeprefix('sources.') if isinstance(path, str) and path.startswith('sources.') else None


def made_by(sources: dict[str, Options]) -> dict[str, str]:
    """Map each of the study's own data sets to the table that makes it.

    The table NAME makes the data set NAME or, if it is a split, the data sets NAME-a and NAME-b.
    """
    return {
        f'{name}{half}': name
        for name, options in sources.items()
        for half in (('-a', '-b') if options.get('selection') == 'split' else ('',))
    }


def with_tables(options: Options, sources: dict[str, Options]) -> Options:
    """Replace each value 'sources.NAME' by a dict.

    The dict maps 'path' to 'sources.NAME', and 'made-by' to the table that makes the data set.
    """
    made = made_by(sources)
    return {
        key: value if (name := source_name(value)) is None else {'path': value, 'made-by': sources[made[name]]}
        for key, value in options.items()
    }


def other_half(data: Options, sources: dict[str, Options]) -> Options | None:
    """A training set's options, with each source replaced by the other half of the same split.

    None unless every source is one half of a split.
    """
    made, changed = made_by(sources), dict(data)
    for key in ('source', 'blend'):
        if key in data:
            name = source_name(data[key])
            if name not in made or made[name] == name:
                return None
            changed[key] = f'sources.{made[name]}-{"b" if name.endswith("-a") else "a"}'
    return changed
