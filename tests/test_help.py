"""The command line is frozen: what a script's help says changes only together with the text kept in tests/help.

To renew the texts after a change that is meant: RENEW_HELP=1 python -m pytest tests/test_help.py
"""

import importlib
import os

import pytest
from click.testing import CliRunner

from tests.helpers import ROOT

SCRIPTS = {
    'train': 'train',
    'generate': 'generate',
    'mem_ratio': 'mem_ratio',
    'dataset_tool': 'dataset_tool',
    'generate_optim': 'generate_optim',
    'dataset_utils': 'dataset_utils.__main__',
    'snapshot_tool': 'snapshot_tool',
    'emm': 'emm',
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_is_what_it_was(name):
    command = importlib.import_module(SCRIPTS[name]).main
    for words in [[], *([sub] for sub in getattr(command, 'commands', {}))]:
        result = CliRunner().invoke(command, [*words, '--help'], prog_name=name, terminal_width=100)
        assert result.exit_code == 0
        path = ROOT / 'tests' / 'help' / f'{"_".join([name, *words])}.txt'
        if os.environ.get('RENEW_HELP'):
            path.write_text(result.output)
        assert result.output == path.read_text()
