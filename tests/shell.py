"""Check the commands shown on pages: a real shell expands them, and the parsers of the scripts parse their options."""

import importlib
import itertools
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import click
import pytest

# Modules that define the command of a package.
PACKAGES = {'dataset_utils': 'dataset_utils.command_line', 'evaluation.features': 'evaluation.features.__main__'}
NOT_OURS = ('venv', 'pip', 'pytest', 'json.tool')

# Other programs that pages call.
OTHERS = {
    'git', 'make', 'pip', 'pip3', 'curl', 'wget', 'mkdir', 'ls', 'cat', 'tar', 'unzip', 'cp', 'rm', 'open', 'xdg-open',
    'uv', 'conda', 'kaggle', 'docker', 'apptainer', 'module', 'ssh', 'srun', 'watch', 'sbatch', 'tensorboard',
    'deactivate',
}  # fmt: skip
VALUE_OF_TORCHRUN = re.compile(r'--(nproc_per_node|nnodes|node_rank|master_addr|master_port)=(\S+)')

STAND_INS = r"""
set -eu
note() { printf '%s\0' "$@" >> "$COMMANDS"; printf '\n\0' >> "$COMMANDS"; }
cd() { :; }
source() { :; }
.() { :; }
for name in python python3 torchrun; do eval "$name() { note $name \"\$@\"; }"; done
command_not_found_handle() { note "$@"; }
PATH=/nonexistent
"""


def commands_of(block: str, folder: Path) -> list[list[str]]:
    """Run a block in a shell with stand-ins for all programs; return the words of every command that it calls."""
    path = folder / 'commands'
    path.write_bytes(b'')
    finished = subprocess.run(
        [shutil.which('bash') or 'bash', '--norc', '-c', STAND_INS + block],
        env={**os.environ, 'COMMANDS': str(path), 'VIRTUAL_ENV': ''},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not finished.returncode, f'{finished.stderr}\n{block}'
    assert not finished.stderr, f'{finished.stderr}\n{block}'
    words = path.read_text().split('\0')[:-1]
    return [list(group) for is_end, group in itertools.groupby(words, '\n'.__eq__) if not is_end]


def our_command(words: list[str]) -> tuple[click.Command, str, list[str], int] | None:
    """The click command, module, arguments and number of ranks of a command line; None if it calls another program."""
    name, *rest = words
    if name not in ('python', 'python3', 'torchrun'):
        assert name in OTHERS, f'{name} in {words} is an unknown command'
        return None
    ranks = 1
    if name == 'torchrun':
        place = next(place for place, word in enumerate(rest) if not word.startswith('-'))
        ranks = check_launcher([word for word in rest[:place] if word != '--'])
        rest = rest[place:]
    script, arguments = rest[0], rest[1:]
    if script == '-m':
        script, arguments = rest[1], rest[2:]
    elif not script.endswith('.py'):  # such as python --version
        return None
    if script in NOT_OURS:
        return None
    module = script.removesuffix('.py').replace('/', '.')
    return importlib.import_module(PACKAGES.get(module, module)).main, module, arguments, ranks


def check_launcher(options: list[str]) -> int:
    """Check torchrun's options, for one node or several; return the total number of ranks."""
    values = dict(VALUE_OF_TORCHRUN.findall(' '.join(options)))
    assert 'nproc_per_node' in values
    if '--standalone' in options:
        assert set(options) == {'--standalone', f'--nproc_per_node={values["nproc_per_node"]}'}
        return int(values['nproc_per_node'])
    needed = {'nproc_per_node', 'nnodes', 'node_rank', 'master_addr', 'master_port'}
    assert set(values) == needed, f'missing: {needed - set(values)}'
    assert int(values['node_rank']) < int(values['nnodes'])
    assert len(options) == 5
    return int(values['nproc_per_node']) * int(values['nnodes'])


def parse(main: click.Command, name: str, arguments: list[str]) -> defaultdict:
    """Parse a command line without running it; return its values by parameter (all None with --help)."""
    if '--help' in arguments:
        return defaultdict(lambda: None)
    try:
        context = main.make_context(name, list(arguments))
        if isinstance(main, click.Group):
            _, command, rest = main.resolve_command(context, list(arguments))
            assert command is not None
            context = command.make_context(command.name, rest, parent=context)
    except click.ClickException as error:
        pytest.fail(f'{name} {" ".join(arguments)}: {error.format_message()}')
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in context.params.items()}
    return defaultdict(lambda: None, texts)
