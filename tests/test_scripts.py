"""Every command of the pages: the README's and those of scripts/*.md.

A page's ```bash blocks are run by bash, each in a shell of its own, with stand-ins for `python` and `torchrun` that
only note down their words; so loops, variables and functions are expanded by a real shell. Each command then goes to
the script that it names: data sets are made, of a CIFAR-10 and an ImageNet in miniature that have a fiftieth of the
images, and trainings are dry runs at the number of ranks that the command asks for.
"""

import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import PIL.Image
import pytest
from click.testing import CliRunner

import train
from dataset_utils.imagenet import superclasses
from tests.dataset_utils.making import image_bytes, random_images, write_cifar, write_files
from tests.helpers import ROOT

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob('*.md'), *ROOT.glob('scripts/*.md')])
# The values of each factor in the paper, as the words of the commands that stand for them; all on nodes of 8 GPUs.
VALUES = {
    'data_distribution': {
        '--max-images': '500 1000 2000 3000 4000 5000 8000 16000',
        '--resolution': '16x16 8x8 32x32',
        '--attn-resolutions': '8 4',
        '--num-classes': '1 2 5',
        '--blend-rate': '0 0.2 0.5 0.8 1',
    },
    'model_config': {
        '--num-channels': '128 192 256 320',
        '--num-blocks': '2 4 6 8 10 12',
        '--embed': 'positional fourier',
    },
    'train_procedure': {
        '--batch': '128 256 384 512 640 768 896',
        '--lr': '0.5e-4 1e-4 1.5e-4 2e-4 2.5e-4 3e-4 3.5e-4 10e-4',
        '--weight-decay': '0 1e-5 1e-4 1e-3 1e-2 2e-2 5e-2 8e-2 1e-1',
        '--final-ema': '0.99929 0.999 0.99 0.9 0.8 0.5 0.2 0.1 0.0',
    },
    'conditional': {'--num-classes': '1 2 5 10 20 50 100 500 1000', '--cond': 'True False', '--duration': '600'},
}
PUBLISHED = [
    'dataset_size',
    'dataset_random',
    'dataset_unique',
    'dataset_diversity',
    'intra_diversity',
    'sample_imagenet',
]
BLOCK = re.compile(r'^([ \t]*)```(?:bash|sh|shell)\n(.*?)^\1```', re.MULTILINE | re.DOTALL)

# Sources that stand for the ones of the pages have this share of their images, so --max-images is divided by it.
SHRINK = 50
CIFAR, IMAGENET = 'datasets/cifar10/cifar-10-python.tar.gz', 'datasets/imagenet/ILSVRC/Data/CLS-LOC/train'

# Where the command of a package is, if not in the module of its name.
PACKAGES = {'dataset_utils': 'dataset_utils.__main__'}

# Commands of a page that are not the project's.
OTHERS = {
    'git', 'make', 'pip', 'pip3', 'curl', 'wget', 'mkdir', 'ls', 'cat', 'tar', 'unzip', 'cp', 'rm', 'open', 'xdg-open',
    'uv', 'conda', 'kaggle', 'docker', 'ssh', 'srun', 'sbatch', 'tensorboard', 'deactivate',
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


def blocks(page: str) -> list[str]:
    """The bash blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding='utf-8')
    text = text.replace('.venv/bin/', '')  # a path would go past the stand-ins
    return [re.sub(rf'^{match[1]}', '', match[2], flags=re.MULTILINE) for match in BLOCK.finditer(text)]


def commands_of(block: str, folder: Path) -> list[list[str]]:
    """The words of every command that a block runs; its shell must end without an error."""
    path = folder / 'commands'
    path.write_bytes(b'')
    finished = subprocess.run(
        [shutil.which('bash'), '--norc', '-c', STAND_INS + block],
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


def page_commands(name: str, folder: Path) -> list[list[str]]:
    return [words for block in blocks(f'scripts/{name}.md') for words in commands_of(block, folder)]


class Page:
    """A folder in which the commands of one page are tried, one after another."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.made: dict[tuple[str, ...], str] = {}  # what each command printed
        self.trained: dict[tuple[int | str, ...], str] = {}  # what trainings printed, whatever their data
        self.ranks: set[int] = set()  # numbers of ranks that were tried
        self.data: set[str] = set()  # data sets that were made
        self.runs: dict[str, str] = {}  # data sets by run folder

    def try_block(self, block: str, folder: Path) -> None:
        for words in commands_of(block, folder):
            self.try_command(words)

    def try_command(self, words: list[str]) -> str:
        """Try a command as far as it goes here; returns what it printed."""
        name, *rest = words
        if name not in ('python', 'python3', 'torchrun'):
            assert name in OTHERS, f'{name}: an unknown command, in {words}'
            return ''
        launcher = dict(VALUE_OF_TORCHRUN.findall(' '.join(rest)))
        if name == 'torchrun':
            place = next(place for place, word in enumerate(rest) if not word.startswith('-'))
            check_launcher(rest[:place], launcher)
            rest = rest[place:]
        ranks = int(launcher.get('nproc_per_node', 1)) * int(launcher.get('nnodes', 1))
        key = (str(ranks), *rest)
        if key not in self.made:
            self.made[key] = self.run(rest, ranks)
        return self.made[key]

    def run(self, words: list[str], ranks: int) -> str:
        script, arguments = words[0], words[1:]
        if script == '-m':
            script, arguments = words[1], words[2:]
        elif not script.endswith('.py'):  # python --version, python -c …
            return ''
        if script in ('venv', 'pip', 'pytest'):
            return ''
        module = script.removesuffix('.py').replace('/', '.')
        main = importlib.import_module(PACKAGES.get(module, module)).main
        command, arguments, values = parse(main, module, arguments)
        if module == 'train' and not values['resume']:
            self.runs[values['outdir']] = values['data']
            return self.try_training(main, [*arguments, '--dry-run'], values['data'], ranks)
        if module == 'mem_ratio' and values['expdir']:
            # Without --nosubdir, the run is a numbered folder in --outdir.
            folders = {values['expdir'], str(Path(values['expdir']).parent)}
            assert '…' in values['expdir'] or folders & self.runs.keys(), f'no training makes {values["expdir"]}'
            assert values['knn_ref'] in (None, self.runs.get(values['expdir'], values['knn_ref']))
        if module in ('dataset_utils', 'dataset_tool'):
            if 'dest' in values:
                self.data.add(values['dest'])
            return self.invoke(main, shrunk(arguments, values), ranks)
        return f'{command} {values}'

    def try_training(self, main: click.Command, arguments: list[str], data: str, ranks: int) -> str:
        """Dry-run a training, unless one was tried that differs only in what the configuration does not depend on."""
        assert data == 'digits' or data in self.data, f'no command before it makes {data}'
        options = tuple(word for word in arguments if not word.startswith(('--data=', '--outdir=')))
        # The number of ranks matters to the batch alone, which the presets share.
        key = (ranks if any(word.startswith('--batch=') for word in options) else 0, *options)
        if key not in self.trained or ranks not in self.ranks:
            self.ranks.add(ranks)
            self.trained[key] = self.invoke(main, arguments, ranks)
        return self.trained[key]

    def invoke(self, main: click.Command, arguments: list[str], ranks: int) -> str:
        # As if there were so many ranks, all of which are this one.
        self.monkeypatch.setattr(train.distributed, 'world_size', lambda: ranks)
        self.monkeypatch.setattr(train.distributed, 'broadcast', lambda value: value)
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f'{arguments}\n{result.output}'
        return result.output


def check_launcher(options: list[str], values: dict[str, str]) -> None:
    """One node, or several that find each other."""
    assert 'nproc_per_node' in values
    if '--standalone' in options:
        assert set(options) == {'--standalone', f'--nproc_per_node={values["nproc_per_node"]}'}
    else:
        assert set(values) == {'nproc_per_node', 'nnodes', 'node_rank', 'master_addr', 'master_port'}
        assert int(values['node_rank']) < int(values['nnodes'])
        assert len(options) == 5


def parse(main: click.Command, name: str, arguments: list[str]) -> tuple[str, list[str], dict]:
    """Parse a command line without running it; returns the command, its words and its values by parameter."""
    if '--help' in arguments:
        return name, arguments, {}
    try:
        context = main.make_context(name, list(arguments))
        if isinstance(main, click.Group):
            _, command, rest = main.resolve_command(context, list(arguments))
            context = command.make_context(command.name, rest, parent=context)
    except click.ClickException as error:
        pytest.fail(f'{name} {" ".join(arguments)}: {error.format_message()}')
    return context.info_name, arguments, context.params


def shrunk(arguments: list[str], values: dict) -> list[str]:
    """A command on a data set with its numbers of images divided, unless it reads the built-in digits."""
    if values.get('source') == 'digits' or 'pocket' in values.get('dest', ''):
        return arguments
    arguments = [word for word in arguments if not word.startswith('--max-images=')]
    if values.get('max_images'):
        assert not values['max_images'] % (10 * SHRINK), 'a number of images that the miniature cannot have'
        arguments.append(f'--max-images={values["max_images"] // SHRINK}')
    return [*arguments, '--overwrite'] if 'dest' in values and '--overwrite' not in arguments else arguments


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page in a folder that has CIFAR-10 and ImageNet in miniature."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / CIFAR).parent.mkdir(parents=True)
    write_cifar(tmp_path / CIFAR, per_batch=10_000 // SHRINK)
    synsets = [synset for group in superclasses().values() for synset in group]
    picture = image_bytes(random_images(1, 40)[0], 'JPEG')
    write_files(tmp_path / IMAGENET, {f'{synset}/{synset}_1.JPEG': picture for synset in synsets})
    return Page(monkeypatch)


@pytest.mark.parametrize('name', PAGES)
def test_every_command_of_a_page_is_understood(name, page, tmp_path):
    for block in blocks(name):
        page.try_block(block, tmp_path)
    assert all(Path(path).exists() or '-a.zip' in path for path in page.data if not path.endswith('half.zip'))


@pytest.mark.parametrize('name', VALUES)
def test_page_has_all_values_of_the_paper(name, tmp_path):
    found: dict[str, set[str]] = {}
    for words in page_commands(name, tmp_path):
        for option, _, value in (word.partition('=') for word in words if 'pocket' not in ''.join(words)):
            found.setdefault(option, set()).add(value)
    assert {option: found[option] for option in VALUES[name]} == {
        option: set(values.split()) for option, values in VALUES[name].items()
    }


@pytest.mark.parametrize('name', VALUES)
def test_one_node_and_several_train_and_evaluate_the_same(name, tmp_path):
    trained: dict[bool, list[list[str]]] = {True: [], False: []}
    for words in page_commands(name, tmp_path):
        if words[0] == 'torchrun':
            script = next(place for place, word in enumerate(words[1:], start=1) if not word.startswith('-'))
            trained['--standalone' in words].append(words[script:])
    assert trained[True] == trained[False]
    evaluated = [words[1].partition('=')[2] for words in trained[True] if words[0] == 'mem_ratio.py']
    assert evaluated == [words[1].partition('=')[2] for words in trained[True] if words[0] == 'train.py']
    assert len(set(evaluated)) == len(evaluated)


@pytest.mark.parametrize('name', VALUES)
def test_page_has_a_pocket_block_on_the_digits_and_what_it_printed(name, tmp_path):
    [block] = [block for block in blocks(f'scripts/{name}.md') if 'pocket()' in block]
    commands = commands_of(block, tmp_path)
    assert all('--source=digits' in words for words in commands if words[1] == '-m')
    trainings = [words for words in commands if words[1] == 'train.py']
    assert 2 <= len(trainings) <= 4
    text = (ROOT / 'scripts' / f'{name}.md').read_text(encoding='utf-8')
    assert len(re.findall('^Highest memorization ratio: .*95 % interval', text, re.MULTILINE)) == len(trainings)


def test_figures_of_a_sweep_are_made_from_the_lines_of_its_runs(tmp_path, monkeypatch, capsys):
    [block] = [block for block in blocks('scripts/README.md') if 'mem_traj.jsonl' in block]
    records = {'128/1000': (0.5, 0.9, 0.7), '128/2000': (0.25, 0.125), '320/1000': (0.0, 1.0)}
    for run, ratios in records.items():
        folder = tmp_path / 'runs' / 'size' / run
        folder.mkdir(parents=True)
        lines = [
            {'kimg': kimg, 'epochs': 2 * kimg, 'ratio': ratio, 'ratio_low': ratio / 2, 'ratio_high': 1.0}
            | {'dataset_size': int(Path(run).name)}
            for kimg, ratio in enumerate(ratios)
        ]
        (folder / 'mem_traj.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['-', 'runs/size'])
    exec(block.partition("<<'EOF'\n")[2].partition('EOF\n')[0], {})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ['128/1000', '1000', '90.00', '%', '45.00', '%', '100.00', '%'],
        ['128/2000', '2000', '25.00', '%', '12.50', '%', '100.00', '%'],
        ['320/1000', '1000', '100.00', '%', '50.00', '%', '100.00', '%'],
    ]
    for name in ('ratio.png', 'length.png'):
        with PIL.Image.open(tmp_path / 'runs' / 'size' / name) as figure:
            assert figure.format == 'PNG'


def test_table_of_figures_has_every_sweep(tmp_path):
    text = (ROOT / 'scripts' / 'README.md').read_text(encoding='utf-8')
    listed = {
        sweep for row in re.findall(r'^\|.*\|$', text, re.MULTILINE) for sweep in re.findall('`(runs/[^`]+)`', row)
    }
    trained = {
        '/'.join(word.removeprefix('--outdir=').split('/')[:2])
        for name in VALUES
        for words in page_commands(name, tmp_path)
        for word in words
        if word.startswith('--outdir=runs/')
    }
    assert listed == trained - {'runs/pocket'}


def test_every_published_script_has_a_command_here():
    text = ''.join((ROOT / 'scripts' / f'{name}.md').read_text(encoding='utf-8') for name in VALUES)
    for script in PUBLISHED:
        assert re.search(rf'^\| `{script}\.py` \| `python -m dataset_utils [a-z-]+`', text, re.MULTILINE)


WRONG = {
    'python trian.py --outdir=o --data=digits': 'trian',
    'pyhton train.py --outdir=o --data=digits': 'unknown command',
    'python train.py --outdir=o --data=digits --num-block=2': 'No such option',
    'python train.py --outdir=o --data=unmade.zip': 'no command before it makes',
    'python train.py --outdir=o --data=digits --skip-connections=1,1': 'skip connections',
    'torchrun --standalone --nproc_per_node=8 train.py --outdir=o --data=digits --batch=100': 'multiple of the 8 ranks',
    'torchrun --nproc_per_node=8 train.py --outdir=o --data=digits': 'node_rank',
    'python mem_ratio.py --expdir=elsewhere': 'no training makes',
    'python -m dataset_utils size --source=digits --dest=d.zip --max-images=15': 'multiple',
    'echo $UNSET': 'UNSET',
}


@pytest.mark.parametrize('command', WRONG)
def test_wrong_command_is_found(command, page, tmp_path):
    with pytest.raises((AssertionError, ImportError, pytest.fail.Exception), match=WRONG[command]):
        page.try_block(command, tmp_path)
