"""Evaluates generators one after the other, such as every snapshot of a run, and keeps the images of the best.

Each generator is sampled once. With a log, a record per generator is appended to its `.jsonl`; generators that have a
record with the same settings are not sampled again, and an interrupted evaluation resumes.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

from dnnlib.util import UserError
from evaluation import records as files
from evaluation.consumers import KeptImages, NearestTwo, make_consumers
from evaluation.generators import Generator
from evaluation.given_images import ImageSet, generated_set
from evaluation.memorization import Memorization, TrainingSet
from evaluation.one_pass import Consumer, Context, PartialResults, one_pass, progress_bar
from evaluation.printing import log_line
from evaluation.records import BestSnapshot, Record, best_record
from torch_utils import distributed


@dataclass(frozen=True)
class Evaluation:
    """What generators are compared with, and which images they make. batch_size: images at a time, on each rank.

    image_root: folder in which each generator's images are saved, in a folder of their own, or None. subdirs: a
    thousand images per folder.
    """

    training_set: TrainingSet
    seeds: list[int]
    batch_size: int
    image_root: Path | None = None
    subdirs: bool = False

    def settings(self, generator: Generator) -> dict[str, Any]:
        """What the numbers of a record depend on; see `evaluation.records.SETTINGS`."""
        return {
            'snapshot': generator.name,
            'snapshot_sha256': generator.sha256,
            'dataset_sha256': self.training_set.sha256,
            'sampler': generator.sampler,
            'seeds': files.format_seeds(self.seeds),
            'class_index': generator.class_index,
            'batch': self.batch_size,
            'precision': generator.precision,
        }

    def context(self, generator: Generator) -> Context:
        root, stem = self.image_root, Path(generator.name).stem
        image_dir = None if root is None else root / f'images-{stem.split("-")[-1]}'
        return Context(self.training_set, self.seeds, image_dir=image_dir, subdirs=self.subdirs)


@dataclass(frozen=True)
class EvaluatedSet:
    """A set of images, what was found of it, and its record."""

    images: ImageSet
    result: Memorization
    record: Record


def evaluate_generators(
    generators: Sequence[Generator], evaluation: Evaluation, log_path: Path | None
) -> tuple[list[Record], list[EvaluatedSet]]:
    """Evaluate generators in their order; return their records, and on the main rank the set with the highest ratio.

    log_path: see `EvaluationLog`; without one there must be a single generator.
    Raises UserError for a generator whose images differ in shape from the training images.
    """
    for generator in generators:
        check_fits(generator, evaluation.training_set)
    log = EvaluationLog(log_path)
    records: list[Record] = []
    with progress_bar(len(generators) * len(evaluation.seeds)) as bar:
        for generator in generators:
            sets = evaluate_generator(generator, evaluation, log, records, bar)
        best = best_record(records)
        if log_path is not None:
            sets = best_set(generators[records.index(best)], best, evaluation, log, bar)
    return records, [replace(found, record=best) for found in sets]


def best_set(
    generator: Generator, record: Record, evaluation: Evaluation, log: 'EvaluationLog', bar: tqdm
) -> list[EvaluatedSet]:
    """The images of the best generator, on the main rank: kept in a file, or else sampled again."""
    sets = log.read_best(record, generator.where, evaluation.training_set) if distributed.is_main() else []
    if distributed.on_main(lambda: bool(sets)):
        return sets
    bar.total += len(evaluation.seeds)
    sets = sample(generator, evaluation, log, bar)
    distributed.on_main(lambda: log.keep(*sets))
    return sets


def evaluate_generator(
    generator: Generator, evaluation: Evaluation, log: 'EvaluationLog', records: list[Record], bar: tqdm
) -> list[EvaluatedSet]:
    """Append a generator's record to `records`: the one in the log, or else one of its images, sampled now.

    Returns the sampled set, on the main rank.
    """
    record = distributed.on_main(lambda: log.find(evaluation.settings(generator)))
    if record is not None:
        bar.update(len(evaluation.seeds))
        if distributed.is_main():
            tqdm.write(f'{log_line(record)}  (evaluated before)')
        records.append(record)
        return []
    sets = sample(generator, evaluation, log, bar)
    distributed.on_main(lambda: log.add(sets[0], records))
    records.append(distributed.broadcast(sets[0].record if sets else {}))
    return sets


def sample(generator: Generator, evaluation: Evaluation, log: 'EvaluationLog', bar: tqdm) -> list[EvaluatedSet]:
    """Sample a generator, or resume an interrupted pass over its images. Returns the set, on the main rank."""
    start, settings = time.monotonic(), evaluation.settings(generator)
    context = evaluation.context(generator)
    consumers = make_consumers(context)
    partial = PartialResults(log.partial, settings)
    one_pass(generator.generate, evaluation.seeds, evaluation.batch_size, consumers, partial, bar)
    head = {
        'snapshot': generator.name,
        'kimg': generator.kimg,
        'epochs': generator.epochs(len(evaluation.training_set.images)),
    }
    sets: list[EvaluatedSet] = []

    def finish() -> None:
        images = cast(KeptImages, consumers['kept_images']).image_set(generator.name, generator.where)
        tail = {**settings, 'versions': files.versions(), 'seconds': round(time.monotonic() - start, 3)}
        sets.append(evaluated_set(images, consumers, context, head, tail))

    distributed.on_main(finish)
    return sets


def evaluated_set(
    images: ImageSet,
    consumers: Mapping[str, Consumer],
    context: Context,
    head: Mapping[str, Any],
    tail: Mapping[str, Any],
) -> EvaluatedSet:
    """Finish the consumers of a pass over these images, on the main rank. head, tail: further parts of the record."""
    result = cast(NearestTwo, consumers['nearest_two']).result()
    record = {**head, **facts(result, context.training_set), **tail}
    for consumer in consumers.values():
        record |= consumer.finish(images, result)
    return EvaluatedSet(images, result, record)


def facts(result: Memorization, training_set: TrainingSet) -> dict[str, Any]:
    """The part of a record that any set of images has."""
    return {
        'num_images': len(result.memorized),
        'num_memorized': result.num_memorized,
        'ratio': result.ratio,
        'ratio_low': result.interval[0],
        'ratio_high': result.interval[1],
        'mean_distance': result.mean_distance,
        'num_duplicates': result.num_duplicates,
        'dataset': training_set.name,
        'dataset_size': len(training_set.images),
        'dataset_sha256': training_set.sha256,
    }


def check_fits(generator: Generator, training_set: TrainingSet) -> None:
    """Raise UserError if a generator's images differ in shape from the training images."""
    _, channels, height, width = training_set.images.shape
    if generator.shape != (channels, height, width):
        raise UserError(
            f'{training_set.where} has {width}x{height} images of {channels} channels, but {generator.where} makes '
            f'{generator.shape[2]}x{generator.shape[1]} of {generator.shape[0]}; give its training set'
        )


class EvaluationLog:
    """The files of an evaluation, on the main rank. path: of the readable log; None reads and writes nothing.

    Next to the log are the records, as .jsonl, the images of the best generator, mem_best.npz, and partial results.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.partial = None if path is None else path.with_suffix('.partial')

    def find(self, settings: Mapping[str, Any]) -> Record | None:
        """The record with these settings, or None."""
        if self.path is None:
            return None
        return files.find_record(files.read_records(self.path.with_suffix('.jsonl')), settings)

    def add(self, found: EvaluatedSet, earlier: Sequence[Record]) -> None:
        """Write a record; keep the images if no earlier record is better."""
        if self.path is None:
            return
        # The images come first: a best record without them would be sampled again after an interruption.
        if best_record([*earlier, found.record]) is found.record:
            self._write_best(found)
        files.append_record(self.path.with_suffix('.jsonl'), found.record)
        self._remove_partial()
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(log_line(found.record) + '\n')
        tqdm.write(log_line(found.record))

    def keep(self, found: EvaluatedSet) -> None:
        """Keep the images of a generator whose record was written before."""
        self._write_best(found)
        self._remove_partial()

    def _write_best(self, found: EvaluatedSet) -> None:
        assert self.path is not None
        images, result = found.images, found.result
        assert images.seeds is not None
        best = BestSnapshot(
            torch.tensor(images.seeds),
            torch.from_numpy(images.pixels),
            images.classes if images.classes is not None else torch.full([len(images)], -1),
            result.indices,
            result.squared_distances,
        )
        files.write_best(self.path.with_name(files.BEST_NAME), found.record, best)

    def read_best(self, record: Record, where: str, training_set: TrainingSet) -> list[EvaluatedSet]:
        """The kept set that a record belongs to; none if it is missing or has other settings."""
        assert self.path is not None
        best = files.read_best(self.path.with_name(files.BEST_NAME), record)
        if best is None:
            return []
        images = generated_set(record['snapshot'], where, best.seeds.tolist(), best.images, best.classes)
        return [EvaluatedSet(images, training_set.summarize(best.indices, best.squared_distances), record)]

    def _remove_partial(self) -> None:
        if self.partial is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
