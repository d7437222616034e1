"""The command line is frozen: the help of every command must equal its text in tests/help.

After an intended change, renew the texts with `RENEW_HELP=1 python -m pytest tests/test_help.py`.
"""

import importlib
import os
import re

import click
import pytest
from click.testing import CliRunner

from tests.helpers import ROOT
from tests.shell import commands_of, our_command, parse

HELP = ROOT / 'tests' / 'help'
SCRIPTS = {
    'train': 'train',
    'generate': 'generate',
    'mem_ratio': 'mem_ratio',
    'dataset_tool': 'dataset_tool',
    'generate_optim': 'generate_optim',
    'dataset_utils': 'dataset_utils.command_line',
    'snapshot_tool': 'snapshot_tool',
    'emm': 'emm',
    'diagnose': 'diagnose',
    'fid': 'fid',
    'evaluation.features': 'evaluation.features.__main__',
}
# Commands whose help has no example.
WITHOUT_EXAMPLES = ('snapshot_tool', 'snapshot_tool_show')


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_equals_the_frozen_text(name):
    command = importlib.import_module(SCRIPTS[name]).main
    subs = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []
    for words in [[], *([sub] for sub in subs)]:
        result = CliRunner().invoke(command, [*words, '--help'], prog_name=name, terminal_width=100)
        assert result.exit_code == 0
        path = HELP / f'{"_".join([name, *words])}.txt'
        if os.environ.get('RENEW_HELP'):
            path.write_text(result.output)
        assert result.output == path.read_text()


@pytest.mark.parametrize('name', [path.stem for path in sorted(HELP.glob('*.txt'))])
def test_examples_in_help_are_parsed_and_those_on_the_digits_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'scripts').symlink_to(ROOT / 'scripts')
    paragraphs = re.split(r'\n\s*\n', (HELP / f'{name}.txt').read_text())
    examples = [text for text in paragraphs if re.search(r'^  (python|torchrun) ', text, re.MULTILINE)]
    assert examples or name in WITHOUT_EXAMPLES
    for words in (words for text in examples for words in commands_of(text, tmp_path)):
        command = our_command(words)
        if command is None:
            continue
        main, module, arguments, ranks = command
        parse(main, module, arguments)
        if ranks == 1 and 'digits' in ' '.join(words).replace('=', ' ').split():
            if module in ('train', 'emm'):  # these would take minutes
                place = arguments.index('--') if '--' in arguments else len(arguments)
                arguments.insert(place, '--dry-run')
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.output
