import click
import pytest
from click.testing import CliRunner

from dnnlib.cli import IntList, Seeds, sampler_keywords, sampler_options


def test_seeds_are_numbers_and_ranges():
    assert Seeds().convert('3,0-2,10', None, None) == [3, 0, 1, 2, 10]


@pytest.mark.parametrize('text', ['', '3-1', '1,1', 'a', '-1', '0-999999999'])
def test_seeds_that_make_no_sense_are_refused(text):
    with pytest.raises(click.BadParameter):
        Seeds().convert(text, None, None)


def test_lists_of_integers():
    assert IntList().convert('1,0,2', None, None) == [1, 0, 2]
    assert IntList().convert('', None, None) == []
    with pytest.raises(click.BadParameter):
        IntList().convert('1,x', None, None)


@pytest.mark.parametrize('arguments', [['--sigma_min=2', '--sigma_max=1'], ['--S_min=2', '--S_max=1'], ['--steps=1']])
def test_sampler_options_that_do_not_fit_are_refused(arguments):
    @click.command()
    @sampler_options
    def command(**options):
        sampler_keywords(options)

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert arguments[0].split('=')[0] in result.stderr
