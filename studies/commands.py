"""The commands that run one point, as a user would type them: make the training set, train, evaluate, diagnose."""

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cli.dataset_options import OPTIONS
from dnnlib.options import options_in, spelling
from evaluation.diagnosis_options import AgreementOptions, ClocksOptions, LevelsOptions
from evaluation.evaluation_options import EvaluationOptions
from studies.study import Options, Settings, other_half, source_name
from training.schedule import REFERENCE_SIZE
from training.training_options import RunOptions

ROOT = Path(__file__).resolve().parents[1]
# How long a node waits for the other nodes, in seconds, for example while the first node makes the training set.
SECONDS_TO_MEET = 3600
# Steps that make a data set, and the file each one makes; a step is done once its file exists.
DATA_STEPS = {'data': 'data.zip', 'data-b': 'data-b.zip'}
# The options class of each step that runs a script.
KINDS = {
    'train': RunOptions,
    'evaluate': EvaluationOptions,
    'levels': LevelsOptions,
    'agreement': AgreementOptions,
    'clocks': ClocksOptions,
}
# For each step, its options that take no value on the command line; a study file sets them to true or false.
SWITCHES = {
    step: {spelling(field) for field, option in options_in(kind) if option.switch} for step, kind in KINDS.items()
} | {'data': {name.replace('_', '-') for name, settings in OPTIONS.items() if settings.get('is_flag')}}


@dataclasses.dataclass(frozen=True)
class Resources:
    """The resources for one point. gpus_per_node: 0 lets each command choose its own device."""

    nodes: int = 1
    gpus_per_node: int = 0

    @property
    def world_size(self) -> int:
        return self.nodes * max(self.gpus_per_node, 1)


def selection_command(options: Options, dest: Path, sources: Path, extra: Mapping[str, Any] | None = None) -> list[str]:
    """Return the command-line arguments with which python makes a data set.

    options: the selection's options, and its name under the key `selection`. dest: file to write. sources: folder of
    the study's own data sets. extra: further options of the selection.
    """
    options = resolved(options, sources) | dict(extra or {})
    selection, source = options.pop('selection'), options.pop('source')
    return ['-m', 'dataset_utils', selection, *arguments({'source': source, 'dest': dest, **options}, SWITCHES['data'])]


def resolved(options: Options, sources: Path) -> Options:
    """Replace each reference to one of the study's own data sets by the data set's path, and return the options.

    options: may contain references. A reference is 'sources.NAME' or a dict made by `studies.study.with_tables`.
    sources: folder of the study's own data sets.
    """
    paths = {key: value['path'] if isinstance(value, dict) else value for key, value in options.items()}
    return {
        key: path if (name := source_name(path)) is None else str(sources / f'{name}.zip')
        for key, path in paths.items()
    }


def point_commands(
    settings: Settings,
    size: int,
    seeds: Mapping[str, int | None],
    folder: Path,
    sources: Path,
    diagnose: Mapping[str, Options],
    tables: dict[str, Options],
) -> dict[str, list[str]]:
    """Return the steps of a point, in order of execution: a dict from step names to arguments for python.

    seeds: 'train' is the seed of train.py (None for a closed form), and 'select' is the seed for drawing images (None
    takes the first images). folder: the point's folder. sources: folder of the study's own data sets. diagnose: options
    of each diagnose.py measurement, by the measurement's name. tables: the study file's tables [sources.NAME], by NAME.
    If agreement is measured, the steps 'data-b' and 'train-b' train a second network in the same way, on the other half
    of a split.
    """
    extra = {'max-images': size} | ({} if seeds['select'] is None else {'seed': seeds['select']})
    lengths = {name: length_of(name, value, size) for name, value in settings.train.items()}

    def words(step: str, options: Options) -> list[str]:
        return arguments(resolved(options, sources), SWITCHES[step])

    def train(run: Path, data: Path) -> list[str]:
        seed = arguments({'data': data, 'seed': seeds['train']})
        return ['train.py', *arguments({'outdir': run}), '--nosubdir', *seed, *words('train', lengths)]

    data, run = folder / DATA_STEPS['data'], folder / 'run'
    own = arguments({'expdir': run})
    commands = {'data': selection_command(settings.data, data, sources, extra)}
    if settings.denoiser is None:
        commands['train'] = train(run, data)
        generator = own
    else:
        generator = arguments({'data': data, 'log': run / 'mem_traj.log'})
    commands['evaluate'] = ['mem_ratio.py', *generator, f'--knn-ref={data}', *words('evaluate', settings.evaluate)]
    for name, options in diagnose.items():
        others = []
        if name == 'agreement':
            other, data_b, run_b = other_half(settings.data, tables), folder / DATA_STEPS['data-b'], folder / 'run-b'
            assert other is not None
            commands['data-b'] = selection_command(other, data_b, sources, extra)
            commands['train-b'] = train(run_b, data_b)
            others = arguments({'expdir': run_b})
        commands[name] = ['diagnose.py', name, *own, *others, *words(name, options)]
    return commands


def length_of(name: str, value: Any, size: int) -> Any:
    """The value of a train.py option at a training-set size; a length in images is converted to the option's unit."""
    if not isinstance(value, dict):
        return value
    if name in ('epochs', 'warmup'):
        return -(-value['images'] // size)
    mimg = value['images'] / 1e6 * REFERENCE_SIZE / size
    return math.ceil(mimg * 1e9) / 1e9  # rounded up, because train.py rounds scaled lengths down to whole kimg


def arguments(options: Mapping[str, Any], switches: Collection[str] = ()) -> list[str]:
    """Format options as command-line words. switches: names of options without a value."""
    is_switch = {name: name in switches and isinstance(value, bool) for name, value in options.items()}
    return [
        f'--{name}' if is_switch[name] else f'--{name}={argument(value)}'
        for name, value in options.items()
        if value or not is_switch[name]
    ]


def argument(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ','.join(map(str, value))
    return str(value)


def shell_line(command: list[str], resources: Resources) -> str:
    """Format a command so that it can be pasted into a shell in the toolkit's folder."""
    # The launch words are not quoted, so that the shell expands their variables.
    return f'{" ".join(launch_words(command, resources))} {shlex.join(command)}'


def launch_words(command: list[str], resources: Resources) -> list[str]:
    """The words that launch a command: python, or torchrun with its options if the command runs on several devices."""
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
    """The argument list for `subprocess`: this interpreter, the script's full path, and expanded variables."""
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
    """Environment variables for a command's process, so that it finds the packages from any folder."""
    paths = [str(ROOT), *filter(None, [base.get('PYTHONPATH')])]
    return {**base, 'PYTHONPATH': os.pathsep.join(paths), 'PYTHONUNBUFFERED': '1'}
