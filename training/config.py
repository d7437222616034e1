"""The complete configuration of a training run, and `resolve`, which derives it from the options and the training set.

The file `training_options.json` in a run folder holds the configuration, including the options.
"""

import dataclasses
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import torch

from dnnlib.options import check_values
from dnnlib.text_tables import write_text
from dnnlib.typed import parse_json
from dnnlib.util import ArgumentError, UserError, counted, kimg_text
from training.architectures import ARCHITECTURES
from training.augment import AUGMENT_LABELS
from training.dataset import DatasetInfo
from training.schedule import Schedule, evenly, every, logarithmically, rampup_kimg, scaled_kimg
from training.snapshot import NetworkConfig
from training.training_options import RunOptions, TrainingOptions

OPTIONS_FILE = 'training_options.json'
# Default interval between status lines, in kimg. In short runs, it is reduced to give about LEAST_TICKS lines.
DEFAULT_TICK, LEAST_TICKS = 50, 20
# A network with more classes than this, most of which have no image, gets a warning.
MANY_CLASSES = 10_000

PRECONDITIONING = {'vp': ('VPPrecond', 'VPLoss'), 've': ('VEPrecond', 'VELoss'), 'edm': ('EDMPrecond', 'EDMLoss')}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines a training run.

    options: the options, including a seed and the preset's values. dataset: properties of the training set.
    batch_gpu: largest number of images in one forward pass on one device.
    snapshots, states: image counts at which to save a snapshot or a training state, in ascending order; each file is
    saved after the first step that reaches its count.
    world_size, threads: number of ranks, and number of threads per rank; both affect the last bits of the weights.
    """

    options: TrainingOptions
    dataset: DatasetInfo
    network: NetworkConfig
    schedule: Schedule
    precision: str
    batch_gpu: int
    snapshots: list[int]
    states: list[int]
    world_size: int = 1
    threads: int = 1

    @property
    def loss(self) -> str:
        """'VPLoss', 'VELoss' or 'EDMLoss'."""
        return PRECONDITIONING[self.options.precond][1]

    @property
    def label_dim(self) -> int:
        """The network's number of classes; 0 if it is unconditional."""
        return self.dataset.num_classes if self.options.cond else 0

    @property
    def tick_images(self) -> int:
        """Number of images between two status lines; by default, short runs get about LEAST_TICKS lines."""
        if self.options.tick is not None:
            return self.options.tick * 1000
        return min(DEFAULT_TICK * 1000, max(self.schedule.batch_size, self.schedule.total_images // LEAST_TICKS))

    def save(self, run_dir: Path) -> None:
        """Write `training_options.json`."""
        content = msgspec.to_builtins(self)
        del content['options']['given']
        write_text(run_dir / OPTIONS_FILE, json.dumps(content, indent=2) + '\n')


def resolve(
    options: TrainingOptions, info: DatasetInfo, world_size: int = 1, given: Collection[str] | None = None
) -> TrainingConfig:
    """Turn options into a configuration, without reading files, printing or drawing random numbers.

    options: options with a seed. info: properties of the training set.
    given: names of the options that the user set; None means `options.given`.
    Raises ArgumentError if options contradict one another, and UserError if they do not fit the training set.
    """
    given = options.given if given is None else given
    assert options.seed is not None
    if 'duration' in given and options.epochs is not None:
        raise ArgumentError('`duration` and `epochs` both determine the training length; give only one')
    if 'snap' in given and options.snapshots is not None:
        raise ArgumentError('`snap` and `snapshots` both determine when snapshots are saved; give only one')
    if options.batch % world_size:
        raise ArgumentError(
            f'`batch`={options.batch} must be a multiple of the number of ranks ({world_size}), such as '
            f'{options.batch // world_size * world_size or world_size}'
        )
    if options.fp16 and options.precision not in (None, 'fp16'):
        raise ArgumentError(f'`fp16`=True and `precision`={options.precision} contradict each other; give only one')
    precision = 'fp16' if options.fp16 else options.precision or 'fp32'
    if options.cond and not info.num_classes:
        raise UserError(f'`cond`=True requires labels, but {info.path} has none; add labels, or remove `cond`')
    schedule = make_schedule(options, info.size)
    snapshots, states = make_plan(options, given, schedule)
    return TrainingConfig(
        options=options,
        dataset=info,
        network=make_network(options, given, info),
        schedule=schedule,
        precision=precision,
        batch_gpu=min(options.batch_gpu or options.batch, options.batch // world_size),
        snapshots=snapshots,
        states=states,
        world_size=world_size,
        threads=torch.get_num_threads(),
    )


def make_schedule(options: TrainingOptions, size: int) -> Schedule:
    if options.epochs is not None:
        total_images = options.epochs * size
    else:
        total_images = max(1, scaled_kimg(options.duration, size)) * 1000
    return Schedule(
        dataset_size=size,
        batch_size=options.batch,
        total_images=total_images,
        rampup_images=rampup_kimg(size, options.warmup) * 1000,
        ema_mode=options.ema_mode,
        ema_halflife_images=scaled_kimg(options.ema, size) * 1000,
        final_ema=options.final_ema,
        **({'ema_rampup_ratio': None} if options.transfer else {}),
    )


def make_plan(options: TrainingOptions, given: Collection[str], schedule: Schedule) -> tuple[list[int], list[int]]:
    """Image counts at which to save snapshots and training states. Raises ArgumentError if they do not fit the length.

    The error is about the length if this was given (such as when a run resumes), and the other options were not.
    """
    tick_images, total = (options.tick or DEFAULT_TICK) * 1000, schedule.total_images
    try:
        if isinstance(options.snapshots, str):
            snapshots = logarithmically(int(options.snapshots.removeprefix('log:')), total, schedule.batch_size)
        elif options.snapshots is not None:
            snapshots = evenly(options.snapshots, total, schedule.batch_size)
        else:
            snapshots = every(tick_images * options.snap, total, schedule.batch_size)
            if snapshots[0] >= 1000:  # a run shorter than 1 kimg gets no snapshot at 0 kimg
                snapshots.insert(0, 0)
        states = snapshots if options.dump is None else every(tick_images * options.dump, total, schedule.batch_size)
    except ValueError as error:
        plan = f'`snap`={options.snap}' if options.snapshots is None else f'`snapshots`={options.snapshots}'
        length = f'`duration`={options.duration:g}' if options.epochs is None else f'`epochs`={options.epochs}'
        if {'epochs', 'duration'}.intersection(given) and not {'snapshots', 'snap', 'tick', 'dump'}.intersection(given):
            raise ArgumentError(f'{length}: with {plan}, {error}; change the length, or save less often') from error
        raise ArgumentError(f'{plan}: {error}; save less often') from error
    return snapshots, [place for place in states if place]


def make_network(options: TrainingOptions, given: Collection[str], info: DatasetInfo) -> NetworkConfig:
    """The network's class and arguments. Raises ArgumentError for options that do not fit the network or the images."""
    arguments: dict[str, Any] = {
        'img_resolution': info.resolution,
        'img_channels': info.channels,
        'label_dim': info.num_classes if options.cond else 0,
        'use_fp16': bool(options.fp16 or options.precision == 'fp16'),
        **ARCHITECTURES[options.arch],
        'dropout': options.dropout,
    }
    if options.cbase is not None and 'num_channels' in given and options.cbase != options.num_channels:
        raise ArgumentError('`cbase` and `num_channels` both determine the base width; give only one')
    width = options.cbase or options.num_channels
    is_song_unet = arguments['model_type'] == 'SongUNet'
    if not is_song_unet:
        for name in ('skip_connections', 'embed'):
            if name in given:
                raise ArgumentError(f'`{name}` does not apply to `arch`={options.arch}; remove it')
        if options.cbase is not None or 'num_channels' in given:
            arguments['model_channels'] = width
        for name in ('num_blocks', 'attn_resolutions'):
            if name in given:
                arguments[name] = getattr(options, name)
    else:
        arguments['model_channels'] = width
        arguments['num_blocks'] = options.num_blocks
        arguments['attn_resolutions'] = options.attn_resolutions
        arguments['embedding_type'] = options.embed
    if options.cres is not None:
        arguments['channel_mult'] = options.cres
    if options.augment:
        arguments['augment_dim'] = AUGMENT_LABELS
    if is_song_unet:
        levels = len(arguments['channel_mult'])
        mask = options.skip_connections
        arguments['skip_connections'] = [1] * (levels * (options.num_blocks + 1)) if mask is None else mask
    try:
        config = NetworkConfig(PRECONDITIONING[options.precond][0], arguments)
        config.build('meta')
    # RuntimeError: too large for torch. TypeError: an option that the network's class does not accept.
    except (ValueError, RuntimeError, ArithmeticError, TypeError) as error:
        text = re.sub(r'^skip_connections', '`skip_connections`', str(error).split('\n')[0])
        raise ArgumentError(f'{text}; change the options of the network, or use another training set') from error
    return config


def describe(config: TrainingConfig, device_type: str) -> str:
    """The configuration as text, including the lengths computed by the scaling rules."""
    dataset, schedule, options = config.dataset, config.schedule, config.options
    parameters = config.network.build('meta').num_parameters
    kinds = counted(config.label_dim, 'class', 'd') if config.label_dim else 'unconditional'
    if options.lr and schedule.rampup_images:
        warmup = counted(schedule.rampup_images / dataset.size, 'epoch', digits=4)
        warmup += f' ({kimg_text(schedule.rampup_images / 1000)})'
        if schedule.rampup_images >= schedule.total_images:
            reached = 100 * schedule.lr_multiplier(schedule.total_images)
            warmup += f', longer than the run; the run ends at {reached:.0f} % of the learning rate'
    else:
        warmup = 'none, because it is below 1 kimg' if options.lr and options.warmup else 'none'
    if schedule.ema_mode == 'mode3':
        average = f'beta {schedule.ema_beta(schedule.total_images):.6g}'
    elif schedule.ema_halflife_images == 0:
        average = 'none, because the half-life is below 1 kimg'
    else:
        average = f'half-life {kimg_text(schedule.ema_halflife_images / 1000)}'
    average += f' ({schedule.ema_mode}; final decay per step {schedule.ema_beta(schedule.total_images):.6g})'
    lines = {
        'Training set': f'{dataset.name}: {counted(dataset.size, "image")}, {dataset.resolution}x{dataset.resolution}, '
        f'{"RGB" if dataset.channels == 3 else "grey"}, {kinds}',
        'Network': f'{config.network.class_name}, {parameters:,} parameters, {config.precision} on {device_type}',
        'Length': f'{counted(schedule.epochs, "epoch", digits=6)} = {counted(schedule.total_images, "image")} = '
        f'{counted(schedule.total_steps, "step")} '
        f'of {schedule.batch_size} on {counted(config.world_size, "rank")}',
        'Optimizer': f'{options.optimizer}, learning rate {options.lr:g}, warm-up {warmup}, '
        f'weight decay {options.weight_decay:g}',
        'Weight average': average,
        'Attention': attention_text(config),
        'Snapshots': f'{len(config.snapshots)}, at kimg ' + shortened([place // 1000 for place in config.snapshots]),
        'Seed': str(options.seed),
    }
    return as_lines(lines)


def labels_warning(config: TrainingConfig) -> list[str]:
    """A list with a warning if most of very many classes have no image, otherwise an empty list."""
    if config.label_dim <= max(MANY_CLASSES, 2 * config.dataset.size):
        return []
    return [
        f'Warning: the network has an input for each of {config.label_dim:,} classes, because the largest label is '
        f'{config.label_dim - 1:,}, but there are only {counted(config.dataset.size, "training image")}; number the '
        f'classes from 0 without gaps.'
    ]


def as_lines(texts: dict[str, str]) -> str:
    return '\n'.join(f'{name + ":":<16}{text}' for name, text in texts.items())


def attention_text(config: TrainingConfig) -> str:
    """The resolutions at which the network has self-attention, or a warning if there are none."""
    arguments, resolution = config.network.arguments, config.dataset.resolution
    if 'channel_mult' not in arguments:
        return f'as {arguments["model_type"]} defines it'
    levels = [resolution >> level for level in range(len(arguments['channel_mult']))]
    wanted = arguments.get('attn_resolutions', [32, 16, 8])
    found = [level for level in levels if level in wanted]
    if found:
        return 'at ' + ', '.join(f'{level}x{level}' for level in found)
    return (
        f'NONE: attn_resolutions is {", ".join(map(str, wanted)) or "empty"}, but the network has only the resolutions '
        f'{", ".join(map(str, levels))}'
    )


def shortened(values: list[int]) -> str:
    texts = [str(value) for value in values]
    return ', '.join(texts if len(texts) <= 8 else [*texts[:4], '…', *texts[-2:]])


class SavedRun(msgspec.Struct, frozen=True):
    """The part of `training_options.json` that is needed to resume a run; see `TrainingConfig`."""

    options: RunOptions
    network: NetworkConfig
    world_size: int
    threads: int | None = None


def require_known_data(path: str, argument: str | None) -> None:
    """Raise UserError if the training set that a run's options name is not found.

    path: the path in the options, relative to the folder in which the run was started; '' for a run on an array.
    argument: the argument that can give the training set instead, for the message; None if there is none.
    """
    if path == 'digits' or (path and os.path.exists(path)):
        return
    shown = path or 'no path, because it was trained on an array'
    remedy = 'enter its path as "data" in this file' if argument is None else f'give its path now with `{argument}`'
    raise UserError(
        f"the run's {OPTIONS_FILE} gives the training set as {shown}, which is not found from this folder; {remedy}"
    )


def read_run(run_dir: Path) -> SavedRun:
    """Read the options with which a run was started. Raises UserError if they cannot be read."""
    path = run_dir / OPTIONS_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; give the run folder that train.py made') from error
    saved = parse_json(text, SavedRun, str(path))
    try:
        check_values(saved.options)
    except ValueError as error:
        raise UserError(f'{path}: options.{error}') from error
    return saved
