"""The training loop: trains until the last snapshot or a stop signal, with status lines and statistics."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tqdm import tqdm

from dataset_utils.sources.base import range_warning
from dnnlib.util import UserError, atomic_file, format_time, kimg_text
from torch_utils import distributed
from torch_utils.distributed import print0
from torch_utils.misc import configure_backends
from torch_utils.stop_signal import StopSignal
from training.config import TrainingConfig
from training.contact_sheets import magnified_sheet, save_picture
from training.dataset import Dataset, StreamedDataset, load_dataset, stream_dataset
from training.held_out_loss import HeldOutLoss
from training.sampler_options import SamplerOptions
from training.sampling import generate_images, seed_batches
from training.snapshot import SnapshotInfo, list_states, load_state, save_network, save_state, snapshot_path, state_path
from training.trainer import Trainer

STATS_FILE = 'stats.jsonl'


def open_training_set(config: TrainingConfig) -> Dataset | StreamedDataset:
    """Load the training set, or open it for decoding during training. Raises UserError if it cannot be read."""
    if config.options.cache:
        dataset = load_dataset(config.dataset.path, progress=distributed.is_main())
        for warning in [] if dataset.on_disk else range_warning(config.dataset.path, int(dataset.images.max())):
            print0(warning)
        return dataset
    return stream_dataset(config.dataset.path, config.options.workers, progress=distributed.is_main())


def make_trainer(
    config: TrainingConfig, dataset: Dataset | StreamedDataset, device: torch.device, state_file: Path | None = None
) -> Trainer:
    """Make a new trainer, or restore one from a training state. Raises UserError if the state does not fit."""
    configure_backends(config.precision, config.options.deterministic, config.options.bench)
    trainer = Trainer(config, dataset, device)
    if state_file is not None:
        trainer.load_state_dict(load_state(state_file))
    return trainer


def run_training(trainer: Trainer, run_dir: Path, held_out: HeldOutLoss | None = None) -> int:
    """Train to the end or until a stop signal; returns the signal number, or 0 if there was none.

    run_dir: existing folder for snapshots, training states and stats.jsonl. held_out: loss to evaluate at every tick.
    Raises UserError if the loss is not finite.
    """
    num_classes = trainer.config.label_dim
    if num_classes and (empty := num_classes - len(trainer.dataset.class_sizes or {})):
        print0(f'{empty} of the {num_classes} classes have no training images; these classes will not be sampled.')
    journal = Journal(run_dir, trainer, held_out)
    stop = StopSignal()
    with stop.listen(), journal.open():
        loop(trainer, journal, stop)
    return stop.number


def loop(trainer: Trainer, journal: 'Journal', stop: StopSignal) -> None:
    """Train to the end; save and report at the image counts given in the configuration."""
    config = trainer.config
    if trainer.images == 0 and 0 in config.snapshots:
        journal.save_snapshot()
    while trainer.images < config.schedule.total_images:
        before = trainer.images
        trainer.step()
        journal.progress(trainer.images - before)
        done = trainer.images >= config.schedule.total_images
        stopping = stop.agreed() and not done

        def reached(places: Iterable[int], before: int = before) -> bool:
            return any(before < place <= trainer.images for place in places)

        snapshot_due = reached(config.snapshots)
        state_due = reached(config.states) or stopping
        if trainer.images // config.tick_images > before // config.tick_images or done or snapshot_due or state_due:
            journal.end_tick()
        # The snapshot is saved before the state: a run that is killed in between resumes from an older state and saves
        # both again. In the other order, the snapshot would be missing.
        if snapshot_due:
            journal.save_snapshot()
        if state_due:
            journal.save_state()
        if stopping:
            print0(f'Stopped at {kimg_text(trainer.images / 1000)}; the training state has been saved.')
            return


class Journal:
    """Writes a run's output: status lines, stats.jsonl, TensorBoard events, snapshots and training states."""

    def __init__(self, run_dir: Path, trainer: Trainer, held_out: HeldOutLoss | None = None):
        self.run_dir, self.trainer, self.held_out = run_dir, trainer, held_out
        self.tick = trainer.images // trainer.config.tick_images
        self.start_time = self.tick_time = time.monotonic()
        self.start_images = self.tick_images = trainer.images
        self.maintenance = 0.0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """On the main rank, open the statistics file for appending, the TensorBoard file and the progress bar."""
        with contextlib.ExitStack() as stack:
            self.bar = self.stats = self.board = None
            if distributed.is_main():
                drop_later_lines(self.run_dir / STATS_FILE, self.trainer.images)
                self.stats = stack.enter_context(open(self.run_dir / STATS_FILE, 'a', encoding='utf-8'))
                self.board = open_tensorboard(self.run_dir, self.trainer.images)
                if self.board is not None:
                    stack.callback(self.board.close)
                total = self.trainer.config.schedule.total_images
                bar = distributed.progress_bar(
                    total, 'train', folder=self.run_dir, done=self.trainer.images, lines=False
                )
                self.bar = stack.enter_context(bar)
            yield

    def progress(self, images: int) -> None:
        if self.bar is not None:
            self.bar.update(images)

    def end_tick(self) -> None:
        """Write the status line and statistics. Raises UserError if a loss or a weight is not finite."""
        trainer = self.trainer
        moments = trainer.stats.collect()
        check_finite(trainer, self.run_dir)
        now = time.monotonic()
        seconds, kimg = now - self.tick_time, (trainer.images - self.tick_images) / 1000
        self.tick += 1
        fields: dict[str, float] = {
            'Progress/tick': self.tick,
            'Progress/kimg': trainer.images / 1000,
            'Progress/epochs': trainer.images / trainer.config.dataset.size,
            'Timing/total_sec': now - self.start_time,
            'Timing/sec_per_tick': seconds,
            'Timing/sec_per_kimg': seconds / max(kimg, 1e-9),
            'Timing/maintenance_sec': self.maintenance,
            'Resources/cpu_mem_gb': psutil.Process(os.getpid()).memory_info().rss / 2**30,
        }
        if trainer.device.type == 'cuda':
            fields['Resources/peak_gpu_mem_gb'] = torch.cuda.max_memory_allocated() / 2**30
            fields['Resources/peak_gpu_mem_reserved_gb'] = torch.cuda.max_memory_reserved() / 2**30
            torch.cuda.reset_peak_memory_stats()
        if self.held_out is not None:
            fields |= self.held_out.evaluate(trainer.ema)
        if distributed.is_main():
            self.write({**fields, **{name: dataclasses.asdict(value) for name, value in moments.items()}})
            loss = moments['Loss/loss'].mean if 'Loss/loss' in moments else float('nan')
            images_left = max(0, trainer.config.schedule.total_images - trainer.images)
            seconds_left = (now - self.start_time) / max(1, trainer.images - self.start_images) * images_left
            tqdm.write(status_line(fields, loss, seconds_left), file=sys.stdout)
            sys.stdout.flush()
        self.tick_time, self.tick_images, self.maintenance = time.monotonic(), trainer.images, time.monotonic() - now

    def write(self, fields: dict[str, Any]) -> None:
        assert self.stats is not None
        self.stats.write(json.dumps({**fields, 'timestamp': time.time()}) + '\n')
        self.stats.flush()
        if self.board is not None:
            for name, value in fields.items():
                number = value['mean'] if isinstance(value, dict) else value
                self.board.add_scalar(name, number, global_step=round(fields['Progress/kimg']))
            self.board.flush()

    def save_snapshot(self) -> None:
        trainer = self.trainer

        def save() -> None:
            config = trainer.config
            sizes = (trainer.dataset.class_sizes or {}) if config.label_dim else {}
            info = SnapshotInfo(
                network=config.network,
                images=trainer.images,
                precision=config.precision,
                dataset=config.dataset.name,
                dataset_sha256=trainer.dataset.sha256,
                dataset_size=config.dataset.size,
                classes=list(sizes) or None,
                class_sizes=list(sizes.values()) or None,
                xflip=config.options.xflip,
                ema={
                    'mode': config.schedule.ema_mode,
                    'halflife_images': config.schedule.ema_halflife_images,
                    'final_ema': config.schedule.final_ema,
                    'rampup_ratio': config.schedule.ema_rampup_ratio,
                    'batch_size': config.schedule.batch_size,
                },
            )
            save_network(snapshot_path(self.run_dir, trainer.images), trainer.ema.state_dict(), info)
            if config.options.samples and trainer.images:
                self.save_samples(config.options.samples)

        self._maintain(save)

    def save_samples(self, count: int) -> None:
        """Save a contact sheet for the seeds 0 to `count` - 1 next to the snapshot, and add it to TensorBoard."""
        trainer = self.trainer
        classes = list(trainer.dataset.class_sizes or {}) if trainer.config.label_dim else None
        batches = seed_batches(range(count), trainer.config.batch_gpu)
        try:
            made = list(generate_images(trainer.ema, batches, SamplerOptions(), trainer.device, classes=classes))
        except UserError as error:
            print0(f'No contact sheet was saved: {error}.')
            return
        sheet = magnified_sheet(torch.cat([batch.images.cpu() for batch in made]))
        save_picture(snapshot_path(self.run_dir, trainer.images).with_suffix('.png'), sheet)
        if self.board is not None:
            image = np.atleast_3d(np.asarray(sheet))
            self.board.add_image('Samples', image, round(trainer.images / 1000), dataformats='HWC')

    def save_state(self) -> None:
        trainer = self.trainer
        path, keep = state_path(self.run_dir, trainer.images), trainer.config.options.keep_states
        self._maintain(lambda: save_state(path, trainer.state_dict(), keep))

    def _maintain(self, save: Callable[[], None]) -> None:
        start = time.monotonic()
        distributed.on_main(save)
        self.maintenance += time.monotonic() - start


def check_finite(trainer: Trainer, run_dir: Path | None = None) -> None:
    """Raise UserError if a loss or a weight is not finite.

    The message names the first such step and the last saved state.
    run_dir: folder of the training states; None if none are saved.
    """
    first_bad = min(distributed.gather(int(trainer.first_bad_step)))
    if first_bad >= trainer.steps and trainer.is_finite():
        return
    step = min(first_bad, trainer.steps - 1)
    states = [] if run_dir is None else list_states(run_dir)
    kept = f'the last good state is {states[-1][1].name}' if states else 'no training state was saved before that'
    raise UserError(
        f'the loss or the weights have not been finite since step {step} '
        f'({kimg_text(step * trainer.config.schedule.batch_size / 1000)}); {kept}; try a lower `lr` or `precision`=fp32'
    )


def status_line(fields: dict[str, float], loss: float, seconds_left: float) -> str:
    parts = [
        f'tick {fields["Progress/tick"]:<5d}',
        f'kimg {fields["Progress/kimg"]:<9.1f}',
        f'time {format_time(fields["Timing/total_sec"]):<12s}',
        f'{format_time(seconds_left) + " left":<16s}',
        f'sec/tick {fields["Timing/sec_per_tick"]:<7.1f}',
        f'sec/kimg {fields["Timing/sec_per_kimg"]:<7.2f}',
        f'maintenance {fields["Timing/maintenance_sec"]:<6.1f}',
        f'loss {loss:<8.4f}',
        f'cpumem {fields["Resources/cpu_mem_gb"]:<6.2f}',
    ]
    if 'Loss/test' in fields:
        parts.insert(-1, f'train {fields["Loss/train"]:<8.4f} test {fields["Loss/test"]:<8.4f}')
    if 'Resources/peak_gpu_mem_gb' in fields:
        parts.append(f'gpumem {fields["Resources/peak_gpu_mem_gb"]:<6.2f}')
        parts.append(f'reserved {fields["Resources/peak_gpu_mem_reserved_gb"]:<6.2f}')
    return ' '.join(parts).rstrip()


def drop_later_lines(path: Path, images: int) -> None:
    """Remove incomplete lines from stats.jsonl, and lines that a resumed run will write again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().split(b'\n'):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if json.loads(line)['Progress/kimg'] * 1000 <= images:
                kept.append(line + b'\n')
    with atomic_file(path) as file:
        file.write(b''.join(kept))


def open_tensorboard(run_dir: Path, images: int = 0) -> Any:
    """A TensorBoard event writer, or None if tensorboard is not installed.

    images: number of images seen when the run resumes. TensorBoard hides events logged at higher counts.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(run_dir, purge_step=round(images / 1000) + 1 if images else None)
