"""Typed options: dataclasses whose fields declare a help text, unit and range; and parsers for strings such as '0-63'.

A field is declared in one line, `batch_size: int = option(64, 'Images per step.', name='batch', unit='INT', least=1)`.
Command lines and study files are derived from these dataclasses; Python code uses them directly.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

REQUIRED = dataclasses.MISSING
# A longer list of seeds might not fit in memory.
_MAX_SEEDS = 100_000_000
# Random number generators take seeds modulo this number.
_SEEDS_END = 1 << 32


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field of an options dataclass declares in addition to its type.

    help: one sentence, in which other fields are named in backticks. default: the default as declared, before parsing.
    name: name on command lines and in files; None means the field's name with dashes instead of underscores.
    unit: placeholder for the value in the help, such as INT. least, most: inclusive bounds. above, below: exclusive
    bounds. choices: the allowed strings; if they are the keys of a registry, plug-ins can add more. parse: function
    that converts a string to the value; if this fails, it raises ValueError with the reason. switch: whether the option
    is a flag, which takes no value. short: one-letter name. alias: second name. required_unless: name of a field; this
    option is required unless that field is given.
    """

    help: str
    default: Any
    name: str | None = None
    unit: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Collection[str] | None = None
    parse: Callable[[str], Any] | None = None
    switch: bool = False
    short: str | None = None
    alias: str | None = None
    required_unless: str | None = None


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare an option as a dataclass field.

    default: REQUIRED, a value, or a string for `parse`. details: the other attributes of `Option`.
    """
    described = Option(help, default, **details)
    metadata = {'option': described}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    if described.parse is not None and isinstance(default, str):
        parse = described.parse
        return dataclasses.field(default_factory=lambda: parse(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group(kind: type) -> Any:
    """Declare a field whose value is another options dataclass; its options also belong to the outer dataclass."""
    return dataclasses.field(default_factory=kind, metadata={'group': kind})


def options_in(kind: type) -> Iterator[tuple[dataclasses.Field, Option]]:
    """Yield each field that is an option, with its `Option`, in order; the options of groups are included."""
    for field in dataclasses.fields(kind):
        if 'group' in field.metadata:
            yield from options_in(field.metadata['group'])
        elif 'option' in field.metadata:
            yield field, field.metadata['option']


def spelling(field: dataclasses.Field) -> str:
    """An option's name on command lines and in files, such as 'batch' or 'knn-ref'."""
    return field.metadata['option'].name or field.name.replace('_', '-')


def build(kind: type, values: dict[str, Any]) -> Any:
    """Make an instance of an options dataclass, including its groups, from a dict that maps field names to values."""
    arguments = {}
    for field in dataclasses.fields(kind):
        if 'group' in field.metadata:
            arguments[field.name] = build(field.metadata['group'], values)
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return kind(**arguments)


def check_values(options: Any) -> None:
    """Raise ValueError if a value in `options` is out of range, or is not one of the option's choices."""
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
            raise ValueError(f'{field.name} is out of range: {value!r}')


def integer_list(text: str) -> list[int]:
    """Parse comma-separated integers, such as '1,0,2'. An empty string gives an empty list."""
    try:
        return [int(part) for part in text.split(',')] if text.strip() else []
    except ValueError:
        raise ValueError(f'{text!r} is not a list of integers; give one such as 1,2,2') from None


def word_list(text: str) -> list[str]:
    """Parse comma-separated words."""
    found = [word.strip() for word in text.split(',')]
    if not all(found):
        raise ValueError(f'{text!r} contains an empty item; remove the extra comma')
    return found


def seed_list(text: str) -> list[int]:
    """Parse comma-separated seeds and ranges of seeds, such as '0,1,5-10'. No seed may occur twice."""
    found: list[int] = []
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
        if match is None:
            raise ValueError(f'{part!r} is neither a seed nor a range of seeds; give one such as 7 or 0-63')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f'the range {part} is empty; give the smaller seed first')
        if last >= _SEEDS_END:
            raise ValueError(f'{last} is too large; seeds wrap modulo 2^32, so give at most {_SEEDS_END - 1}')
        if last - first >= _MAX_SEEDS:
            raise ValueError(f'the range {part} has more than {_MAX_SEEDS} seeds; give a shorter one')
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise ValueError('a seed is given twice, which would generate the same image twice; remove the duplicate')
    return found


def number_pair(text: str) -> tuple[float, float]:
    """Parse two finite numbers, the lower one first, such as '-1,1'."""
    try:
        low, high = map(float, text.split(','))
    except ValueError:
        raise ValueError(f'{text!r} is not a pair of numbers; give one such as -1,1') from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f'{text!r} is not a range; give the lower number first')
    return low, high


def size_range(text: str) -> list[int]:
    """Parse two positive sizes, the smaller one first, such as '500-20000'."""
    low, _, high = text.partition('-')
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) < int(high)):
        raise ValueError(f'{text!r} is not a range of sizes; give one such as 500-20000')
    return [int(low), int(high)]


def resolution(text: str) -> tuple[int, int]:
    """Parse a width and height in pixels, such as '32x32'."""
    match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', text)
    if not match:
        raise ValueError(f'{text!r} is not a width and height in pixels; give both, such as 32x32')
    return int(match[1]), int(match[2])


def square_resolution(text: str) -> tuple[int, int]:
    """Parse a width and height in pixels that must be equal."""
    width, height = resolution(text)
    if width != height:
        raise ValueError(f'{width}x{height} is not square; give {width}x{width}')
    return width, height
