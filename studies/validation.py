"""Checks a study before it runs.

Options are parsed with the parsers of the commands, and each training-set size is tried with the image selection.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import click

from cli.command import command_of, given_arguments
from dataset_utils import open_source
from dataset_utils.building import Making, Plan
from dataset_utils.command_line import main as dataset_commands
from dataset_utils.rules import RULES
from dataset_utils.sources import Source
from dataset_utils.sources.base import words_of
from dnnlib.options import build, options_in, spelling
from dnnlib.util import UserError
from evaluation.evaluation_options import EvaluationOptions, check_options
from studies.commands import KINDS, resolved, selection_command
from studies.points import make_point, slug
from studies.study import Combination, Study, source_name
from training.closed_form import files_of

# These selections take equally many images of each class, so sizes must be multiples of the number of classes.
BALANCED = ('size', 'resolution', 'random-labels', 'unique-labels')
NOT_SELECTIONS = {'data': ('convert', 'info', 'split'), 'sources': ('convert', 'info')}
# The click command that parses the options of each step; for data sets, a group with a command for each selection.
PARSERS: dict[str, click.Command] = {
    'data': dataset_commands,
    'sources': dataset_commands,
    **{step: command_of(step, kind) for step, kind in KINDS.items()},
}


# The argument that names the held-out set, by step; in all other steps it is 'test'.
HELD_OUT = {'train': 'test_data', 'evaluate': 'test_set'}


class Validator:
    """Checks studies. Opened sources are kept in `opened`, so that each one is opened only once."""

    def __init__(self) -> None:
        self.opened: dict[str, Source] = {}

    def check_options(self, study: Study) -> None:
        """Raise UserError for an unknown option or an invalid value; the message names the combination and table."""
        folders: dict[str, Combination] = {}
        for combination in study.combinations:
            other = folders.setdefault(slug(combination), combination)
            if other.values != combination.values:
                raise UserError(f'{study.where}: {other.name} and {combination.name} would share a folder; rename one')
            size = combination.sizes.values[0] if combination.sizes.search is None else combination.sizes.search[1]
            place = f'{study.where}: {combination.name}: ' if combination.values else f'{study.where}: '
            for step, command in make_point(study, Path('study'), combination, size, 0).commands().items():
                part = step.removesuffix('-b')
                table = f'{place}[{f"diagnose.{part}" if part in study.diagnose else part}]'
                parsed = parse_options(part, command, table)
                if part == 'evaluate':
                    is_own = source_name(combination.settings.evaluate.get('test-ref')) is not None
                    self._check_evaluation(parsed, table, is_own)
        for name, options in study.sources.items():
            command = selection_command(options, Path('x.zip'), Path('sources'))
            parse_options('sources', command, f'{study.where}: [sources.{name}]')

    def with_steps(self, study: Study, root: Path) -> Study:
        """Check that the study's sizes are possible, and return the study with its attribute `steps` set.

        root: the study's folder, which contains its own data sets. Raises UserError if a training set
        cannot be made from its source at one of the sizes, or if the range of a search contains no allowed size.
        """
        for name, options in study.diagnose.items():
            if 'test' in options:
                place = f'{study.where}: [diagnose.{name}]'
                self._open(resolved(options, root / 'sources')['test'], 'test', place)
        steps = {
            combination.name: self._step(study, root, combination)
            for combination in study.combinations
            if combination.sizes.search is not None
        }
        study = dataclasses.replace(study, steps=steps)
        for combination in study.combinations:
            low, high = combination.sizes.search or (1, 1)
            if not 0 < low <= high:
                raise UserError(
                    f'{study.where}: {combination.name}: the search range contains no multiple of '
                    f'{combination.sizes.step}, which the selection requires; widen the range'
                )
            # If the study file sets a step that the selection does not allow, both ends of the range can still be
            # valid. Therefore, the size one step above the lower end is checked, too.
            for size in combination.sizes.values or sorted({low, min(low + (combination.sizes.step or 1), high), high}):
                self._check_size(study, root, combination, size)
        return study

    def _selection(self, study: Study, root: Path, combination: Combination, size: int) -> tuple[str, dict[str, Any]]:
        command = make_point(study, root, combination, size, 0).commands()['data']
        return command[2], parse_options('data', command, combination.name).values

    def _step(self, study: Study, root: Path, combination: Combination) -> int:
        assert combination.sizes.search is not None
        selection, choices = self._selection(study, root, combination, combination.sizes.search[1])
        if selection not in BALANCED:
            return 1
        return len(set(self._open(choices['source'], 'source', f'{study.where}: [data]').labels or [0]))

    def planned(self, study: Study, root: Path, combination: Combination, size: int) -> tuple[Plan, tuple[int, ...]]:
        """Return a training set's plan and its image shape [H, W, C]. Raises UserError if the set cannot be made."""
        selection, choices = self._selection(study, root, combination, size)
        choices = {key: choice for key, choice in choices.items() if key not in ('dest', 'overwrite')}
        for key in ('source', 'blend'):
            if key in choices:
                choices[key] = self._open(choices[key], key, f'{study.where}: [data]')
        try:
            plan = RULES[selection](**choices)
            image, _ = next(iter(Making(plan)))
        except UserError as error:
            text = re.sub(r'`(\w+)`', lambda match: match[1].replace('_', '-'), str(error))
            raise UserError(f'{study.where}: {combination.name}, {size} images: {text}') from error
        return plan, image.shape

    def _check_size(self, study: Study, root: Path, combination: Combination, size: int) -> None:
        plan, shape = self.planned(study, root, combination, size)
        place, labels = f'{study.where}: {combination.name}, {size} images', plan.labels
        commands = make_point(study, root, combination, size, 0).commands()
        for step, command in commands.items():
            self._check_held_out(step.removesuffix('-b'), command, shape, place)
        train = commands.get('train')
        conditional = train is None or parse_options('train', train, place).values['cond']
        chosen = parse_options('evaluate', commands['evaluate'], place).values['class_index']
        if chosen is not None and not conditional:
            raise UserError(f'{place}: class = {chosen} in [evaluate] requires cond = true in [train]')
        if chosen is not None and chosen not in (labels or []):
            raise UserError(f'{place}: class = {chosen} in [evaluate]: no training image has this class')

    def _check_held_out(self, part: str, command: list[str], shape: tuple[int, ...], place: str) -> None:
        """Raise UserError if a command's held-out images differ in shape from the training images.

        shape: shape [H, W, C] of the training images. For an evaluation, C can differ, because mem_ratio.py
        converts the images.
        """
        argument = HELD_OUT.get(part, 'test')
        path = None if part == 'data' else parse_options(part, command, place).values.get(argument)
        if path is None:
            return
        found = self._open(path, argument, f'{place}: [{part}]').shape
        if found[:2] != shape[:2] or (part != 'evaluate' and found != shape):
            raise UserError(
                f'{place}: the held-out images in {path} are {words_of(found)}, but training images are '
                f'{words_of(shape)}; give held-out images with the same shape'
            )

    @staticmethod
    def _check_evaluation(parsed: 'ParsedOptions', where: str, is_own: bool) -> None:
        """Raise UserError for evaluation options that mem_ratio.py would reject before reading images.

        is_own: whether the held-out set is one of the study's own data sets, whose file might not exist yet.
        """
        options = build(EvaluationOptions, parsed.values)
        try:
            check_options(options, parsed.given)
            if options.test_set is not None and not is_own:
                open_source(options.test_set, 'test_set')
            for path in files_of(options.denoiser) if options.denoiser is not None else []:
                if not path.is_file():
                    raise UserError(f'`denoiser`={options.denoiser}: the file {path} does not exist')
        except UserError as error:
            names = {field.name: spelling(field) for field, _ in options_in(EvaluationOptions)}
            text = re.sub(r'`(\w+)`', lambda match: names.get(match[1], match[0]), str(error))
            raise UserError(f'{where}: {text}') from error

    def _open(self, path: str, argument: str, place: str) -> Source:
        """Open the images at a path. argument: the option that gives the path. place: start of error messages."""
        if path not in self.opened:
            try:
                self.opened[path] = open_source(path, argument)
            except UserError as error:
                raise UserError(f'{place}: ' + re.sub(r'`(\w+)`=', r'\1=', str(error))) from error
        return self.opened[path]


@dataclasses.dataclass(frozen=True)
class ParsedOptions:
    """A parsed command. values: the options' values, by argument name, including defaults. given: the names of the
    arguments that the command line set."""

    values: dict[str, Any]
    given: set[str]

    @property
    def given_values(self) -> dict[str, Any]:
        return {name: self.values[name] for name in self.given}


def parse_options(part: str, command: list[str], where: str) -> ParsedOptions:
    """Parse a command's options as its script would. where: start of error messages. Raises UserError."""
    parser, words = PARSERS[part], [word for word in command if word.startswith('--')]
    context = click.Context(parser)
    if isinstance(parser, click.Group):
        name = command[2]
        known = sorted(set(parser.list_commands(context)) - set(NOT_SELECTIONS[part]))
        if name not in known:
            raise UserError(f'{where}: unknown selection = {name!r}; choose one of {", ".join(known)}')
        found = parser.get_command(context, name)
        assert found is not None
        parser = found
    try:
        context = parser.make_context(command[0], words)
    except click.UsageError as error:
        raise UserError(f'{where}: {error.format_message()}') from error
    return ParsedOptions(context.params, given_arguments(context))
