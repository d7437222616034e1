"""Which options are given, and how they combine with a preset: in Python and on the command line."""

import dataclasses
import pickle

import msgspec
import pytest
from click.testing import CliRunner

from cli.command import command_of
from training.config import resolve
from training.dataset import DatasetInfo
from training.training_options import PRESETS, RunOptions, TrainingOptions

DIGITS = PRESETS['digits']


def parsed(*arguments: str) -> RunOptions:
    command = command_of('train', RunOptions)
    return command.main(['--outdir=o', '--data=d', *arguments], standalone_mode=False)


def test_an_option_equal_to_its_default_takes_precedence_over_the_preset():
    options = TrainingOptions(preset='digits', precond='edm', lr=1e-3)
    assert (options.precond, options.lr, options.batch) == ('edm', 1e-3, DIGITS['batch'])
    assert options.given == {'preset': 'digits', 'precond': 'edm', 'lr': 1e-3}
    on_command_line = parsed('--preset=digits', '--precond=edm', '--lr=1e-3')
    assert {name: getattr(on_command_line, name) for name in PRESETS['paper']} == {
        name: getattr(options, name) for name in PRESETS['paper']
    }
    assert on_command_line.given == options.given | {'outdir': 'o', 'data': 'd'}


@pytest.mark.parametrize('copied', [dataclasses.replace, lambda options: pickle.loads(pickle.dumps(options))])
def test_copies_keep_what_was_given(copied):
    options = TrainingOptions(preset='digits', lr=1e-3, epochs=5)
    copy = copied(options)
    assert (copy, copy.given) == (options, options.given)


def test_replaced_options_count_as_given():
    options = TrainingOptions(preset='digits', precond='edm')
    assert dataclasses.replace(options, lr=1e-3).lr == 1e-3
    assert dataclasses.replace(options, lr=1e-3).given == {'preset': 'digits', 'precond': 'edm', 'lr': 1e-3}
    other = dataclasses.replace(options, preset='paper-1gpu')
    assert (other.precond, other.lr, other.batch, other.batch_gpu) == ('edm', 2e-4, 512, 64)
    assert dataclasses.replace(other, preset=None) == TrainingOptions(precond='edm')


def test_the_network_has_the_options_that_were_given():
    info = DatasetInfo('', 'x', 10, 8, 1, 0)

    def blocks(options: TrainingOptions) -> int | None:
        return resolve(options, info).network.arguments.get('num_blocks')

    assert blocks(TrainingOptions(arch='adm', seed=0)) is None
    options = TrainingOptions(arch='adm', num_blocks=4, seed=0)
    assert blocks(options) == blocks(dataclasses.replace(options, seed=1)) == 4


def test_saved_options_are_read_back_unchanged():
    options = RunOptions(preset='digits', lr=1e-3, outdir='o')
    read = msgspec.convert(msgspec.to_builtins(options), RunOptions)
    assert (read, read.given) == (options, options.given)


def test_help_lists_only_options():
    assert '--given' not in CliRunner().invoke(command_of('train', RunOptions), ['--help']).output
