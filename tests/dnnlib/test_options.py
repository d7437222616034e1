from dataclasses import dataclass, fields

import pytest

from dnnlib.options import (
    REQUIRED,
    build,
    group,
    integer_list,
    number_pair,
    option,
    options_in,
    resolution,
    seed_list,
    size_range,
    spelling,
    square_resolution,
    word_list,
)


@pytest.mark.parametrize(
    ('parse', 'text', 'value'),
    [
        (seed_list, '3,0-2,10', [3, 0, 1, 2, 10]),
        (integer_list, '1,0,2', [1, 0, 2]),
        (integer_list, '', []),
        (word_list, 'a, b', ['a', 'b']),
        (number_pair, '-1,1', (-1.0, 1.0)),
        (size_range, '500-20000', [500, 20000]),
        (resolution, '32x16', (32, 16)),
        (square_resolution, '8x8', (8, 8)),
    ],
)
def test_texts_are_parsed_into_values(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ('parse', 'text'),
    [
        *((seed_list, text) for text in ('', '3-1', '1,1', 'a', '-1', '0-999999999')),
        *((integer_list, text) for text in ('1,x', '1.5')),
        *((word_list, text) for text in ('', 'a,,b')),
        *((number_pair, text) for text in ('1', '1,1', '2,1', '0,inf', 'a,b')),
        *((size_range, text) for text in ('5', '5-5', '0-5', '9-5', 'a-b')),
        *((resolution, text) for text in ('32', '0x8', '8x', '100000x1')),
        (square_resolution, '8x16'),
    ],
)
def test_invalid_texts_are_refused(parse, text):
    with pytest.raises(ValueError, match=r'.'):
        parse(text)


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = option(3, 'Depth.')


@dataclass(frozen=True, kw_only=True)
class Outer:
    data: str = option(REQUIRED, 'Data.')
    batch_size: int = option(8, 'Images.', name='batch')
    test_ref: list[int] = option('0-2', 'Seeds.', parse=seed_list)
    inner: Inner = group(Inner)
    note: str = 'not an option'


def test_a_dataclass_of_options_has_the_same_defaults_in_python():
    assert Outer(data='x') == Outer(data='x', batch_size=8, test_ref=[0, 1, 2], inner=Inner(depth=3))
    with pytest.raises(TypeError):
        Outer()


def test_options_of_a_nested_group_belong_to_the_outer_dataclass():
    assert [spelling(field) for field, _ in options_in(Outer)] == ['data', 'batch', 'test-ref', 'depth']
    assert build(Outer, {'data': 'x', 'depth': 5}) == Outer(data='x', inner=Inner(depth=5))
    assert 'note' in {field.name for field in fields(Outer)}
