"""Training from Python: `train` uses images in memory; `train_in_folder` writes a run folder, as train.py does."""

import contextlib
import dataclasses
import itertools
import os
import re
import signal
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset_utils import content_sha256
from dataset_utils.sources.decoding import is_image_name
from dnnlib.locks import sole_use
from dnnlib.typed import checked_options
from dnnlib.util import UserError, counted, kimg_text, remove_partial_files, tee_output, with_option_names
from torch_utils import distributed
from torch_utils.distributed import print0
from torch_utils.misc import backends_restored
from training.config import (
    OPTIONS_FILE,
    SavedRun,
    TrainingConfig,
    as_lines,
    describe,
    labels_warning,
    read_run,
    require_known_data,
    resolve,
)
from training.cost import cost_lines
from training.dataset import Dataset, DatasetInfo, checked_labels, describe_dataset, pixels_of
from training.held_out_loss import open_held_out_loss
from training.preconditioning import Preconditioned
from training.snapshot import list_snapshots, list_states, load_network, load_state
from training.trainer import checked_state, require_same_set
from training.training_loop import STATS_FILE, check_finite, make_trainer, open_training_set, run_training
from training.training_options import FOR_FILES, FOR_FOLDERS, RunOptions, T, TrainingOptions, resumed_options

# Name of the lock file held by the process that trains in a run folder.
LOCK_FILE = '.lock'
# Networks with fewer parameters than this are trained on one thread by default.
SMALL_NETWORK = 1_000_000


def train(
    images: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | None = None,
    options: TrainingOptions | None = None,
    device: torch.device | str = 'cpu',
    run_dir: Path | str | None = None,
    resume: bool = False,
) -> Preconditioned:
    """Train a network on images in memory; returns the averaged network in evaluation mode, as a denoiser.

    images: uint8 [N, C, R, R], C = 1 or 3. labels: int [N] for a class-conditional network, or None.
    options: training options.
    run_dir: folder for snapshots, training states and statistics. None writes no files.
    resume: if `run_dir` contains a run, continue it from its newest training state; the result is bit-identical to that
        of an uninterrupted run. The images and options must be the same, but the run can be made longer. Without
        `resume`, `run_dir` must not contain a run.
    Raises UserError if an option is invalid or does not fit the images, if there is no such device, or if the loss is
    not finite. If Ctrl-C stops a run with a `run_dir`, its training state is saved before KeyboardInterrupt is raised;
    SIGTERM and SIGHUP raise SystemExit. Signals are handled only in the main thread.
    The global random states and settings of torch are the same after the call as before it.
    """
    dataset = dataset_in_memory(images, labels)
    options = checked_options(options or TrainingOptions(), TrainingOptions, 'options')
    if options.cond and labels is None:
        raise UserError('`options`: cond=True requires `labels`')
    if 'cond' in options.given and not options.cond and labels is not None:
        raise UserError('`options`: cond=False does not use `labels`; remove one of them')
    if ignored := [name for name in FOR_FILES + FOR_FOLDERS * (run_dir is None) if name in options.given]:
        without = 'for arrays' if ignored[0] in FOR_FILES else 'without `run_dir`'
        raise UserError(f'`options`: {ignored[0]} has no effect {without}; remove it')
    if resume and run_dir is None:
        raise UserError('`resume` has no effect without `run_dir`; give the folder of the run')
    cond = labels is not None
    options = dataclasses.replace(options, cond=cond, given=options.given | {'cond': cond})
    size, channels, resolution, _ = dataset.images.shape
    num_classes = 0 if dataset.labels is None else int(dataset.labels.max()) + 1
    info = DatasetInfo('', dataset.name, size, resolution, channels, num_classes)
    device = distributed.choose_device(str(device))
    saved = None if run_dir is None else run_in(Path(run_dir), resume)
    given = options.given
    options = with_seed(options) if saved is None else resumed_options(options, saved.options)
    config = resolve(options, info, given=given)
    if saved is not None:  # see `train_in_folder`
        config = dataclasses.replace(config, network=saved.network)
    for warning in labels_warning(config):
        print0(warning)
    check_precision(config.precision, device)
    with backends_restored(device):
        if run_dir is not None:
            return train_in_run_dir(config, dataset, device, Path(run_dir), saved)
        trainer = make_trainer(config, dataset, device)
        while trainer.images < config.schedule.total_images:
            trainer.step()
        check_finite(trainer)
        return trainer.ema.requires_grad_(False)


def run_in(folder: Path, resume: bool) -> SavedRun | None:
    """The run in a folder, or None if the folder contains none. Raises UserError if the run is not to be resumed."""
    if not folder.is_dir() or not ((folder / OPTIONS_FILE).exists() or list_snapshots(folder)):
        return None
    if not resume:
        raise UserError(f'`run_dir`={folder} already contains a run; give `resume`=True or another folder')
    if list_states(folder):
        saved = read_run(folder)
        if not saved.options.data:
            return saved
        raise UserError(f'`run_dir`={folder} contains a run of train.py; resume it with train.py --resume={folder}')
    if any(kimg for kimg, _ in list_snapshots(folder)):
        raise UserError(f'`run_dir`={folder} contains no training-state-*.pt to resume from; give another folder')
    return None


def train_in_run_dir(
    config: TrainingConfig, dataset: Dataset, device: torch.device, folder: Path, saved: SavedRun | None
) -> Preconditioned:
    """Train on images in memory, and save snapshots, training states and statistics in a folder; see `train`."""
    folder.mkdir(parents=True, exist_ok=True)
    held_out = open_held_out_loss(config, dataset, device)
    with sole_use(folder / LOCK_FILE, f'the run folder {folder}'):
        trainer = make_trainer(config, dataset, device, None if saved is None else list_states(folder)[-1][1])
        if saved is not None:
            print0(f'Resuming at {kimg_text(trainer.images / 1000)}.')
            report_changes(saved, config, device)
        remove_partial_files(folder, '*.safetensors', '*.pt', OPTIONS_FILE, STATS_FILE)
        config.save(folder)
        stopped_by = run_training(trainer, folder, held_out)
    if stopped_by:
        raise KeyboardInterrupt if stopped_by == signal.SIGINT else SystemExit(128 + stopped_by)
    return load_network(list_snapshots(folder)[-1][1], device)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise UserError for fp16 on a CPU, where networks would compute in float32."""
    if precision == 'fp16' and device.type == 'cpu':
        raise UserError("`precision`=fp16 requires a GPU; on a CPU choose bf16, or fp32 for the paper's numerics")


def dataset_in_memory(images: np.ndarray | Tensor, labels: np.ndarray | Tensor | None) -> Dataset:
    """Make a training set from arrays.

    Raises UserError if the images are not 8-bit, if they are not square, or if the labels do not fit.
    """
    pixels = pixels_of(images, 'images')
    if pixels.shape[2] != pixels.shape[3]:
        raise UserError(f'`images` must be square, not {pixels.shape[3]}x{pixels.shape[2]}')
    classes = checked_labels(labels, len(pixels))
    hwc = np.ascontiguousarray(pixels.cpu().numpy().transpose(0, 2, 3, 1))
    return Dataset('array', pixels, classes, content_sha256(hwc, None if classes is None else classes.tolist()))


def with_seed(options: T) -> T:
    """Return the options with a seed. If none was given, it is random and the same on every rank."""
    if options.seed is not None:
        return options
    return dataclasses.replace(options, seed=distributed.broadcast(int.from_bytes(os.urandom(4), 'little') >> 1))


def train_in_folder(options: RunOptions, device: torch.device) -> tuple[Path | None, int]:
    """Train as train.py does: start a run, resume it, or only describe it. All ranks must call this.

    Returns the run folder (None after a dry run), and the number of the signal that stopped the run, or 0.
    """
    given = options.given
    with contextlib.ExitStack() as stack:
        folder, state = distributed.on_main(lambda: claim_run(options, stack))
        saved = None
        if folder is not None:
            saved = read_run(folder)
            options = resumed_options(options, saved.options)
        else:
            options = with_seed(options)
        if saved is not None and 'data' not in given:
            require_known_data(options.data, 'data')
        config = resolve(options, describe_dataset(options.data), distributed.world_size(), given)
        if saved is not None:  # `given` may lack network options that were given at the start
            config = dataclasses.replace(config, network=saved.network)
        config = with_threads(config, options.threads, saved)
        for warning in labels_warning(config):
            print0(warning)
        if options.dry_run:
            print0(describe(config, device.type))
            images_seen = 0
            if state is not None:
                loaded = checked_state(load_state(state))
                images_seen = loaded['images']
                if 'data' in given:
                    require_same_set(loaded, open_training_set(config).sha256, options.data)
            print0(with_option_names(as_lines(cost_lines(config, device, images_seen))))
            print0('Dry run; stopping here.')
            return None, 0
        check_precision(config.precision, device)
        dataset = open_training_set(config)
        held_out = open_held_out_loss(config, dataset, device)
        trainer = make_trainer(config, dataset, device, state)
        # Nothing is written before this line, so a refused run changes no files.
        run_dir = distributed.on_main(lambda: folder or start_run(options, config, stack))
        if distributed.is_main():
            stack.enter_context(tee_output(run_dir / 'log.txt'))
            print0(describe(config, device.type))
            print0(f'Run folder: {run_dir}')
            if state is not None:
                print0(f'Resuming from {state.name}: {kimg_text(trainer.images / 1000)}.')
                if trainer.images >= config.schedule.total_images:
                    print0('The run has already reached this length, so it is not trained further.')
            if saved is not None:
                report_changes(saved, config, device)
            remove_partial_files(run_dir, '*.safetensors', '*.pt', OPTIONS_FILE, STATS_FILE)
            config.save(run_dir)
        return run_dir, run_training(trainer, run_dir, held_out)


def with_threads(config: TrainingConfig, threads: int | str, saved: SavedRun | None) -> TrainingConfig:
    """Set the number of threads, which affects the last bits of the weights, and store it in the configuration.

    'auto' means the first of these numbers that applies: the number with which a resumed run was started;
    OMP_NUM_THREADS, which torchrun and studies set; 1 for a small network, because its operations are too short to be
    split; torch's default.
    """
    number = torch.get_num_threads()
    if threads != 'auto':
        number = int(threads)
    elif saved is not None and saved.threads is not None:
        number = saved.threads
    elif 'OMP_NUM_THREADS' not in os.environ:
        parameters = config.network.build('meta').num_parameters
        number = 1 if parameters < SMALL_NETWORK else number
    torch.set_num_threads(number)
    return dataclasses.replace(config, threads=number)


def claim_run(options: RunOptions, stack: contextlib.ExitStack) -> tuple[Path | None, Path | None]:
    """Find the run to resume, and lock it until the stack is closed. Returns the result of `find_run`.

    Raises UserError if a folder's name is not UTF-8, because TensorBoard cannot write there.
    """
    folder, state = find_run(options)
    for argument, name in (('outdir', options.outdir), ('desc', options.desc), ('resume', folder)):
        if any('\ud800' <= character <= '\udfff' for character in str(name)):
            shown = str(name).encode(errors='backslashreplace').decode()
            raise UserError(f'`{argument}`={shown} is not a UTF-8 name; choose another name for the run folder')
    if folder is not None and not options.dry_run:
        stack.enter_context(sole_use(folder / LOCK_FILE, f'the run folder {folder}'))
        folder, state = find_run(options)  # another process may have saved a state in the meantime
    return folder, state


def start_run(options: RunOptions, config: TrainingConfig, stack: contextlib.ExitStack) -> Path:
    """Make a new run's folder, and lock it until the stack is closed."""
    run_dir = make_run_dir(options, config)
    stack.enter_context(sole_use(run_dir / LOCK_FILE, f'the run folder {run_dir}'))
    if find_run(options)[0] is not None:
        raise UserError(f'another process has just started a run in {run_dir}; choose another folder')
    return run_dir


def report_changes(saved: SavedRun, config: TrainingConfig, device: torch.device) -> None:
    """Warn if a different number of ranks or threads will change the last bits of a resumed run's weights."""
    before, now = [saved.world_size], [config.world_size]
    if device.type == 'cpu' and saved.threads is not None:
        before, now = [*before, saved.threads], [*now, config.threads]
    if before != now:
        texts = [' and '.join(map(counted, numbers, ('rank', 'thread'))) for numbers in (before, now)]
        print0(
            f'Warning: the run was started with {texts[0]} and resumes with {texts[1]}; its weights will differ '
            f'from an uninterrupted run in the last bits.'
        )


def find_run(options: RunOptions) -> tuple[Path | None, Path | None]:
    """The folder of the run to resume, and its training state; both are None if a new run starts.

    If the run folder has snapshots after 0 kimg but no training state, only the state is None: the run starts again
    from 0 kimg, but keeps its saved options, so that the folder does not mix snapshots of different runs.
    """
    if options.resume is not None:
        path = Path(options.resume)
        if path.is_file() and path.suffix != '.pt':
            raise UserError(f'`resume`={path} is not a training state; give a run folder or a training-state-*.pt')
        if path.is_file():
            return path.parent, path
        if not path.is_dir():
            raise UserError(f'`resume`={path}: no such file or folder; give a run folder or a training-state-*.pt')
        states = list_states(path)
        if not states:
            raise UserError(
                f'`resume`={path} contains no training-state-*.pt to resume from; start a new run, or give the '
                f'folder of a run that saved one'
            )
        return path, states[-1][1]
    folder = Path(options.outdir)
    if options.nosubdir and (folder / OPTIONS_FILE).is_file():
        states = list_states(folder)
        if states:
            return folder, states[-1][1]
        if any(kimg for kimg, _ in list_snapshots(folder)):
            return folder, None
    elif options.nosubdir and folder.is_dir():
        images = sorted(path.name for path in folder.iterdir() if is_image_name(path.name))
        if images:  # in a run folder, they could no longer be used as a training set
            raise UserError(f'`outdir`={folder} contains images, such as {images[0]}; choose another folder')
    return None, None


def make_run_dir(options: RunOptions, config: TrainingConfig) -> Path:
    """Make the run folder: `outdir` itself with `nosubdir`, otherwise a subfolder of it.

    The subfolder's name consists of a running number and the main options.
    """
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    if options.nosubdir:
        return outdir
    numbers = [int(match[0]) for path in outdir.iterdir() if (match := re.match(r'\d+', path.name)) and path.is_dir()]
    condition = 'cond' if config.label_dim else 'uncond'
    name = (
        f'{config.dataset.name}-{condition}-{options.arch}-{options.precond}-gpus{config.world_size}'
        f'-batch{config.schedule.batch_size}-{config.precision}{f"-{options.desc}" if options.desc else ""}'
    )
    for number in itertools.count(max(numbers, default=-1) + 1):
        with contextlib.suppress(FileExistsError):  # another process has made this folder
            run_dir = outdir / f'{number:05d}-{name}'
            run_dir.mkdir()
            break
    return run_dir
