"""Builds click commands whose options are the fields of a dataclass; start with `with_options`."""

import contextlib
import dataclasses
import functools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from dnnlib import util
from dnnlib.options import REQUIRED, Option, build, options_in, spelling
from dnnlib.plugins import load_plugins
from dnnlib.util import UserError

# By default, torch's threads busy-wait for one another. On a busy machine, this makes them several times slower than a
# single thread (measured by `python -m benchmarks.threads`). torch, which is imported later, reads this variable.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# Options that name what a command works on. For other options, the last value counts, so that scripts can override them.
SUBJECTS = ('expdir', 'network', 'pipeline', 'denoiser')


def with_options(kind: type, argument: str = 'options') -> Callable[[Callable], Callable]:
    """Add the options of a dataclass to a click command, which then receives an instance of that dataclass.

    kind: the dataclass. argument: name of the keyword argument that receives the instance.
    Put `report_errors` above this decorator, because building the instance can raise UserError.
    """

    def decorate(command: Callable) -> Callable:
        names = [field.name for field, _ in options_in(kind)]

        @functools.wraps(command)
        def run(*positional: Any, **values: Any) -> Any:
            load_plugins()
            own = {name: _in_home(values.pop(name)) for name in names}
            _require(kind, own)
            if any(field.name == 'given' for field in dataclasses.fields(kind)):  # as in `TrainingOptions`
                own = {name: own[name] for name in given_arguments() & own.keys()}
            return command(*positional, **values, **{argument: build(kind, own)})

        return functools.reduce(lambda wrapped, add: add(wrapped), reversed(click_options(kind)), run)

    return decorate


def _require(kind: type, values: dict[str, Any]) -> None:
    """Raise MissingParameter if neither an option nor the option named in its `required_unless` is given."""
    for field, option in options_in(kind):
        if option.required_unless and not values[field.name] and values[option.required_unless] is None:
            command = click.get_current_context().command
            raise click.MissingParameter(param=next(p for p in command.params if p.name == field.name))


class SingleSubjectCommand(click.Command):
    """A command that refuses two values for an option in SUBJECTS, unless it takes several; click ignores the first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter, times in Counter(order).items():
            takes_one = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
            if takes_one and times > 1 and parameter.name in SUBJECTS:
                raise click.UsageError(f'{parameter.opts[0]} is given {times} times; run the command for each', ctx)
        return super().parse_args(ctx, args)


class RankedCommand(SingleSubjectCommand):
    """A command that torchrun can start on several ranks. If its options are invalid, only one rank prints the error.

    `report_errors` handles errors raised by the command's function in the same way.
    resumes: whether running the command again resumes an interrupted run; the message after Ctrl-C mentions this.
    """

    resumes = True

    def make_context(self, *arguments: Any, **values: Any) -> click.Context:
        with _reported_once():
            return super().make_context(*arguments, **values)

    def invoke(self, ctx: click.Context) -> Any:  # for a group, this also parses the sub-command's options
        with _reported_once():
            return super().invoke(ctx)


class RankedGroup(RankedCommand, click.Group):
    """A group of commands that torchrun can start on several ranks."""

    command_class = SingleSubjectCommand


@contextlib.contextmanager
def _reported_once() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if isinstance(error.__cause__, UserError) or util.first_to_report(error.format_message()):
            raise
        raise click.exceptions.Exit(error.exit_code) from error


def command_of(name: str, kind: type) -> click.Command:
    """A click command that only parses the options of a dataclass."""
    return click.command(name)(with_options(kind)(lambda options: options))


def _in_home(value: Any) -> Any:
    """Replace a leading ~ in a path by the user's home folder; the shell does not expand it in --name=~/path."""
    if isinstance(value, tuple):
        return tuple(map(_in_home, value))
    is_in_home = isinstance(value, str | Path) and str(value).startswith('~')
    return type(value)(os.path.expanduser(value)) if is_in_home else value


class IntegerRange(click.IntRange):
    """A click type for integers. If a value such as 1e3 or 1,000 is not written in digits, the message shows how to."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            int(value)
        except ValueError:
            self.fail(f'{value!r} is not an integer; give {_in_digits(value) or "one such as 20"}', param, ctx)
        return super().convert(value, param, ctx)


def _in_digits(text: str) -> str:
    """The digits of an integer that is written in another way, such as 1e3; an empty string if the text is not an integer."""
    with contextlib.suppress(ValueError):
        number = float(text.replace(',', ''))
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else ''
    return ''


class _Number(click.FloatRange):
    """A click type for floats. It refuses NaN and, unless `infinite` is set, infinite values."""

    def __init__(self, infinite: bool, **bounds: Any):
        super().__init__(**bounds)
        self.infinite = infinite

    def _describe_range(self) -> str:
        return '' if self.min is self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            float(value)
        except ValueError:
            self.fail(f'{value!r} is not a number; give one such as 0.5', param, ctx)
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f'{value} is not a finite number', param, ctx)
        return number


def given_arguments(context: click.Context | None = None) -> set[str]:
    """Return the names of the arguments that were given on the command line, rather than left at their defaults.

    context: context of the command; None means the command that is running.
    """
    context = context or click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def click_options(kind: type) -> list[Callable[[Callable], Callable]]:
    """Return decorators that add a dataclass's options to a command: required options first, then the others."""
    found = sorted(options_in(kind), key=lambda pair: not is_required(pair[1]))
    shown = {field.name: f'--{spelling(field)}' for field, _ in found}
    hints = _type_hints(kind)
    return [
        click.option(
            *_declarations(spelling(field), option),
            field.name,
            help=re.sub(r'`(\w+)`', lambda match: shown.get(match[1], match[0]), option.help),
            **_details(hints[field.name], option),
        )
        for field, option in found
    ]


def is_required(option: Option) -> bool:
    return option.default is REQUIRED or option.required_unless is not None


class Parsed(click.ParamType):
    """A click type that converts text with a parser from `dnnlib.options`."""

    def __init__(self, parse: Callable[[str], Any]):
        self.parse, self.name = parse, parse.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Registered(click.Choice[str]):
    """A choice among the keys of a registry. Plug-ins, which can add keys, are loaded only for an unknown key."""

    def __init__(self, registry: Mapping[str, Any]):
        super().__init__(registry)
        self.registry = registry

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.registry:
            try:
                load_plugins()
            except UserError as error:
                self.fail(str(error), param, ctx)
        self.choices = tuple(self.registry)
        return super().convert(value, param, ctx)


def _type_hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if 'group' in field.metadata:
            hints |= _type_hints(field.metadata['group'])
    return hints


def _declarations(name: str, option: Option) -> list[str]:
    short = [f'-{option.short}'] if option.short else []
    alias = [f'--{option.alias}'] if option.alias else []
    return [*short, f'--{name}/--no-{name}' if option.switch and option.default else f'--{name}', *alias]


def _details(hint: Any, option: Option) -> dict[str, Any]:
    """Return the keyword arguments for `click.option`. hint: type annotation of the field, such as `int | None`."""
    if type(None) in get_args(hint):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if option.switch:
        return {'default': option.default, 'show_default': bool(option.default), 'is_flag': True}
    details: dict[str, Any] = {'metavar': option.unit or '|'.join(option.choices or ()) or None}
    if option.default is REQUIRED:
        details['required'] = True
    elif option.required_unless is not None:
        details['default'] = option.default
    elif option.default is not None and option.default != ():
        details |= {'default': option.default, 'show_default': True}
    if get_origin(hint) is tuple and option.parse is None:
        details['multiple'] = True
        hint = get_args(hint)[0]
    if hint is bool:
        details |= {'is_flag': False, 'flag_value': 'true'}  # --name alone means --name=true
    return {**details, 'type': _type(hint, option)}


def _type(hint: Any, option: Option) -> Any:
    if option.parse is not None:
        return Parsed(option.parse)
    if isinstance(option.choices, Mapping):
        return _Registered(option.choices)
    if option.choices is not None:
        return click.Choice(option.choices)
    low, high = (option.least, option.above), (option.most, option.below)
    if hint is float or (hint is int and any(bound is not None for bound in (*low, *high))):
        ranges: Any = IntegerRange if hint is int else partial(_Number, option.default == math.inf)
        open_ends = {'min_open': low[1] is not None, 'max_open': high[1] is not None}
        return ranges(
            min=low[0] if low[1] is None else low[1], max=high[0] if high[1] is None else high[1], **open_ends
        )
    return click.Path(path_type=Path) if hint is Path else hint
