"""Typed options: dataclasses whose fields carry their help, unit and range, and parsers for texts such as '0-63'.

A field is declared in one line, `batch_size: int = option(64, 'Images per step.', name='batch', unit='INT', least=1)`.
Command lines and study files are derived from such dataclasses; Python code uses them as they are.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

REQUIRED = dataclasses.MISSING
# Longer lists of seeds would not fit in memory as a list.
_MAX_SEEDS = 100_000_000
# Random number generators take seeds modulo this number.
_SEEDS_END = 1 << 32


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field of an options dataclass carries in addition to its type.

    help: one sentence; other fields are named in backticks. name: on a command line and in files, if it differs from
    the field's name with dashes. unit: a few letters for the help. least, most, above, below: bounds, the latter two
    exclusive. choices: the allowed texts. parse: makes the value from a text, and raises ValueError with the reason.
    switch: a bool that is given without a value. short: a name of one letter. alias: a second name. required_unless: a
    field without which this one is needed.
    default: as it was declared, before parsing.
    """

    help: str
    default: Any
    name: str | None = None
    unit: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None
    switch: bool = False
    short: str | None = None
    alias: str | None = None
    required_unless: str | None = None


def option(default: Any, help: str, **details: Any) -> Any:
    """A dataclass field with an `Option`. default: REQUIRED, a value, or a text for `parse`. details: see `Option`."""
    described = Option(help, default, **details)
    metadata = {'option': described}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    if described.parse is not None and isinstance(default, str):
        parse = described.parse
        return dataclasses.field(default_factory=lambda: parse(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group(kind: type) -> Any:
    """A dataclass field whose value is another options dataclass; its options count as options of the outer one."""
    return dataclasses.field(default_factory=kind, metadata={'group': kind})


def options_in(kind: type) -> Iterator[tuple[dataclasses.Field, Option]]:
    """The fields that are options, in order, including the fields of groups."""
    for field in dataclasses.fields(kind):
        if 'group' in field.metadata:
            yield from options_in(field.metadata['group'])
        elif 'option' in field.metadata:
            yield field, field.metadata['option']


def spelling(field: dataclasses.Field) -> str:
    """The name of an option outside Python: 'batch', 'knn-ref'."""
    return field.metadata['option'].name or field.name.replace('_', '-')


def build(kind: type, values: dict[str, Any]) -> Any:
    """An options dataclass, and its groups, from values by field name."""
    arguments = {}
    for field in dataclasses.fields(kind):
        if 'group' in field.metadata:
            arguments[field.name] = build(field.metadata['group'], values)
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return kind(**arguments)


def check_values(options: Any) -> None:
    """Raise ValueError for a value that its option cannot have. options: with values that no parser has checked."""
    for field, option in options_in(type(options)):
        value = getattr(options, field.name, None)
        if option.choices is not None and value is not None and value not in option.choices:
            raise ValueError(f'{field.name} must be one of {", ".join(option.choices)}, not {value!r}')
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        is_within = (
            (abs(value) <= sys.float_info.max or (value == math.inf and option.default == math.inf))
            and (option.least is None or value >= option.least)
            and (option.most is None or value <= option.most)
            and (option.above is None or value > option.above)
            and (option.below is None or value < option.below)
        )
        if not is_within:
            raise ValueError(f'{field.name} cannot be {value!r}')


def integer_list(text: str) -> list[int]:
    """Comma-separated integers: '1,0,2'. An empty text is an empty list."""
    try:
        return [int(part) for part in text.split(',')] if text.strip() else []
    except ValueError:
        raise ValueError(f'{text!r} is not a list of integers such as 1,2,2') from None


def word_list(text: str) -> list[str]:
    """Comma-separated words."""
    found = [word.strip() for word in text.split(',')]
    if not all(found):
        raise ValueError(f'{text!r} has an empty part')
    return found


def seed_list(text: str) -> list[int]:
    """Comma-separated integers and ranges, none of them twice: '0,1,5-10'."""
    found: list[int] = []
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
        if match is None:
            raise ValueError(f'{part!r} is neither a seed nor a range of seeds such as 0-63')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f'the range {part} is empty; give the smaller seed first')
        if last >= _SEEDS_END:
            raise ValueError(f'{last} is too large; seeds from {_SEEDS_END} on repeat the images of smaller ones')
        if last - first >= _MAX_SEEDS:
            raise ValueError(f'the range {part} has more than {_MAX_SEEDS} seeds')
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise ValueError('a seed is given twice; each gives the same image again')
    return found


def number_pair(text: str) -> tuple[float, float]:
    """Two finite numbers, the lower one first: '-1,1'."""
    try:
        low, high = map(float, text.split(','))
    except ValueError:
        raise ValueError(f'{text!r} is not two numbers such as -1,1') from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f'{text!r} is not a range; give the lower number first')
    return low, high


def size_range(text: str) -> list[int]:
    """Two positive sizes, the smaller one first: '500-20000'."""
    low, _, high = text.partition('-')
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) < int(high)):
        raise ValueError(f'{text!r} is not a range of sizes; write it like 500-20000')
    return [int(low), int(high)]


def resolution(text: str) -> tuple[int, int]:
    """A width and height in pixels: '32x32'."""
    match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', text)
    if not match:
        raise ValueError(f'{text!r} is not a width and height in pixels; write it like 32x32')
    return int(match[1]), int(match[2])


def square_resolution(text: str) -> tuple[int, int]:
    """A width and an equal height in pixels."""
    width, height = resolution(text)
    if width != height:
        raise ValueError(f'{width}x{height} is not square; write it like {width}x{width}')
    return width, height
