import pytest

from dnnlib.util import UserError
from training.config import OPTIONS_FILE, read_options


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'not a JSON file'),
        ('{"options": {"seed": 1}', 'not a JSON file'),
        ('[]', r'the file must be a table, not \[\]'),
        ('{"seed": 1}', 'the file lacks the key options'),
        ('{"options": [1]}', r'options must be a table, not \[1\]'),
    ],
)
def test_damaged_options_of_a_run_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / OPTIONS_FILE
    path.write_text(text)
    with pytest.raises(UserError, match=rf'^{path}: {message}'):
        read_options(tmp_path)


def test_options_of_a_run_are_read_next_to_other_keys(tmp_path):
    (tmp_path / OPTIONS_FILE).write_text('{"seed": 5, "options": {"seed": 5, "lr": Infinity}}')
    assert read_options(tmp_path) == {'seed': 5, 'lr': float('inf')}
