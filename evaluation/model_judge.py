"""Samples one model and judges its images, from sampler to neighbours in memory, over any number of ranks."""

import csv
import functools
import io
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.util import atomic_file, format_time
from evaluation.best import write_best
from evaluation.generators import Generate, Model
from evaluation.memorization import Memorization, TrainingImages
from evaluation.pictures import save_images
from evaluation.records import PartialResults, append_record, format_seeds, versions
from torch_utils import distributed
from training.dataset import Dataset
from training.sampling import seed_batches

# What is known of an interrupted model is saved at most this often.
SECONDS_BETWEEN_SAVES = 5.0


@dataclass(frozen=True)
class Evaluation:
    """Which images are judged, and what is saved of them. batch_size: images at a time, on each rank."""

    seeds: list[int]
    batch_size: int
    save_images: bool = False
    subdirs: bool = False


@dataclass(frozen=True)
class Judged:
    """What was found of a model. images: uint8 [N, C, H, W] on the CPU, in the order of the seeds, where kept."""

    record: dict[str, Any]
    result: Memorization
    images: Tensor | None = None


class ModelJudge:
    """Judges one model by training images."""

    def __init__(self, model: Model, reference: Dataset, training: TrainingImages, evaluation: Evaluation):
        self.model, self.reference, self.training, self.evaluation = model, reference, training, evaluation
        self.image_dir = model.path.parent / f'images-{model.path.stem.split("-")[-1]}'

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What the numbers of a record depend on; see `evaluation.records.SETTINGS`."""
        model = self.model
        return {
            'snapshot': model.name,
            'snapshot_sha256': model.sha256,
            'dataset_sha256': self.reference.sha256,
            'sampler': model.sampler,
            'seeds': format_seeds(self.evaluation.seeds),
            'class_index': model.class_index,
            'batch': self.evaluation.batch_size,
            'precision': model.precision,
        }

    def run(self, bar: tqdm, log_path: Path) -> Judged:
        """Judge all seeds, going on where an earlier call stopped, and write the record and a line of the log."""
        start = time.monotonic()
        result = self.judge_resumably(bar, log_path)
        judged = Judged(self.record(result, time.monotonic() - start), result)

        def write() -> None:
            if self.evaluation.save_images:
                self.write_table(result)
            append_record(log_path.with_suffix('.jsonl'), judged.record)
            with open(log_path, 'a', encoding='utf-8') as log:
                log.write(log_line(judged.record) + '\n')
            partial_path(log_path).unlink(missing_ok=True)
            tqdm.write(log_line(judged.record))

        distributed.on_main(write)
        return judged

    def judge_resumably(self, bar: tqdm, log_path: Path) -> Memorization:
        """Judge the seeds that are not known from an interrupted call; what is known is in `partial_path`."""
        partial = distributed.on_main(lambda: PartialResults(partial_path(log_path), self.settings))
        if not distributed.is_main():
            partial.path = None
        self.judge_rest(self.model.load(), partial, bar)
        return self.training.summarize(*partial.arrays(self.evaluation.seeds))

    def judge_in_memory(self, bar: tqdm) -> Judged:
        """Judge all seeds and keep every image; write nothing."""
        start = time.monotonic()
        found = PartialResults(None, self.settings)
        images: dict[int, Tensor] = {}
        self.judge_rest(self.model.load(), found, bar, images)
        result = self.training.summarize(*found.arrays(self.evaluation.seeds))
        kept = torch.stack([images[seed] for seed in self.evaluation.seeds])
        return Judged(self.record(result, time.monotonic() - start), result, kept)

    def judge_rest(
        self, generate: Generate, partial: PartialResults, bar: tqdm, kept: dict[int, Tensor] | None = None
    ) -> None:
        """Judge the batches that are not known yet: one for each rank, then all ranks learn what each found.

        kept: where to put every image, by its seed.
        """
        evaluation = self.evaluation
        batches = seed_batches(evaluation.seeds, evaluation.batch_size)
        todo = [batch for batch in batches if not all(seed in partial.found for seed in batch)]
        bar.update(len(evaluation.seeds) - sum(len(batch) for batch in todo))
        last_save = time.monotonic()
        for start in range(0, len(todo), distributed.world_size()):
            mine = todo[start + distributed.rank() :][:1] if start + distributed.rank() < len(todo) else []
            found = []
            for batch in generate(mine):
                if evaluation.save_images:
                    save_images(batch.images, batch.seeds, self.image_dir, evaluation.subdirs)
                images = None if kept is None else batch.images.cpu()
                found.append((batch.seeds, *self.training.nearest_two(batch.images), images))
            for seeds, indices, squared_distances, images in itertools.chain(*distributed.gather(found)):
                partial.add(seeds, indices, squared_distances)
                if kept is not None and images is not None:
                    kept.update(zip(seeds, images, strict=True))
                bar.update(len(seeds))
            if time.monotonic() - last_save > SECONDS_BETWEEN_SAVES:
                partial.save()
                last_save = time.monotonic()

    def keep(self, path: Path, result: Memorization) -> None:
        """Write what is kept of the best snapshot, on the main rank."""
        evaluation = self.evaluation
        distributed.on_main(
            lambda: write_best(path, self.settings, evaluation.seeds, evaluation.batch_size, result, self.model.load())
        )

    def record(self, result: Memorization, seconds: float) -> dict[str, Any]:
        return {
            'snapshot': self.model.name,
            'kimg': self.model.kimg,
            'epochs': self.model.epochs(len(self.reference.images)),
            **facts(result, self.reference),
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


def facts(result: Memorization, reference: Dataset) -> dict[str, Any]:
    """What every record has, whatever made the images."""
    return {
        'num_images': len(result.memorized),
        'num_memorized': result.num_memorized,
        'ratio': result.ratio,
        'ratio_low': result.interval[0],
        'ratio_high': result.interval[1],
        'mean_distance': result.mean_distance,
        'num_duplicates': result.num_duplicates,
        'dataset': reference.name,
        'dataset_size': len(reference.images),
        'dataset_sha256': reference.sha256,
    }


def partial_path(log_path: Path) -> Path:
    """Where results of an interrupted snapshot are kept."""
    return log_path.with_suffix('.partial.npz')


def progress_bar(total: int) -> tqdm:
    """A bar of images on the main rank's terminal."""
    hidden = None if distributed.is_main() else True  # None: hidden where stderr is not a terminal
    return tqdm(total=total, unit='img', desc='evaluate', disable=hidden, leave=False)


def log_line(record: dict[str, Any]) -> str:
    """One readable line of a record."""
    return (
        f'{record["snapshot"]}  kimg {known(record["kimg"]):<9} epochs {known(record["epochs"]):<9} '
        f'memorized {record["num_memorized"]}/{record["num_images"]}  ratio {100 * record["ratio"]:.2f} % '
        f'[{100 * record["ratio_low"]:.2f}, {100 * record["ratio_high"]:.2f}]  '
        f'mean distance {record["mean_distance"]:.2f}  time {format_time(record["seconds"])}'
    )


def known(value: float | None) -> str:
    return 'unknown' if value is None else f'{value:.1f}'
