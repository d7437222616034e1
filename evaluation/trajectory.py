"""The memorization ratio of every snapshot of a run, from sampler to neighbours in memory, over any number of ranks."""

import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dnnlib.util import UserError, atomic_file, format_time
from evaluation.best import BEST_NAME, read_best, write_best
from evaluation.images import gallery, rms_per_pixel, save_images
from evaluation.memorization import Memorization, TrainingImages
from evaluation.records import (
    PartialResults,
    append_record,
    find_record,
    format_seeds,
    read_records,
    versions,
)
from torch_utils import distributed
from torch_utils.misc import configure_backends
from training.dataset import Dataset
from training.preconditioning import Preconditioned
from training.sampling import GeneratedBatch, SamplerOptions, generate_images, seed_batches
from training.snapshot import SnapshotInfo, list_snapshots, load_network, read_info

# What is known of an interrupted snapshot is saved at most this often.
SECONDS_BETWEEN_SAVES = 5.0
GALLERY_SIZE = 48


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How snapshots are sampled and judged. precision: None keeps that of the training."""

    seeds: list[int]
    batch_size: int
    sampler: SamplerOptions
    class_index: int | None = None
    precision: str | None = None
    save_images: bool = False
    subdirs: bool = False


def evaluate_run(
    run_dir: Path, reference: Dataset, evaluation: Evaluation, log_path: Path, device: torch.device
) -> dict[str, Any]:
    """Evaluate every snapshot of a run but that at 0 kimg, newest first; return the record of the highest ratio.

    log_path: one readable line per snapshot goes there, and one record per snapshot beside it, as .jsonl. Ranks share
    the batches of seeds; the records are the same at any world size.
    Raises UserError where there is nothing to evaluate or where a snapshot does not fit the reference.
    """
    snapshots = [(kimg, path) for kimg, path in reversed(list_snapshots(run_dir)) if kimg]
    if not snapshots:
        raise UserError(
            f'--expdir={run_dir}: no network-snapshot-*.safetensors or .pkl in it, but for one at 0 kimg at most'
        )
    training = TrainingImages(reference.images, device, name=f'--knn-ref={reference.name}')
    infos = [read_info(path) for _, path in snapshots]
    for (_, path), info in zip(snapshots, infos, strict=True):
        check_fits(path, info, reference, evaluation)
    records_path = log_path.with_suffix('.jsonl')
    kept_path = log_path.with_name(BEST_NAME)
    judges = [
        SnapshotJudge(path, info, reference, training, evaluation, device)
        for (_, path), info in zip(snapshots, infos, strict=True)
    ]
    records: list[dict[str, Any]] = []
    with progress_bar(len(snapshots) * len(evaluation.seeds)) as bar:
        for judge in judges:
            record = distributed.on_main(
                lambda judge=judge: find_record(read_records(records_path), judge.settings)  # type: ignore[misc]
            )
            if record is None:
                record, result = judge.run(bar, log_path)
                if all(height(record) > height(earlier) for earlier in records):
                    judge.keep(kept_path, result)
            else:
                bar.update(len(evaluation.seeds))
                if distributed.is_main():
                    tqdm.write(f'{log_line(record)}  (evaluated before)')
            records.append(record)
        best = max(records, key=height)
        judge = judges[records.index(best)]
        if not distributed.on_main(lambda: read_best(kept_path, judge.settings) is not None):
            bar.total += len(evaluation.seeds)
            judge.keep(kept_path, judge.judge_all(bar, log_path))
            distributed.on_main(lambda: partial_path(log_path).unlink(missing_ok=True))
    distributed.on_main(lambda: save_gallery(run_dir / 'mem_gallery.png', kept_path, judge))
    return best


def height(record: dict[str, Any]) -> tuple[float, float]:
    """By what the best record is chosen: its ratio, and of equal ones the later snapshot."""
    return record['ratio'], record['kimg']


def progress_bar(total: int) -> tqdm:
    """A bar of images on the main rank's terminal."""
    hidden = None if distributed.is_main() else True  # None: hidden where stderr is not a terminal
    return tqdm(total=total, unit='img', desc='evaluate', disable=hidden, leave=False)


def settings_of(path: Path, info: SnapshotInfo, reference: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """What the numbers of a snapshot's record depend on; see `evaluation.records.SETTINGS`."""
    return {
        'snapshot': path.name,
        'snapshot_sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
        'dataset_sha256': reference.sha256,
        'sampler': {
            'name': evaluation.sampler.name,
            **{key: str(v) if v == float('inf') else v for key, v in evaluation.sampler.given().items()},
        },
        'seeds': format_seeds(evaluation.seeds),
        'class_index': evaluation.class_index,
        'batch': evaluation.batch_size,
        'precision': evaluation.precision or info.precision,
    }


def check_fits(path: Path, info: SnapshotInfo, reference: Dataset, evaluation: Evaluation) -> None:
    """Raise UserError where a snapshot's images differ in shape from the reference's, or where it lacks the class."""
    arguments = info.network.arguments
    made = arguments['img_channels'], arguments['img_resolution'], arguments['img_resolution']
    if made != tuple(reference.images.shape[1:]):
        _, channels, height, width = reference.images.shape
        raise UserError(
            f'--knn-ref={reference.name} has {width}x{height} images of {channels} channels, but {path} makes '
            f'{made[2]}x{made[1]} of {made[0]}; give the training set of that run'
        )
    check_class(evaluation.class_index, arguments.get('label_dim', 0))


def check_class(class_index: int | None, label_dim: int) -> None:
    """Raise UserError where a class is asked for that a network does not have."""
    if class_index is None:
        return
    if not label_dim:
        raise UserError(f'--class={class_index}: the network is unconditional; leave --class out')
    if class_index >= label_dim:
        raise UserError(f'--class={class_index}: the network has {label_dim} classes, 0 to {label_dim - 1}')


class SnapshotJudge:
    """Evaluates one snapshot."""

    def __init__(
        self,
        path: Path,
        info: SnapshotInfo,
        reference: Dataset,
        training: TrainingImages,
        evaluation: Evaluation,
        device: torch.device,
    ):
        self.path, self.info = path, info
        self.reference, self.training, self.evaluation, self.device = reference, training, evaluation, device
        self.image_dir = path.parent / f'images-{path.stem.split("-")[-1]}'

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.path, self.info, self.reference, self.evaluation)

    def run(self, bar: tqdm, log_path: Path) -> tuple[dict[str, Any], Memorization]:
        """Judge all seeds, and write the record and the log's line on the main rank; returns the record as well."""
        start = time.monotonic()
        result = self.judge_all(bar, log_path)
        record = self.record(result, time.monotonic() - start)

        def write() -> None:
            if self.evaluation.save_images:
                self.write_table(result)
            append_record(log_path.with_suffix('.jsonl'), record)
            with open(log_path, 'a', encoding='utf-8') as log:
                log.write(log_line(record) + '\n')
            partial_path(log_path).unlink(missing_ok=True)
            tqdm.write(log_line(record))

        distributed.on_main(write)
        return record, result

    def judge_all(self, bar: tqdm, log_path: Path) -> Memorization:
        """Sample and judge all seeds that are not known from an interrupted evaluation, over all ranks."""
        partial = distributed.on_main(lambda: PartialResults(partial_path(log_path), self.settings))
        if not distributed.is_main():
            partial.path = None
        self.judge_rest(self.load(), partial, bar)
        return self.training.summarize(*partial.arrays(self.evaluation.seeds))

    def keep(self, path: Path, result: Memorization) -> None:
        """Write what is kept of the best snapshot, on the main rank."""
        evaluation = self.evaluation

        def write() -> None:
            net = self.load()
            write_best(path, self.settings, evaluation.seeds, evaluation.batch_size, result,
                       lambda batches: self.generate(net, batches))  # fmt: skip

        distributed.on_main(write)

    def load(self) -> Preconditioned:
        net = load_network(self.path, self.device, self.evaluation.precision)
        configure_backends(net.precision)
        return net

    def generate(self, net: Preconditioned, batches: list[list[int]]) -> Iterator[GeneratedBatch]:
        return generate_images(net, batches, self.evaluation.sampler, self.device, self.evaluation.class_index)

    def judge_rest(self, net: Preconditioned, partial: PartialResults, bar: tqdm) -> None:
        """Judge the batches that are not known yet: one for each rank, then all ranks learn what each found."""
        evaluation = self.evaluation
        batches = seed_batches(evaluation.seeds, evaluation.batch_size)
        todo = [batch for batch in batches if not all(seed in partial.found for seed in batch)]
        bar.update(len(evaluation.seeds) - sum(len(batch) for batch in todo))
        last_save = time.monotonic()
        for start in range(0, len(todo), distributed.world_size()):
            mine = todo[start + distributed.rank() :][:1] if start + distributed.rank() < len(todo) else []
            found = []
            for batch in self.generate(net, mine):
                if evaluation.save_images:
                    save_images(batch.images, batch.seeds, self.image_dir, evaluation.subdirs)
                found.append((batch.seeds, *self.training.nearest_two(batch.images)))
            for seeds, indices, squared_distances in itertools.chain(*distributed.gather(found)):
                partial.add(seeds, indices, squared_distances)
                bar.update(len(seeds))
            if time.monotonic() - last_save > SECONDS_BETWEEN_SAVES:
                partial.save()
                last_save = time.monotonic()

    def record(self, result: Memorization, seconds: float) -> dict[str, Any]:
        return {
            'snapshot': self.path.name,
            'kimg': self.info.kimg,
            'epochs': self.info.epochs(len(self.reference.images)),
            'num_images': len(result.memorized),
            'num_memorized': result.num_memorized,
            'ratio': result.ratio,
            'ratio_low': result.interval[0],
            'ratio_high': result.interval[1],
            'mean_distance': result.mean_distance,
            'num_duplicates': result.num_duplicates,
            'dataset': self.reference.name,
            'dataset_size': len(self.reference.images),
            **self.settings,
            'versions': versions(),
            'seconds': round(seconds, 3),
        }

    def write_table(self, result: Memorization) -> None:
        """Write a row for each image: seed, two nearest training images and distances, whether it is a copy."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator='\n')
        table.writerow(['seed', 'nearest', 'second', 'squared_distance', 'second_squared_distance', 'memorized'])
        rows = zip(
            self.evaluation.seeds,
            result.indices.tolist(),
            result.squared_distances.tolist(),
            result.memorized.tolist(),
            strict=True,
        )
        for seed, index, squared, flag in rows:
            table.writerow([seed, *index, *squared, int(flag)])
        self.image_dir.mkdir(exist_ok=True)
        with atomic_file(self.image_dir / 'nearest.csv') as file:
            file.write(text.getvalue().encode())


def partial_path(log_path: Path) -> Path:
    """Where results of an interrupted snapshot are kept."""
    return log_path.with_suffix('.partial.npz')


def log_line(record: dict[str, Any]) -> str:
    """One readable line of a record."""
    return (
        f'{record["snapshot"]}  kimg {record["kimg"]:<9.1f} epochs {record["epochs"]:<9.1f} '
        f'memorized {record["num_memorized"]}/{record["num_images"]}  ratio {100 * record["ratio"]:.2f} % '
        f'[{100 * record["ratio_low"]:.2f}, {100 * record["ratio_high"]:.2f}]  '
        f'mean distance {record["mean_distance"]:.2f}  time {format_time(record["seconds"])}'
    )


def save_gallery(path: Path, kept_path: Path, judge: SnapshotJudge) -> None:
    """Write a gallery of the first seeds' images of a snapshot that is kept, each beside its nearest training image."""
    kept = read_best(kept_path, judge.settings)
    assert kept is not None
    write_gallery(path, kept.first_images, judge.reference, judge.training)


def write_gallery(path: Path, images: torch.Tensor, reference: Dataset, training: TrainingImages) -> None:
    """Write a gallery of images uint8 [N, C, H, W]."""
    result = training.summarize(*training.nearest_two(images))
    nearest = reference.images[result.indices[:, 0]]
    distances = rms_per_pixel(result.squared_distances[:, 0], training.num_pixels)
    picture = gallery(images.cpu(), nearest, distances.tolist(), result.memorized.tolist())
    with atomic_file(path) as file:
        picture.save(file, format='PNG')
