"""The commands of a point, as a user would type them: make the training set, train, evaluate, diagnose."""

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.study import Options, Settings, source_name
from training.schedule import REFERENCE_SIZE

ROOT = Path(__file__).resolve().parents[1]
# How long nodes wait for one another: the first makes the training set while the others are already running.
SECONDS_TO_MEET = 3600


@dataclasses.dataclass(frozen=True)
class Resources:
    """What one point runs on. gpus_per_node: 0 for the CPU, or a GPU that the commands choose themselves."""

    nodes: int = 1
    gpus_per_node: int = 0

    @property
    def world_size(self) -> int:
        return self.nodes * max(self.gpus_per_node, 1)


def selection_command(options: Options, dest: Path, sources: Path, extra: Mapping[str, Any] | None = None) -> list[str]:
    """Arguments of python that make a data set. options: of the selection. sources: where the study keeps its own."""
    options = options | dict(extra or {})
    for key in ('source', 'blend'):
        name = source_name(options.get(key))
        if name is not None:
            options[key] = str(sources / f'{name}.zip')
    selection = options.pop('selection')
    return ['-m', 'dataset_utils', selection, *arguments({'source': options.pop('source'), 'dest': dest, **options})]


def point_commands(
    settings: Settings,
    size: int,
    seeds: Mapping[str, int | None],
    folder: Path,
    sources: Path,
    diagnose: Mapping[str, Options],
) -> dict[str, list[str]]:
    """Arguments of python for every step of a point.

    seeds: 'train', and 'select', or None to take the first images. folder: of the point. sources: folder of the study's
    own data sets. diagnose: options of the measurements of diagnose.py, by their names.
    """
    data, run = folder / 'data.zip', folder / 'run'
    extra = {'max-images': size} | ({} if seeds['select'] is None else {'seed': seeds['select']})
    train = {name: length_of(name, value, size) for name, value in settings.train.items()}
    return {
        'data': selection_command(settings.data, data, sources, extra),
        'train': [
            'train.py',
            *arguments({'outdir': run}),
            '--nosubdir',
            *arguments({'data': data, 'seed': seeds['train'], **train}),
        ],
        'evaluate': ['mem_ratio.py', *arguments({'expdir': run, 'knn-ref': data, **settings.evaluate})],
        **{name: ['diagnose.py', name, *arguments({'expdir': run, **options})] for name, options in diagnose.items()},
    }


def length_of(name: str, value: Any, size: int) -> Any:
    """The value of a train.py option at a training-set size; a length in images becomes one in the option's unit."""
    if not isinstance(value, dict):
        return value
    if name in ('epochs', 'warmup'):
        return -(-value['images'] // size)
    mimg = value['images'] / 1e6 * REFERENCE_SIZE / size
    return math.ceil(mimg * 1e9) / 1e9  # rounded up: train.py rounds what it scales back down to whole kimg


def arguments(options: Mapping[str, Any]) -> list[str]:
    return [f'--{name}={argument(value)}' for name, value in options.items()]


def argument(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ','.join(map(str, value))
    return str(value)


def shell_line(command: list[str], resources: Resources) -> str:
    """A command as it can be pasted into a shell, in the folder of the toolkit."""
    # The words before the command stay unquoted, so that the shell fills in their variables.
    return f'{" ".join(launch_words(command, resources))} {shlex.join(command)}'


def launch_words(command: list[str], resources: Resources) -> list[str]:
    """The words before a command: python, or torchrun if it runs on several devices."""
    if command[0] == '-m' or resources.world_size == 1:
        return ['python']
    if resources.nodes == 1:
        return ['torchrun', '--standalone', f'--nproc_per_node={resources.gpus_per_node}', '--']
    return [
        'torchrun',
        f'--nnodes={resources.nodes}',
        f'--nproc_per_node={max(resources.gpus_per_node, 1)}',
        '--node_rank=$NODE_RANK',
        '--rdzv_backend=static',
        f'--rdzv_conf=timeout={SECONDS_TO_MEET}',
        '--master_addr=$MASTER_ADDR',
        '--master_port=$MASTER_PORT',
        '--',
    ]


def process_arguments(command: list[str], resources: Resources, environ: Mapping[str, str]) -> list[str]:
    """The command for `subprocess`: with this interpreter, scripts by their full path, and variables filled in."""
    words = launch_words(command, resources)
    if words[0] == 'python':
        launcher = [sys.executable]
    else:
        launcher = [sys.executable, '-m', 'torch.distributed.run', *words[1:]]
        for name in ('NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
            launcher = [word.replace(f'${name}', environ.get(name, '')) for word in launcher]
    script = command if command[0] == '-m' else [str(ROOT / command[0]), *command[1:]]
    return [*launcher, *script]


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of a command's process: its packages are found from any folder."""
    paths = [str(ROOT), *filter(None, [base.get('PYTHONPATH')])]
    return {**base, 'PYTHONPATH': os.pathsep.join(paths), 'PYTHONUNBUFFERED': '1'}
