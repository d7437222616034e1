"""Train a denoiser on a data set: parses the options, resolves them into one configuration, and runs it."""

import functools
import os
import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cli.command import parsed
from dnnlib.options import integer_list
from dnnlib.util import UserError, report_errors, tee_output
from torch_utils import distributed
from torch_utils.distributed import print0
from training.config import OPTIONS_FILE, DatasetConfig, OptimizerConfig, TrainingConfig, read_options
from training.dataset import DatasetInfo, describe_dataset
from training.schedule import EMA_MODES, WARMUP_EPOCHS, Schedule, evenly, every, rampup_kimg, scaled_kimg
from training.snapshot import NetworkConfig, list_states
from training.training_loop import open_training_set, run_training

# Options that a preset stands for; each can be given all the same.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's basic run on CIFAR-10.
    'paper': {
        'arch': 'ddpmpp', 'precond': 'vp', 'duration': 2000, 'batch': 512, 'lr': 2e-4, 'ema': 0.5, 'dropout': 0.13,
        'augment': 0, 'xflip': False, 'window_size': 0, 'num_blocks': 2, 'num_channels': 128, 'attn_resolutions': [16],
        'embed': 'positional', 'weight_decay': 0, 'ema_mode': 'mode2', 'seed': 1024,
    },
    # A small network for the built-in 8x8 digits, which two CPU cores train in a minute or two.
    'digits': {
        'arch': 'ddpmpp', 'precond': 'vp', 'batch': 64, 'lr': 2e-3, 'ema': 5, 'dropout': 0, 'augment': 0, 'xflip':
        False, 'window_size': 0, 'num_blocks': 1, 'num_channels': 16, 'attn_resolutions': [4], 'embed': 'positional',
        'weight_decay': 0, 'ema_mode': 'mode1', 'seed': 1024,
    },
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'ddpmpp': {
        'model_type': 'SongUNet',
        'channel_mult': [2, 2, 2],
        'encoder_type': 'standard',
        'decoder_type': 'standard',
        'channel_mult_noise': 1,
        'resample_filter': [1, 1],
    },
    'ncsnpp': {
        'model_type': 'SongUNet',
        'channel_mult': [2, 2, 2],
        'encoder_type': 'residual',
        'decoder_type': 'standard',
        'channel_mult_noise': 2,
        'resample_filter': [1, 3, 3, 1],
    },
    'adm': {'model_type': 'DhariwalUNet', 'model_channels': 192, 'channel_mult': [1, 2, 3, 4]},
}
PRECONDITIONING = {'vp': ('VPPrecond', 'VPLoss'), 've': ('VEPrecond', 'VELoss'), 'edm': ('EDMPrecond', 'EDMLoss')}
AUGMENT_LABELS = 9

# What may differ when a training is continued: its length, its files, and where and how it runs.
CHANGEABLE = {
    'outdir', 'desc', 'nosubdir', 'resume', 'dry_run', 'duration', 'epochs', 'snapshots', 'tick', 'snap', 'dump',
    'device', 'workers', 'cache', 'bench', 'data',
}  # fmt: skip

_positive = click.FloatRange(min=0, min_open=True)


def chain(options: Any) -> Any:
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def main_options(command: Any) -> Any:
    return chain(
        [
            click.option('--outdir', metavar='DIR', type=str, required=True, help='Where to save the run.'),
            click.option('--data', metavar='ZIP|DIR', type=str, required=True, help='Training set.'),
            click.option('--preset', metavar='|'.join(PRESETS), type=click.Choice(list(PRESETS)), help='Start from the options of a known run.'),
            click.option('--cond', metavar='BOOL', type=bool, default=False, show_default=True, help='Train a class-conditional network.'),
            click.option('--arch', metavar='ddpmpp|ncsnpp|adm', type=click.Choice(list(ARCHITECTURES)), default='ddpmpp', show_default=True, help='Network architecture.'),
            click.option('--precond', metavar='vp|ve|edm', type=click.Choice(list(PRECONDITIONING)), default='edm', show_default=True, help='Preconditioning and loss.'),
        ]
    )(command)  # fmt: skip


def length_options(command: Any) -> Any:
    return chain(
        [
            click.option('--duration', metavar='MIMG', type=_positive, default=200, show_default=True, help='Training length at 50,000 images; scales with the size of the training set: 1 is 20 epochs.'),
            click.option('--epochs', metavar='INT', type=click.IntRange(min=1), help='Training length in passes over the training set, instead of --duration.'),
            click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=512, show_default=True, help='Images per step, over all ranks.'),
            click.option('--batch-gpu', metavar='INT', type=click.IntRange(min=1), help='Most images of one forward pass. [default: a rank\'s share of --batch]'),
            click.option('--lr', metavar='FLOAT', type=click.FloatRange(min=0), default=10e-4, show_default=True, help='Learning rate.'),
            click.option('--warmup', metavar='EPOCHS', type=click.IntRange(min=0), default=WARMUP_EPOCHS, show_default=True, help='The learning rate rises linearly over this many passes over the training set.'),
            click.option('--ema', metavar='MIMG', type=click.FloatRange(min=0), default=0.5, show_default=True, help='Half-life of the weight average at 50,000 images; scales likewise.'),
            click.option('--ema_mode', metavar='|'.join(EMA_MODES), type=click.Choice(EMA_MODES), default='mode2', show_default=True, help='Rule of the weight average: docs/training.md.'),
            click.option('--final-ema', metavar='FLOAT', type=click.FloatRange(min=0, max=1), default=0.99929, show_default=True, help='Weight of the old average per step after warm-up, for mode4.'),
            click.option('--optimizer', metavar='Adam|SGD', type=click.Choice(['Adam', 'SGD']), default='Adam', show_default=True, help='Optimizer.'),
            click.option('--momentum', metavar='FLOAT', type=click.FloatRange(min=0), default=0.9, show_default=True, help='Momentum of SGD.'),
            click.option('--weight-decay', metavar='FLOAT', type=click.FloatRange(min=0), default=0, show_default=True, help='L2 term in the gradient.'),
        ]
    )(command)  # fmt: skip


def network_options(command: Any) -> Any:
    return chain(
        [
            click.option('--num-blocks', metavar='INT', type=click.IntRange(min=1), default=4, show_default=True, help='Residual blocks per resolution.'),
            click.option('--num-channels', metavar='INT', type=click.IntRange(min=4), default=128, show_default=True, help='Base width.'),
            click.option('--cbase', metavar='INT', type=click.IntRange(min=4), help='EDM\'s name of --num-channels.'),
            click.option('--cres', metavar='LIST', type=parsed(integer_list), help='Width per resolution, as multiples of the base width. [default: the architecture\'s]'),
            click.option('--attn-resolutions', metavar='LIST', type=parsed(integer_list), default='16', show_default=True, help='Resolutions with self-attention.'),
            click.option('--embed', metavar='positional|fourier', type=click.Choice(['positional', 'fourier']), default='positional', show_default=True, help='Embedding of the noise level.'),
            click.option('--skip-connections', metavar='LIST', type=parsed(integer_list), help='One 0 or 1 for each skip connection, from the highest resolution down. [default: all 1]'),
            click.option('--dropout', metavar='FLOAT', type=click.FloatRange(min=0, max=1, max_open=True), default=0.13, show_default=True, help='Dropout probability.'),
        ]
    )(command)  # fmt: skip


def data_options(command: Any) -> Any:
    return chain(
        [
            click.option('--augment', metavar='FLOAT', type=click.FloatRange(min=0, max=1), default=0.12, show_default=True, help='Augmentation probability.'),
            click.option('--xflip', metavar='BOOL', type=bool, default=False, show_default=True, help='Draw mirrored images as well.'),
            click.option('--window-size', metavar='FLOAT', type=click.FloatRange(min=0, max=1), default=0.5, show_default=True, help='Share of the order of images within which it is shuffled on; 0 keeps it fixed.'),
            click.option('--cache', metavar='BOOL', type=bool, default=True, show_default=True, help='Keep all images in memory.'),
            click.option('--workers', metavar='INT', type=click.IntRange(min=1), default=1, show_default=True, help='Threads that decode images, with --cache=False.'),
        ]
    )(command)  # fmt: skip


def performance_options(command: Any) -> Any:
    return chain(
        [
            click.option('--device', metavar='auto|cuda|mps|cpu', default='auto', show_default=True, help='Device to compute on.'),
            click.option('--precision', metavar='fp32|tf32|bf16|fp16', type=click.Choice(['fp32', 'tf32', 'bf16', 'fp16']), help='Arithmetic of the network. [default: fp32]'),
            click.option('--fp16', metavar='BOOL', type=bool, default=False, show_default=True, help='EDM\'s name of --precision=fp16.'),
            click.option('--ls', metavar='FLOAT', type=_positive, default=1, show_default=True, help='Loss scaling.'),
            click.option('--compile', metavar='BOOL', type=bool, default=False, show_default=True, help='Compile the network.'),
            click.option('--deterministic', metavar='BOOL', type=bool, default=False, show_default=True, help='The same bits every time on a GPU too; turns --bench off.'),
            click.option('--bench', metavar='BOOL', type=bool, default=True, show_default=True, help='Let cuDNN choose its kernels by trying them.'),
        ]
    )(command)  # fmt: skip


def file_options(command: Any) -> Any:
    return chain(
        [
            click.option('--desc', metavar='STR', type=str, help='Text at the end of the run folder\'s name.'),
            click.option('--nosubdir', is_flag=True, help='Save in --outdir itself; go on there if a training was stopped.'),
            click.option('--tick', metavar='KIMG', type=click.IntRange(min=1), default=50, show_default=True, help='How often to print a status line.'),
            click.option('--snap', metavar='TICKS', type=click.IntRange(min=1), default=50, show_default=True, help='How often to save a snapshot.'),
            click.option('--dump', metavar='TICKS', type=click.IntRange(min=1), help='How often to save a training state. [default: with every snapshot]'),
            click.option('--snapshots', metavar='INT', type=click.IntRange(min=1), help='Save this many snapshots, evenly spaced, instead of --snap.'),
            click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**31 - 1), help='Seed of everything random. [default: random]'),
            click.option('--transfer', metavar='FILE', type=str, help='Start from the weights of a snapshot, or of a network pickle of EDM.'),
            click.option('--resume', metavar='DIR|FILE', type=str, help='Go on with a run, from its newest training state or from this one.'),
            click.option('-n', '--dry-run', is_flag=True, help='Print what would be done, and stop.'),
        ]
    )(command)  # fmt: skip


@click.command()
@main_options
@length_options
@network_options
@data_options
@performance_options
@file_options
@click.pass_context
@report_errors
def main(ctx: click.Context, **options: Any) -> None:
    """Train a denoiser on a data set.

    Snapshots of the averaged weights, training states and statistics go to a numbered folder in --outdir. Ctrl-C saves
    the training state; the same command with --nosubdir, or --resume, goes on bit for bit.

    \b
    # The built-in digits on a laptop
    python train.py --outdir=runs --data=digits --preset=digits --epochs=100 --snapshots=2

    \b
    # The paper's basic run on one machine with 8 GPUs
    torchrun --standalone --nproc_per_node=8 train.py --outdir=runs \\
        --data=datasets/cifar10/cifar10-1000.zip --preset=paper
    """
    given = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    device = distributed.choose_device(options['device'])
    with distributed.process_group(device):
        folder, state = find_continuation(options)
        if folder is not None:
            options = continued_options(options, given, read_options(folder))
        else:
            options = with_preset(options, given)
            if options['seed'] is None:
                options['seed'] = int.from_bytes(os.urandom(4), 'little') >> 1
            options['seed'] = distributed.broadcast(options['seed'])
        info = describe_dataset(options['data'])
        config = configure(options, given, info, distributed.world_size())
        if options['dry_run']:
            print0(describe(config, device.type))
            print0('Dry run; stopping here.')
            return
        if config.precision == 'fp16' and device.type == 'cpu':
            raise UserError("--precision=fp16 needs a GPU; on a CPU choose bf16, or fp32 for the paper's numerics")
        dataset = open_training_set(config)
        run_dir = distributed.on_main(lambda: folder or make_run_dir(options, config))
        if distributed.is_main():
            with tee_output(run_dir / 'log.txt'):
                print0(describe(config, device.type))
                print0(f'Run folder: {run_dir}')
                config.save(run_dir)
                stopped_by = run_training(config, dataset, run_dir, device, state)
        else:
            stopped_by = run_training(config, dataset, run_dir, device, state)
    if stopped_by:
        ctx.exit(128 + stopped_by)


def with_preset(options: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Options with a preset's values in place of those that were not given."""
    if options['preset'] is None:
        return options
    values = PRESETS[options['preset']]
    return {name: values[name] if name in values and name not in given else value for name, value in options.items()}


def find_continuation(options: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """The folder of a run to go on with, and its training state, or None each for a new run."""
    if options['resume'] is not None:
        path = Path(options['resume'])
        if path.is_file():
            return path.parent, path
        if not path.is_dir():
            raise UserError(f'--resume={path}: no such file or folder; give a run folder or a training-state-*.pt')
        states = list_states(path)
        if not states:
            raise UserError(f'--resume={path}: no training-state-*.pt in it; nothing to go on from')
        return path, states[-1][1]
    folder = Path(options['outdir'])
    if options['nosubdir'] and (folder / OPTIONS_FILE).is_file():
        states = list_states(folder)
        return folder, states[-1][1] if states else None
    return None, None


def continued_options(options: dict[str, Any], given: set[str], saved: dict[str, Any]) -> dict[str, Any]:
    """The options of the run as it was started, with those that may change taken from this command.

    Raises UserError, naming it, for an option that is given and differs.
    """
    result = dict(options)
    for name, value in saved.items():
        if name in options and (name not in given or name not in CHANGEABLE):
            if name in given and options[name] != value:
                raise UserError(
                    f'--{name.replace("_", "-")}={options[name]}: the training was started with {value}; '
                    f'leave the option out to go on, or start a new run in another --outdir'
                )
            result[name] = value
    # A new length in one unit replaces the old one in the other.
    if 'duration' in given:
        result['epochs'] = options['epochs']
    if given & {'tick', 'snap'}:
        result['snapshots'] = options['snapshots']
    for name in ('outdir', 'nosubdir', 'resume', 'dry_run', 'device'):
        result[name] = options[name]
    return result


def configure(options: dict[str, Any], given: set[str], info: DatasetInfo, world_size: int) -> TrainingConfig:
    """Resolve the command line's options: nothing is read, printed or drawn here.

    options: values by option. given: those that stood on the command line. info: what the training set is.
    Raises click.UsageError, or UserError where the options and the training set do not fit together.
    """
    if 'duration' in given and options['epochs'] is not None:
        raise click.UsageError('--duration and --epochs both give the length; choose one')
    if 'snap' in given and options['snapshots'] is not None:
        raise click.UsageError('--snap and --snapshots both say when to save a snapshot; choose one')
    if options['batch'] % world_size:
        raise click.UsageError(
            f'--batch={options["batch"]} must be a multiple of the {world_size} ranks; '
            f'{options["batch"] // world_size * world_size or world_size} would be'
        )
    if options['fp16'] and options['precision'] not in (None, 'fp16'):
        raise click.UsageError(f'--fp16=True and --precision={options["precision"]} differ; choose one')
    precision = 'fp16' if options['fp16'] else options['precision'] or 'fp32'
    if options['cond'] and not info.num_classes:
        raise UserError(f'--cond=True: {info.path} has no labels; make it from a source that has, or leave --cond out')
    schedule = make_schedule(options, info.size)
    tick_images = options['tick'] * 1000
    snapshots, states = make_plan(options, schedule)
    return TrainingConfig(
        dataset=DatasetConfig(
            path=options['data'],
            name=info.name,
            size=info.size,
            resolution=info.resolution,
            channels=info.channels,
            label_dim=info.num_classes if options['cond'] else 0,
            xflip=options['xflip'],
            window_size=options['window_size'],
            cache=options['cache'],
            workers=options['workers'],
        ),
        network=make_network(options, given, info),
        loss=PRECONDITIONING[options['precond']][1],
        augment=options['augment'],
        optimizer=OptimizerConfig(options['optimizer'], options['lr'], options['weight_decay'], options['momentum']),
        schedule=schedule,
        batch_gpu=min(options['batch_gpu'] or options['batch'], options['batch'] // world_size),
        seed=options['seed'],
        loss_scaling=options['ls'],
        tick_images=tick_images,
        snapshots=snapshots,
        states=states,
        precision=precision,
        compile=options['compile'],
        deterministic=options['deterministic'],
        benchmark=options['bench'] and not options['deterministic'],
        transfer=options['transfer'],
        world_size=world_size,
        options=options,
    )


def make_schedule(options: dict[str, Any], size: int) -> Schedule:
    if options['epochs'] is not None:
        total_images = options['epochs'] * size
    else:
        total_images = max(1, scaled_kimg(options['duration'], size)) * 1000
    return Schedule(
        dataset_size=size,
        batch_size=options['batch'],
        total_images=total_images,
        rampup_images=rampup_kimg(size, options['warmup']) * 1000,
        ema_mode=options['ema_mode'],
        ema_halflife_images=scaled_kimg(options['ema'], size) * 1000,
        final_ema=options['final_ema'],
        **({'ema_rampup_ratio': None} if options['transfer'] else {}),
    )


def make_plan(options: dict[str, Any], schedule: Schedule) -> tuple[list[int], list[int]]:
    """Numbers of images at which to save snapshots and training states."""
    tick_images, total = options['tick'] * 1000, schedule.total_images
    if options['snapshots'] is not None:
        try:
            snapshots = evenly(options['snapshots'], total, schedule.batch_size)
        except ValueError as error:
            raise click.UsageError(f'--snapshots={options["snapshots"]}: {error}; ask for fewer') from error
    else:
        snapshots = every(tick_images * options['snap'], total, schedule.batch_size)
        if snapshots[0] >= 1000:  # otherwise both would be named after 0 kimg
            snapshots.insert(0, 0)
    states = snapshots if options['dump'] is None else every(tick_images * options['dump'], total, schedule.batch_size)
    return snapshots, [place for place in states if place]


def make_network(options: dict[str, Any], given: set[str], info: DatasetInfo) -> NetworkConfig:
    """Class and arguments of the network. Raises click.UsageError where an option does not apply or fit."""
    arguments: dict[str, Any] = {
        'img_resolution': info.resolution,
        'img_channels': info.channels,
        'label_dim': info.num_classes if options['cond'] else 0,
        'use_fp16': bool(options['fp16'] or options['precision'] == 'fp16'),
        **ARCHITECTURES[options['arch']],
        'dropout': options['dropout'],
    }
    if options['cbase'] is not None and 'num_channels' in given and options['cbase'] != options['num_channels']:
        raise click.UsageError('--cbase and --num-channels both give the base width; choose one')
    width = options['cbase'] or options['num_channels']
    if options['arch'] == 'adm':
        for name in ('skip_connections', 'embed'):
            if name in given:
                raise click.UsageError(f'--{name.replace("_", "-")} does not apply to --arch=adm; leave it out')
        if options['cbase'] is not None or 'num_channels' in given:
            arguments['model_channels'] = width
        for name in ('num_blocks', 'attn_resolutions'):
            if name in given:
                arguments[name] = options[name]
    else:
        arguments['model_channels'] = width
        arguments['num_blocks'] = options['num_blocks']
        arguments['attn_resolutions'] = options['attn_resolutions']
        arguments['embedding_type'] = options['embed']
    if options['cres'] is not None:
        arguments['channel_mult'] = options['cres']
    if options['augment']:
        arguments['augment_dim'] = AUGMENT_LABELS
    if options['arch'] != 'adm':
        levels = len(arguments['channel_mult'])
        mask = options['skip_connections']
        arguments['skip_connections'] = [1] * (levels * (options['num_blocks'] + 1)) if mask is None else mask
    config = NetworkConfig(PRECONDITIONING[options['precond']][0], arguments)
    try:
        config.build('meta')
    except ValueError as error:
        text = re.sub(r'^skip_connections', '--skip-connections', str(error))
        raise click.UsageError(f'{text}; mend the option, or choose another --data') from error
    return config


def describe(config: TrainingConfig, device_type: str) -> str:
    """What the scaling rules made of the options, in plain words."""
    dataset, schedule, optimizer = config.dataset, config.schedule, config.optimizer
    parameters = sum(p.numel() for p in config.network.build('meta').parameters())
    kinds = f'{dataset.label_dim} classes' if dataset.label_dim else 'unconditional'
    if config.optimizer.lr and schedule.rampup_images:
        warmup = f'{schedule.rampup_images / dataset.size:.4g} epochs ({schedule.rampup_images / 1000:g} kimg)'
    else:
        warmup = 'none'
    if schedule.ema_mode == 'mode3':
        average = f'beta {schedule.ema_beta(schedule.total_images):.6g}'
    elif schedule.ema_halflife_images == 0:
        average = 'none: its half-life is below 1 kimg'
    else:
        average = f'half-life {schedule.ema_halflife_images / 1000:g} kimg'
    average += (
        f' ({schedule.ema_mode}; weight of the old average at the end {schedule.ema_beta(schedule.total_images):.6g})'
    )
    lines = {
        'Training set': f'{dataset.name}: {dataset.size:,} images, {dataset.resolution}x{dataset.resolution}, '
        f'{"RGB" if dataset.channels == 3 else "grey"}, {kinds}',
        'Network': f'{config.network.class_name}, {parameters:,} parameters, {config.precision} on {device_type}',
        'Length': f'{schedule.epochs:,.6g} epochs = {schedule.total_images:,} images = {schedule.total_steps:,} steps '
        f'of {schedule.batch_size} on {config.world_size} rank{"s" if config.world_size > 1 else ""}',
        'Optimizer': f'{optimizer.name}, learning rate {optimizer.lr:g}, warm-up {warmup}, '
        f'weight decay {optimizer.weight_decay:g}',
        'Weight average': average,
        'Snapshots': f'{len(config.snapshots)}, at kimg ' + shortened([place // 1000 for place in config.snapshots]),
        'Seed': str(config.seed),
    }
    return '\n'.join(f'{name + ":":<16}{text}' for name, text in lines.items())


def shortened(values: list[int]) -> str:
    texts = [str(value) for value in values]
    return ', '.join(texts if len(texts) <= 8 else [*texts[:4], '…', *texts[-2:]])


def make_run_dir(options: dict[str, Any], config: TrainingConfig) -> Path:
    """Make the run's folder: --outdir itself with --nosubdir, else the next number in it with a telling name."""
    outdir = Path(options['outdir'])
    if options['nosubdir']:
        outdir.mkdir(parents=True, exist_ok=True)
        return outdir
    outdir.mkdir(parents=True, exist_ok=True)
    numbers = [int(match[0]) for path in outdir.iterdir() if (match := re.match(r'\d+', path.name)) and path.is_dir()]
    condition = 'cond' if config.dataset.label_dim else 'uncond'
    name = (
        f'{max(numbers, default=-1) + 1:05d}-{config.dataset.name}-{condition}-{options["arch"]}-{options["precond"]}'
        f'-gpus{config.world_size}-batch{config.schedule.batch_size}-{config.precision}'
    )
    if options['desc']:
        name += f'-{options["desc"]}'
    run_dir = outdir / name
    run_dir.mkdir()
    return run_dir


if __name__ == '__main__':
    main()
