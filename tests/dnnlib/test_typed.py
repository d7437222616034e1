import tracemalloc
from typing import Annotated, Any

import pytest
from msgspec import Meta

from dnnlib.typed import Typed, parse, parse_json, read_json
from dnnlib.util import UserError


class Sizes(Typed, frozen=True, rename='kebab'):
    values: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1)] | None = None
    search_range: tuple[int, int] | None = None
    tolerance: Annotated[float, Meta(gt=0, lt=1)] = 0.5

    def __post_init__(self) -> None:
        if self.values and self.search_range:
            raise ValueError('give either values or search-range')


class Study(Typed, frozen=True):
    title: str
    sizes: Sizes = Sizes()
    factors: dict[str, dict[str, Sizes]] = {}
    options: dict[str, int | str | list[int]] = {}
    anything: dict[str, Any] = {}


def test_a_file_is_read_as_a_typed_record():
    content = {
        'sizes': {'search-range': [1, 2]},
        'factors': {'width': {'8': {'tolerance': 0.25}}},
        'options': {'x': [1]},
    }
    study = parse({'title': 'a', **content}, Study, 'a.toml')
    assert study == Study('a', Sizes(search_range=(1, 2)), {'width': {'8': Sizes(tolerance=0.25)}}, {'x': [1]})
    assert parse_json('{"title": "a", "anything": {"x": [null]}}', Study, 'a.json').sizes.tolerance == 0.5


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'titel': 1}, 'the file has an unknown key, titel; did you mean title?'),
        ({}, 'the file lacks the key title'),
        ([], r'the file must be a table, not \[\]'),
        ({'title': 1}, 'title must be a string, not 1'),
        ({'sizes': {'values': [1, 0]}}, r'sizes\.values\[1\] must be a whole number of at least 1, not 0'),
        ({'sizes': {'values': []}}, r'sizes\.values must be a list of length at least 1, not \[\]'),
        ({'sizes': {'values': True}}, r'sizes\.values must be a list or null, not True'),
        ({'sizes': {'search-range': [1]}}, r'sizes\.search-range must be a list of length 2, not \[1\]'),
        ({'sizes': {'tolerance': 1.0}}, r'sizes\.tolerance must be a number below 1\.0, not 1\.0'),
        ({'sizes': {'tolerance': float('nan')}}, r'sizes\.tolerance must be a number above 0\.0, not nan'),
        ({'sizes': {'values': [1], 'search-range': [1, 2]}}, r'sizes: give either values or search-range'),
        ({'factors': {'a': {'b': {}}, 'c': {'d': {}, 'e.f': {'x': 1}}}}, r'factors\.c\.e\.f has an unknown key, x'),
        ({'options': {'x': 1, 'y': [1, 'z']}}, r"options\.y\[1\] must be a whole number, not 'z'"),
        ({'title': 10**5000}, 'title must be a string, not a number with thousands of digits'),
        ({'options': {'x': {'y' * 99: 1}}}, r"options\.x must be .*, not {'y{58}…$"),
    ],
)
def test_errors_name_the_file_the_table_and_the_key(content, message):
    document = {'title': 'a', **content} if content and 'titel' not in content else content
    with pytest.raises(UserError, match=f'^a.toml: {message}'):
        parse(document, Study, 'a.toml')


@pytest.mark.parametrize('text', ['', '{', '[' * 100_000, '9' * 5000, '\x00'])
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(UserError, match='a: not a JSON file'):
        parse_json(text, Study, 'a')


def test_infinity_in_json_is_read():
    record = parse_json('{"title": "a", "anything": {"x": Infinity}}', Study, 'a')
    assert record.anything == {'x': float('inf')}


def test_a_large_file_of_wrong_values_is_refused_at_the_first_one():
    data = b'{"title": "a", "options": {"x": [' + b'[],' * 5_000_000 + b'0]}}'
    tracemalloc.start()
    with pytest.raises(UserError, match=r'a: not a valid file \(Expected `int`, got `array`'):
        parse_json(data, Study, 'a')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(UserError, match='a: not a JSON file'):
        parse_json(b'\xff\xfe\xff', Study, 'a')


def test_a_file_that_is_missing_or_damaged_is_read_as_none(tmp_path):
    path = tmp_path / 'a.json'
    assert read_json(path, Study) is None
    for text in ('', '{"title": 1}', '[]'):
        path.write_text(text)
        assert read_json(path, Study) is None
    path.write_text('{"title": "a"}')
    assert read_json(path, Study) == Study('a')
