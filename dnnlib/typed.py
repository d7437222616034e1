"""Reads files into typed records, which are subclasses of `Typed` with a field for each key in the file.

    class Sizes(Typed, frozen=True):
        values: list[Annotated[int, Meta(ge=1)]]

    parse_json(path.read_bytes(), Sizes, str(path))

Types, ranges (`msgspec.Meta`), missing keys and unknown keys are checked; the UserError names the file, table and key.
To check several fields together, define a `__post_init__` that raises ValueError.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dnnlib.options import check_values
from dnnlib.util import UserError

T = TypeVar('T')
_SMALL = 1 << 20  # invalid JSON of at most this many bytes is parsed again for a better error message
_KINDS = {
    'int': 'a whole number',
    'float': 'a number',
    'str': 'a string',
    'bool': 'true or false',
    'array': 'a list',
    'object': 'a table',
    'null': 'null',
}
_LIMITS = {
    'length >=': 'length at least',
    'length <=': 'length at most',
    '>=': 'of at least',
    '<=': 'of at most',
    '>': 'above',
    '<': 'below',
}


class Typed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of records read from files. Subclasses repeat `frozen=True` for type checkers.

    With `rename='kebab'`, the keys in the file are written with dashes.
    """


def parse_json(data: bytes | str, kind: type[T], where: str) -> T:
    """Parse JSON as `kind`. where: name of the file, for messages. Raises UserError.

    Parsing stops at the first value of the wrong type, so a large file of wrong values does not fill the memory.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        if len(data) > _SMALL:
            raise UserError(f'{where}: not a valid file ({error})') from error
    try:
        # msgspec failed. Python's json also accepts NaN and Infinity, and `parse` names the key in every message.
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # also raised for too many digits or nesting levels
        raise UserError(f'{where}: not a JSON file ({error})') from error
    return parse(content, kind, where)


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a JSON file as `kind`; None if it does not exist or is damaged."""
    try:
        return parse_json(path.read_bytes(), kind, str(path))
    except (OSError, UserError):
        return None


def parse(content: Any, kind: type[T], where: str) -> T:
    """Convert plain values (dicts, lists, numbers, strings) to `kind`. where: name of the file, for messages.

    Raises UserError, such as 'a.toml: sizes.values[1] must be a whole number of at least 1, not 0'.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(' - at `$')
        raise UserError(f'{where}: {_sentence(problem, content, _keys(content, kind, place), kind)}') from error


def shown(value: Any, longest: int = 60) -> str:
    """Format a value for a message, with at most about `longest` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers with more than a few thousand digits
        return 'a number with thousands of digits'
    return text if len(text) <= longest else f'{text[:longest]}…'


def _keys(content: Any, kind: Any, place: str) -> list[str | int]:
    """Split the place of an error, such as '.factors[...].values[0]', into keys and indices.

    msgspec writes '[...]' instead of a dict's key, so the key is found by trying each key of the dict.
    """
    keys: list[str | int] = []
    value = content
    for field, index in re.findall(r'\.([^.[`]+)|\[(\d+|\.\.\.)]', place):
        if index == '...':  # find the key whose value alone causes the error
            errors = {key: _error(_with_value(content, keys, {key: item}), kind) for key, item in value.items()}
            field = next((key for key, error in errors.items() if error.endswith(place)), None)
            if field is None:
                return keys
        keys.append(field or int(index))
        value = value[keys[-1]]
    return keys


def _error(content: Any, kind: Any) -> str:
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        return str(error)
    return ''


def _with_value(content: Any, keys: list[str | int], value: Any) -> Any:
    """A copy of the content with `value` at the place given by `keys`."""
    if not keys:
        return value
    items: Any = list(content) if isinstance(content, list) else dict(content)
    items[keys[0]] = _with_value(items[keys[0]], keys[1:], value)
    return items


def _sentence(problem: str, content: Any, keys: list[str | int], kind: Any) -> str:
    value = content
    for key in keys:
        value = value[key]
    name = ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in keys).removeprefix('.')
    if match := re.fullmatch(r'Object contains unknown field `(.*)`', problem):
        known = [] if keys else difflib.get_close_matches(match[1], getattr(kind, '__struct_encode_fields__', ()), 1)
        return f'{name or "the file"} has an unknown key, {match[1]}{f"; did you mean {known[0]}?" if known else ""}'
    if match := re.fullmatch(r'Object missing required field `(.*)`', problem):
        return f'{name or "the file"} lacks the key {match[1]}'
    if match := re.fullmatch(r'Expected `(.*?)`(.*?)(, got .*)?', problem):
        kinds = ' or '.join(_KINDS.get(word, word) for word in match[1].split(' | '))
        limit = re.sub('(length )?[<>]=?', lambda found: _LIMITS[found[0]], match[2])
        return f'{name or "the file"} must be {kinds}{limit}, not {shown(value)}'
    return f'{name}: {problem}' if name else problem


def checked_options(options: Any, kind: type[T], argument: str) -> T:
    """Options that Python code made, with NumPy's numbers converted to Python's.

    argument: the argument that gave them, for messages.
    Raises UserError if they are not of this kind, or if a value has the wrong type or is out of range.
    """
    if not isinstance(options, kind):
        raise UserError(f'`{argument}` must be {kind.__name__}, not {type(options).__name__}')
    found = parse(_plain(vars(options)), kind, f'`{argument}`')
    try:
        check_values(found)
    except ValueError as error:
        raise UserError(f'`{argument}`: {error}') from error
    return found


def _plain(value: Any) -> Any:
    """Convert NumPy's numbers and arrays to Python's numbers and lists, also inside lists and dicts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, 'tolist') else value
