"""Every command in the README, docs/*.md and scripts/*.md, and the study files that those pages list.

Each ```bash block of a page runs in a separate bash with stand-ins for `python` and `torchrun` that only record their
arguments, so loops, variables and functions are expanded by a real shell. Each command is then passed to its script:
data sets are made from the built-in digits or from a miniature CIFAR-10 with a fiftieth of the images, and training
runs are dry runs with the number of ranks of the command.
"""

import hashlib
import json
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import click
import PIL.Image
import pytest
from click.testing import CliRunner

from studies.points import make_point
from studies.study_file import load_study
from tests.dataset_utils.making import cifar_labels, image_bytes, pickled_batch, random_images, write_cifar, write_files
from tests.helpers import ROOT
from tests.shell import commands_of, our_command, parse
from torch_utils import distributed

PAGES = sorted(
    path.relative_to(ROOT).as_posix() for folder in ('.', 'docs', 'scripts') for path in (ROOT / folder).glob('*.md')
)
SWEEPS = ['data_distribution', 'model_config', 'train_procedure', 'conditional']
# For each factor, the options that set it and their values in the paper.
VALUES = {
    'size': {'--max-images': '500 1000 2000 3000 4000 5000'},
    'dimension': {
        '--max-images': '500 1000 2000 3000 4000 5000 8000 16000',
        '--resolution': '32x32 16x16 8x8',
        '--attn-resolutions': '16 8 4',
    },
    'num_classes': {'--num-classes': '1 2 5 10'},
    'intra_diversity': {'--blend-rate': '0.0 0.2 0.5 0.8 1.0'},
    'width': {'--num-channels': '128 192 256 320'},
    'depth': {'--num-blocks': '2 4 6 8 10 12'},
    'time_embedding': {'--embed': 'positional fourier', '--num-blocks': '2 4'},
    'skip_connections_ncsnpp': {'--arch': 'ncsnpp', '--precond': 've', '--embed': 'fourier'},
    'batch_size': {
        '--batch': '128 256 384 512 640 768 896',
        '--lr': '5e-05 0.0001 0.00015 0.0002 0.00025 0.0003 0.00035',
    },
    'weight_decay': {'--weight-decay': '0.0 1e-05 0.0001 0.001 0.01 0.02 0.05 0.08 0.1'},
    'ema': {'--ema_mode': 'mode4', '--final-ema': '0.99929 0.999 0.99 0.9 0.8 0.5 0.2 0.1 0.0'},
    'length': {'--precond': 'edm', '--num-blocks': '4', '--lr': '0.001'},
    'conditioning': {'--num-classes': '10', '--cond': 'True'},
    'random_labels': {'--num-classes': '1 2 5 10 20 50 100 500 1000', '--max-images': '1000 2000 5000'},
    'unique_labels': {'--max-images': '50000', '--duration': '600', '--num-blocks': '4', '--precond': 'edm'},
}  # fmt: skip
PUBLISHED = [
    'dataset_size', 'dataset_random', 'dataset_unique', 'dataset_diversity', 'intra_diversity', 'sample_imagenet',
]  # fmt: skip
BLOCK = re.compile(r'^([ \t]*)```(?:bash|sh|shell)\n(.*?)^\1```', re.MULTILINE | re.DOTALL)

# The miniature CIFAR-10 is smaller by this factor, so --max-images is divided by it.
SHRINK = 50
CIFAR = 'datasets/cifar10/cifar-10-python.tar.gz'


def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def blocks(page: str) -> list[str]:
    """Contents of the bash blocks of a page, in order."""
    text = page_text(page).replace('.venv/bin/', '')  # a program called by its path would bypass the stand-ins
    return [re.sub(rf'^{match[1]}', '', match[2], flags=re.MULTILINE) for match in BLOCK.finditer(text)]


class Page:
    """Tries the commands of one page in order, in the same folder."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.tried: set[tuple] = set()  # commands that were tried already
        self.data: set[str] = set()  # data sets made so far
        self.runs: dict[str, str] = {}  # training set of the run in each folder

    def try_block(self, block: str, folder: Path) -> None:
        for words in commands_of(block, folder):
            self.try_command(words)

    def try_command(self, words: list[str]) -> None:
        """Run a command in a form that takes little time: on a small data set, or as a dry run."""
        command = our_command(words)
        if command is None or tuple(words) in self.tried:
            return
        self.tried.add(tuple(words))
        main, module, arguments, ranks = command
        values = parse(main, module, arguments)
        if module == 'train' and not values['resume']:
            data = values['data']
            assert data == 'digits' or data in self.data, f'no earlier command makes {data}'
            self.runs[values['outdir']] = data
            # A run with the same options on another data set differs only in length, so it is not tried again.
            options = (ranks, *(word for word in arguments if not word.startswith(('--data=', '--outdir='))))
            if options not in self.tried:
                self.tried.add(options)
                self.invoke(main, [*arguments, '--dry-run'], ranks)
        elif module == 'mem_ratio' and values['expdir']:
            expdir = str(values['expdir'])
            # Without --nosubdir, the run folder is a numbered folder in --outdir.
            folders = {expdir, str(Path(expdir).parent)}
            assert folders & self.runs.keys(), f'no earlier command trains {values["expdir"]}'
            assert values['knn_ref'] in (None, self.runs.get(expdir, values['knn_ref']))
        elif module in ('dataset_utils', 'dataset_tool'):
            if 'dest' in values:
                halves = [str(values['dest']).replace('.zip', f'-{half}.zip') for half in 'ab']
                self.data.update(halves if arguments[0] == 'split' else [values['dest']])
            self.invoke(main, shrunk(arguments, values), ranks)

    def invoke(self, main: click.Command, arguments: list[str], ranks: int) -> None:
        # Simulate this number of ranks in one process.
        self.monkeypatch.setattr(distributed, 'world_size', lambda: ranks)
        self.monkeypatch.setattr(distributed, 'broadcast', lambda value: value)
        self.monkeypatch.setattr('training.training_run.cost_lines', lambda *_: {})  # would train for several seconds
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f'{arguments}\n{result.output}'


def shrunk(arguments: list[str], values: dict) -> list[str]:
    """Arguments with --max-images divided by SHRINK, unless the command reads the digits or makes a small set."""
    if values.get('source') == 'digits' or any(word in values.get('dest', '') for word in ('pocket', 'trial', '8x8')):
        return arguments
    arguments = [word for word in arguments if not word.startswith('--max-images=')]
    if values.get('max_images'):
        assert not values['max_images'] % (10 * SHRINK), f'--max-images must be a multiple of {10 * SHRINK}'
        arguments.append(f'--max-images={values["max_images"] // SHRINK}')
    return [*arguments, '--overwrite'] if 'dest' in values and '--overwrite' not in arguments else arguments


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A Page whose folder contains the miniature CIFAR-10 and a folder of photographs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / CIFAR).parent.mkdir(parents=True)
    count = 10_000 // SHRINK
    test_batch = pickled_batch(random_images(count, 32, seed=1), labels=cifar_labels(count)[:count])
    write_cifar(tmp_path / CIFAR, per_batch=count, members={'test_batch': test_batch})
    write_files(
        tmp_path / 'photos', {f'IMG_{n}.jpg': image_bytes(x, 'JPEG') for n, x in enumerate(random_images(3, 32))}
    )
    return Page(monkeypatch)


@pytest.mark.parametrize('name', PAGES)
def test_every_command_of_a_page_is_valid(name, page, tmp_path):
    for block in blocks(name):
        page.try_block(block, tmp_path)
    assert all(Path(path).exists() or '-a.zip' in path for path in page.data if not path.endswith('half.zip'))


@pytest.mark.parametrize('name', ['README', *SWEEPS])
def test_every_training_run_of_a_sweep_is_evaluated_on_its_training_set(name, tmp_path):
    trained: list[tuple[str, str]] = []
    evaluated: list[tuple[str, str]] = []
    for words in (words for block in blocks(f'scripts/{name}.md') for words in commands_of(block, tmp_path)):
        options = dict(word.split('=', 1) for word in words if '=' in word)
        if 'train.py' in words:
            trained.append((options['--outdir'], options['--data']))
        elif 'mem_ratio.py' in words:
            evaluated.append((options['--expdir'], options.get('--knn-ref', trained[-1][1])))
    assert trained == evaluated
    assert len(set(trained)) == len(trained) - (name == 'README')  # the README also shows its run on several nodes


@pytest.mark.parametrize('name', VALUES)
def test_every_study_file_has_all_values_of_the_paper(name):
    study = load_study(ROOT / 'scripts' / 'studies' / f'{name}.toml')
    found: dict[str, set[str]] = defaultdict(set)
    for value in study.combinations:
        for size in value.sizes.values:
            for command in make_point(study, Path('out'), value, size, 0).commands().values():
                for option, _, choice in (word.partition('=') for word in command if 'mem_ratio.py' not in command):
                    found[option].add(choice)
    assert {option: found[option] for option in VALUES[name]} == {
        option: set(values.split()) for option, values in VALUES[name].items()
    }


def test_pages_list_every_study_file_and_no_other():
    listed = {name for page in PAGES for name in re.findall(r'\b(?:scripts/)?(studies/[\w/]+\.toml)', page_text(page))}
    assert listed == {
        path.relative_to(ROOT / 'scripts').as_posix() for path in (ROOT / 'scripts' / 'studies').rglob('*.toml')
    }


@pytest.mark.parametrize('name', SWEEPS)
def test_sweep_pages_have_a_digits_block_and_the_ratio_of_each_training_run(name, tmp_path):
    text = page_text(f'scripts/{name}.md').partition('## On the built-in digits')[2]
    [block] = [block for block in blocks(f'scripts/{name}.md') if 'pocket()' in block]
    commands = commands_of(block, tmp_path)
    assert all('--source=digits' in words for words in commands if words[1] == '-m')
    trained = [Path(word).name for words in commands for word in words if word.startswith('--outdir=')]
    assert 2 <= len(trained) <= 4
    assert re.findall(r'^\| `([\w-]+)`.*? \| \d+\.\d\d \W', text, re.MULTILINE) == trained


def test_the_code_for_figures_of_a_sweep_reads_the_records_of_its_runs(tmp_path, monkeypatch, capsys):
    [block] = [block for block in blocks('scripts/README.md') if 'mem_traj.jsonl' in block]
    records = {'128/1000': (0.5, 0.9, 0.7), '128/2000': (0.25, 0.125), '320/1000': (0.0, 1.0)}
    for run, ratios in records.items():
        folder = tmp_path / 'runs' / 'size' / run
        folder.mkdir(parents=True)
        common: dict[str, object] = {
            'num_images': 99,
            'num_memorized': 0,
            'num_duplicates': 0,
            'mean_distance': 1,
            'ratio_high': 1.0,
        }
        common |= {'dataset_size': int(Path(run).name), 'seeds': '0-98'}
        lines = [
            {**common, 'snapshot': str(kimg), 'kimg': kimg, 'epochs': 2 * kimg, 'ratio': ratio, 'ratio_low': ratio / 2}
            for kimg, ratio in enumerate(ratios)
        ]
        lines.insert(0, {**lines[0], 'ratio': 0.99, 'seeds': '0-9'})
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


def test_every_script_published_with_the_paper_has_a_command_here():
    for script in PUBLISHED:
        assert re.search(
            rf'^\| `{script}\.py` \| `python -m dataset_utils [a-z-]+`', page_text('scripts/README.md'), re.MULTILINE
        )


WRONG = {
    'python trian.py --outdir=o --data=digits': 'trian',
    'pyhton train.py --outdir=o --data=digits': 'unknown command',
    'python train.py --outdir=o --data=digits --num-block=2': 'No such option',
    'python train.py --outdir=o --data=unmade.zip': 'no earlier command makes',
    'python train.py --outdir=o --data=digits --skip-connections=1,1': 'skip connections',
    'torchrun --standalone --nproc_per_node=8 train.py --outdir=o --data=digits --batch=100': 'number of ranks',
    'torchrun --nproc_per_node=8 train.py --outdir=o --data=digits': 'node_rank',
    'python mem_ratio.py --expdir=elsewhere': 'no earlier command trains',
    'python -m dataset_utils size --source=digits --dest=d.zip --max-images=15': 'multiple',
    'echo $UNSET': 'UNSET',
}


@pytest.mark.parametrize('command', WRONG)
def test_wrong_commands_in_a_page_are_detected(command, page, tmp_path):
    with pytest.raises((AssertionError, ImportError, pytest.fail.Exception), match=WRONG[command]):
        page.try_block(command, tmp_path)


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / 'scripts/studies/photographs').glob('*.toml')))
def test_published_tables_are_of_the_study_file_in_the_repository(name):
    tables = json.loads((ROOT / 'docs' / 'results' / 'photographs' / name / 'tables.json').read_text())
    document = tomllib.loads((ROOT / 'scripts' / 'studies' / 'photographs' / f'{name}.toml').read_text())
    assert tables['study_sha256'] == hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
