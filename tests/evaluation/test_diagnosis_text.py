"""Tests of the text that diagnose.py prints."""

from evaluation.diagnosis.clocks_table import comparison_lines
from evaluation.diagnosis.result_files import text_table


def test_large_numbers_in_tables_have_no_exponent():
    rows = [{'kimg': 12345.6, 'error': 0.00012345}, {'kimg': 1e6, 'error': None}]
    assert text_table(rows, {'kimg': 'kimg', 'error': 'error'}).split() == [
        *('kimg', 'error'), *('12,346', '0.0001234'), '1,000,000'
    ]  # fmt: skip


def test_large_slopes_have_no_exponent():
    found = {'tau_gen': {
        'spread_steps': 1.5, 'spread_normalized': 0.5,
        'slope': {'slope': 12345.6, 'low': 10000.0, 'high': 20000.0},
        'exponent': {'slope': 1.25, 'low': 1.0, 'high': 1.5},
    }}  # fmt: skip
    (line,) = comparison_lines(found)
    assert 'tau grows by 12,346 steps per training image (10,000 to 20,000) and scales as |D|^1.25 (1 to 1.5)' in line
