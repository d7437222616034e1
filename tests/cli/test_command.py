from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.command import RankedCommand, RankedGroup, given_arguments, with_options
from dnnlib.options import REQUIRED, integer_list, option
from dnnlib.util import ArgumentError, report_errors
from training.sampler_options import SamplerOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    data: Path = option(REQUIRED, 'Training set.', unit='ZIP|DIR')
    batch_size: int = option(64, 'Images per step, of `data`.', name='batch', unit='INT', least=1)
    rate: float = option(0.5, 'Rate.', unit='FLOAT', above=0, below=1)
    kind: str | None = option(None, 'Kind.', choices=('a', 'b'))
    widths: list[int] = option('16', 'Widths.', unit='LIST', parse=integer_list)
    images: tuple[str, ...] = option((), 'Images.', unit='DIR')
    cond: bool = option(False, 'Classes.', unit='BOOL')
    save: bool = option(True, 'Save.', switch=True)
    dry_run: bool = option(False, 'Stop.', switch=True, short='n')

    def __post_init__(self):
        if self.batch_size == 13:
            raise ArgumentError('`batch_size`=13 brings bad luck')


def run(*arguments):
    """Run a command; return its options and the names of the arguments given, or its error message."""
    seen = []

    @click.command()
    @report_errors
    @with_options(Options)
    def command(options):
        seen.extend([options, given_arguments()])

    result = CliRunner().invoke(command, arguments)
    return seen if result.exit_code == 0 else (result.exit_code, result.stderr)


def test_a_command_receives_the_dataclass_of_its_options():
    options, given = run(
        '--data=x', '--batch=3', '--widths=1,2', '--images=a', '--images=b', '--cond=1', '-n', '--no-save'
    )
    assert options == Options(
        data=Path('x'), batch_size=3, widths=[1, 2], images=('a', 'b'), cond=True, dry_run=True, save=False
    )
    assert given == {'data', 'batch_size', 'widths', 'images', 'cond', 'dry_run', 'save'}


def test_defaults_are_the_same_on_the_command_line_and_in_python():
    assert run('--data=x')[0] == Options(data=Path('x'))


@pytest.mark.parametrize('arguments', [[], ['--batch=0'], ['--rate=0'], ['--rate=1'], ['--kind=c'], ['--widths=x']])
def test_values_outside_the_ranges_are_refused(arguments):
    status, message = run(*arguments, *(['--data=x'] if arguments else []))
    assert status == 2
    assert (arguments[0].split('=')[0] if arguments else '--data') in message


@pytest.mark.parametrize(
    ('value', 'remedy'),
    [('1e3', '1000'), ('1,000', '1000'), ('64.0', '64'), ('1.5', 'one such as 20'), ('1e999', 'one such as 20'),
     ('many', 'one such as 20'), ('nan', 'one such as 20')],
)  # fmt: skip
def test_an_integer_that_is_not_written_in_digits_is_refused_with_a_remedy(value, remedy):
    status, message = run('--data=x', f'--batch={value}')
    assert status == 2
    assert f"Invalid value for '--batch': {value!r} is not an integer; give {remedy}\n" in message
    assert "'--rate': '0,5' is not a number; give one such as 0.5\n" in run('--data=x', '--rate=0,5')[1]


def test_an_error_about_arguments_names_them_as_options():
    status, message = run('--data=x', '--batch=13')
    assert status == 2
    assert '--batch=13 brings bad luck' in message


def test_help_shows_options_defaults_and_ranges():
    @click.command()
    @with_options(Options)
    def command(options):
        pass

    text = CliRunner().invoke(command, ['--help'], terminal_width=100).output
    assert '--batch INT' in text
    assert 'Images per step, of --data.  [default: 64; x>=1]' in text
    assert '--kind a|b' in text
    assert '--save / --no-save' in text


@pytest.mark.parametrize('arguments', [['--sigma_min=2', '--sigma_max=1'], ['--S_min=2', '--S_max=1'], ['--steps=1']])
def test_contradictory_sampler_options_are_refused(arguments):
    @click.command()
    @report_errors
    @with_options(SamplerOptions)
    def command(options):
        pass

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert arguments[0].split('=')[0] in result.stderr


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
@pytest.mark.parametrize('name', ['sigma_min', 'S_noise', 'rho', 'S_max'])
def test_numbers_that_are_not_finite_are_refused_unless_the_limit_may_be_infinite(name, value):
    @click.command()
    @with_options(SamplerOptions)
    def command(options):
        pass

    result = CliRunner().invoke(command, [f'--{name}={value}'])
    assert result.exit_code == (0 if (name, value) == ('S_max', 'inf') else 2)


def test_a_path_that_starts_with_a_tilde_is_expanded(monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')

    @click.command()
    @with_options(Options)
    def command(options):
        click.echo(f'{options.data} {options.images}')

    result = CliRunner().invoke(command, ['--data=~/a.zip', '--images=~/b', '--images=c~'])
    assert result.output == "/home/me/a.zip ('/home/me/b', 'c~')\n"


@pytest.mark.parametrize('parent', [None, RankedGroup('group')])
def test_an_interrupted_command_says_that_it_can_be_resumed(parent):
    @click.command(cls=click.Command if parent else RankedCommand)
    @report_errors
    def command():
        raise KeyboardInterrupt

    if parent:
        parent.add_command(command, 'command')
    result = CliRunner().invoke(parent or command, ['command'] if parent else [])
    assert (result.exit_code, result.stderr) == (130, 'Interrupted; the same command resumes.\n')
