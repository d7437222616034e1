import json

import msgspec
import pytest

from dnnlib.util import UserError
from training.config import OPTIONS_FILE, read_run
from training.training_options import PRESETS, RunOptions


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'not a JSON file'),
        ('{"options": {"seed": 1}', 'not a JSON file'),
        ('[]', r'the file must be a table, not \[\]'),
        ('{"seed": 1}', 'the file lacks the key options'),
        ('{"options": [1]}', r'options must be a table, not \[1\]'),
        (
            '{"options": {"outdir": "o", "data": "d", "lr": "x"}, "world_size": 1}',
            "options.lr must be a number, not 'x'",
        ),
    ],
)
def test_damaged_options_of_a_run_are_named_in_the_error(tmp_path, text, message):
    path = tmp_path / OPTIONS_FILE
    path.write_text(text)
    with pytest.raises(UserError, match=rf'^{path}: {message}'):
        read_run(tmp_path)


def test_unknown_keys_in_a_runs_options_are_ignored(tmp_path):
    options = '{"outdir": "o", "data": "d", "seed": 5, "lr": 0.25, "of_the_future": 1}'
    network = '{"class_name": "VPPrecond", "arguments": {"img_resolution": 8, "img_channels": 1}}'
    rest = f'"options": {options}, "network": {network}, "world_size": 2'
    (tmp_path / OPTIONS_FILE).write_text(f'{{"seed": 5, {rest}}}')
    saved = read_run(tmp_path)
    assert (saved.options.seed, saved.options.lr, saved.options.batch) == (5, 0.25, 512)
    assert (saved.world_size, saved.threads) == (2, None)
    (tmp_path / OPTIONS_FILE).write_text(f'{{"seed": 5, {rest.replace("0.25", "Infinity")}}}')
    with pytest.raises(UserError, match=r'training_options\.json: options\.lr is out of range: inf'):
        read_run(tmp_path)


@pytest.mark.parametrize('preset', PRESETS)
def test_options_read_back_are_written_as_the_same_text(preset):
    text = json.dumps(msgspec.to_builtins(RunOptions(preset=preset)))
    assert json.dumps(msgspec.to_builtins(msgspec.json.decode(text, type=RunOptions))) == text
