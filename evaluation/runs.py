"""Evaluates generators one at a time, such as all snapshots of a run, and keeps the images of the best one.

Each generator is sampled once. If there is a log, one record per generator is appended to its `.jsonl`; generators that
have a record with the same settings are skipped, and an interrupted evaluation resumes.
"""

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from dnnlib.locks import sole_use
from dnnlib.util import counted, remove_partial_files
from evaluation import records as files
from evaluation.best_images import BEST_NAME, BestSnapshot, changed_from_best, read_best, write_best
from evaluation.consumers import NearestTwo, make_consumers
from evaluation.consumers.png_files import PngFiles
from evaluation.generators import Generator
from evaluation.given_images import ImageSet, generated_set
from evaluation.memorization import Memorization, TrainingSet
from evaluation.one_pass import Consumer, Context, PartialResults, one_pass
from evaluation.printing import log_line
from evaluation.race import race
from evaluation.records import Record, best_record
from torch_utils import distributed
from training.dataset import require_shape
from training.snapshot import list_snapshots
from training.training_loop import open_tensorboard


@dataclass(frozen=True)
class EvaluatedSet:
    """A set of images with its results and its record."""

    images: ImageSet
    result: Memorization
    record: Record


def evaluate_generators(
    generators: Sequence[Generator], context: Context, log_path: Path | None, raced: bool = False
) -> tuple[list[Record], list[EvaluatedSet]]:
    """Evaluate generators in order; return their records, and a list with the set that has the highest ratio.

    The second list is empty on ranks other than the main rank.

    context: the context of all passes; its `name` is filled in for each generator. log_path: see `EvaluationLog`;
    required for more than one generator. raced: whether to run a race (`evaluation.race`), in which generators get
    different numbers of images.
    Raises UserError if a generator's images differ in shape from the training images.
    """
    for generator in generators:
        training_set = context.training_set
        require_shape(training_set.images.shape[1:], generator.shape, training_set.where, f'{generator.where} makes')
    log = EvaluationLog(log_path, generators)
    records: list[Record] = []
    with contextlib.ExitStack() as stack:
        distributed.on_main(lambda: log.claim(stack))
        bar = stack.enter_context(
            distributed.progress_bar(len(generators) * len(context.seeds), 'evaluate', folder=log.folder)
        )
        lengths = [len(context.seeds)] * len(generators)
        if raced:
            context = replace(context, raced_seeds=context.seeds)
            lengths = raced_lengths(generators, context, log, bar)
        for generator, length in zip(generators, lengths, strict=True):
            part = replace(context, seeds=context.seeds[:length])
            sets = evaluate_generator(generator, part, log, records, bar)
        best = best_record(records)
        if log_path is not None:
            sets = best_set(generators[records.index(best)], best, context, log, bar)
            distributed.on_main(lambda: log.show_in_tensorboard(records))
        distributed.on_main(log.remove_partial)
    return records, [replace(found, record=best) for found in sets]


def raced_lengths(generators: Sequence[Generator], context: Context, log: 'EvaluationLog', bar: tqdm) -> list[int]:
    """Return each generator's number of seeds from an earlier race or, without one, from a new race.

    The copies counted in a new race are saved in the log's partial results, so that no image is sampled twice.
    """
    known = distributed.on_main(lambda: [log.raced_length(settings(generator, context)) for generator in generators])
    if all(known):
        return known

    def copies(place: int, length: int) -> np.ndarray:
        part = replace(context, seeds=context.seeds[:length])
        bar.n = sum(lengths) - lengths[place]
        consumers = pass_of(generators[place], part, log, bar)
        lengths[place] = length
        return distributed.on_main(lambda: cast(NearestTwo, consumers['nearest_two']).result().memorized.numpy())

    lengths = [0] * len(generators)
    result = race(len(generators), len(context.seeds), context.batch_size, copies)
    bar.total, bar.n = sum(result), 0
    return result


def evaluate_generator(
    generator: Generator, context: Context, log: 'EvaluationLog', records: list[Record], bar: tqdm
) -> list[EvaluatedSet]:
    """Append a generator's record to `records`; if the log has no such record, sample the generator to make one.

    The generator is also sampled if images are to be saved, and they or their table are not there.
    Returns a list with the sampled set. The list is empty if nothing is sampled, and it is always empty on ranks other
    than the main rank.
    """
    own = of_generator(context, generator)
    is_saved = own.image_root is None or distributed.on_main(lambda: PngFiles(own).is_finished())
    record = distributed.on_main(lambda: log.find(settings(generator, context)))
    if record is not None and is_saved:
        bar.update(len(context.seeds))
        if distributed.is_main():
            tqdm.write(f'{log_line(record)}  (already evaluated)')
        records.append(record)
        return []
    sets = sample(generator, context, log, bar)
    if record is not None:
        distributed.on_main(log.remove_partial)
    records.append(record or distributed.on_main(lambda: log.add(sets[0], records)))
    return sets


def best_set(
    generator: Generator, record: Record, context: Context, log: 'EvaluationLog', bar: tqdm
) -> list[EvaluatedSet]:
    """A list with the best generator's set, read from mem_best.npz or sampled again; empty except on the main rank."""
    sets = log.read_best(record, generator.where, context.training_set) if distributed.is_main() else []
    if distributed.on_main(lambda: bool(sets)):
        return sets
    bar.total += len(context.seeds)
    sets = sample(generator, context, log, bar)
    distributed.on_main(lambda: log.keep(*sets))
    return sets


def sample(generator: Generator, context: Context, log: 'EvaluationLog', bar: tqdm) -> list[EvaluatedSet]:
    """Sample a generator, or resume an interrupted pass. Returns a list with the set; empty except on the main rank."""
    consumers = pass_of(generator, context, log, bar)
    head = {
        'snapshot': generator.name,
        'kimg': generator.kimg,
        'epochs': generator.epochs(len(context.training_set.images)),
    }
    if generator.trained_on not in (None, context.training_set.sha256):
        head['trained_on_sha256'] = generator.trained_on

    def finish() -> EvaluatedSet:
        kept, seeds = consumers['kept_images'], list(context.seeds)
        images = generated_set(generator.name, generator.where, seeds, kept.rows('pixels'), kept.rows('classes'))
        seconds = round(log.seconds[generator.name], 3)
        tail = {**settings(generator, context), 'versions': files.versions(), 'seconds': seconds}
        return finished(images, consumers, context.training_set, head, tail)

    return distributed.kept_on_main(finish)


def pass_of(generator: Generator, context: Context, log: 'EvaluationLog', bar: tqdm) -> dict[str, Consumer]:
    """Pass a generator's images to consumers, and return the consumers."""
    start, context = time.monotonic(), of_generator(context, generator)
    consumers = make_consumers(context)
    partial = log.partial_results(distributed.on_main(lambda: settings(generator, context)))
    one_pass(generator.generate, context, consumers, partial, bar)
    if context.raced_seeds is not None:
        distributed.on_main(partial.save)
    log.seconds[generator.name] += time.monotonic() - start
    return consumers


def of_generator(context: Context, generator: Generator) -> Context:
    """The context with the generator's name and, if its images are saved, its settings."""
    image_settings = distributed.on_main(lambda: generator.settings) if context.image_root is not None else {}
    return replace(context, name=generator.name, image_settings=image_settings)


def finished(
    images: ImageSet, consumers: Mapping[str, Consumer], training_set: TrainingSet, head: Record, tail: Record
) -> EvaluatedSet:
    """The evaluated set of a completed pass. head, tail: record fields before and after the measured fields."""
    result = cast(NearestTwo, consumers['nearest_two']).result()
    record = {**head, **facts(result, training_set), **tail}
    for consumer in consumers.values():
        record |= consumer.finish(images, result)
    return EvaluatedSet(images, result, record)


def settings(generator: Generator, context: Context) -> dict[str, Any]:
    """The settings that determine a record's numbers; see `evaluation.records.SETTINGS`."""
    return {
        'snapshot': generator.name,
        'snapshot_sha256': generator.sha256,
        'dataset_sha256': context.training_set.sha256,
        'sampler': generator.sampler,
        'seeds': files.format_seeds(context.seeds),
        'class_index': generator.class_index,
        'batch': context.batch_size,
        'precision': generator.precision,
        **({} if generator.classes is None else {'classes': list(generator.classes)}),
        **generator.prior,
        **({'xflip': True} if context.training_set.mirrored else {}),
        **({} if context.raced_seeds is None else {'raced_seeds': files.format_seeds(context.raced_seeds)}),
        **({} if context.measurement is None else {'measured': dict(context.measurement.settings)}),
    }


def facts(result: Memorization, training_set: TrainingSet) -> dict[str, Any]:
    """The fields that occur in every record, for generated and for given images."""
    return {
        'num_images': len(result.memorized),
        'num_memorized': result.num_memorized,
        'ratio': result.ratio,
        'ratio_low': result.interval[0],
        'ratio_high': result.interval[1],
        'mean_distance': result.mean_distance,
        'reference_distance': training_set.reference_distance,
        'num_far': training_set.num_far(result.squared_distances[:, 0]),
        'num_duplicates': result.num_duplicates,
        'dataset': training_set.name,
        'dataset_size': len(training_set.images),
        'dataset_sha256': training_set.sha256,
        **({'xflip': True} if training_set.mirrored else {}),
    }


def keep_snapshot(run_dir: Path, name: str, evaluated: Sequence[str]) -> None:
    """Delete a run's snapshots and their contact sheets, except the snapshot with this name.

    evaluated: names of the snapshots that were evaluated. Others may come from a training run that is still going on,
    so they are kept, except the snapshot at 0 kimg.
    """
    others = [
        path for kimg, path in list_snapshots(run_dir) if path.name != name and (path.name in evaluated or not kimg)
    ]
    for path in others:
        path.unlink()
        path.with_suffix('.png').unlink(missing_ok=True)
    tqdm.write(f'Kept {name}; deleted {counted(len(others), "other snapshot")}.')


class EvaluationLog:
    """The files of an evaluation, on the main rank. path: the readable log; if None, nothing is read or written.

    Next to the log are the records (.jsonl), the best generator's images (mem_best.npz), and partial results.
    generators: all generators of the evaluation; a note is printed before images of any other one are replaced.
    seconds: the time that each generator took, by name.
    """

    def __init__(self, path: Path | None, generators: Sequence[Generator] = ()):
        self.path, self.generators = path, generators
        self.partial = None if path is None else path.with_suffix('.partial')
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def partial_results(self, settings: Mapping[str, Any]) -> PartialResults:
        """The partial results of a generator with these settings; in a race, each generator has its own folder."""
        if self.partial is None or 'raced_seeds' not in settings:
            return PartialResults(self.partial, settings)
        return PartialResults(self.partial / settings['snapshot'], {**settings, 'seeds': settings['raced_seeds']})

    def raced_length(self, settings: Mapping[str, Any]) -> int:
        """The number of seeds on which an earlier race evaluated this generator; 0 if there was no such race.

        settings: the generator's settings, which must be the same as in the race.
        """
        records = [] if self.path is None else files.read_records(self.path.with_suffix('.jsonl'))
        found = files.find_record([{**record, 'seeds': record.get('raced_seeds')} for record in records], settings)
        return 0 if found is None else found['num_images']

    def claim(self, stack: contextlib.ExitStack) -> None:
        """Lock the files until `stack` closes. Raises UserError if another process is writing them."""
        if self.path is not None:
            lock = self.path.with_name(f'.{self.path.stem}.lock')
            stack.enter_context(sole_use(lock, f'the log {self.path}'))
            remove_partial_files(self.path.parent, f'{self.path.stem}.jsonl', BEST_NAME)

    def find(self, settings: Mapping[str, Any]) -> Record | None:
        if self.path is None:
            return None
        return files.find_record(files.read_records(self.path.with_suffix('.jsonl')), settings)

    def add(self, found: EvaluatedSet, earlier: Sequence[Record]) -> Record:
        """Write and return a record; keep the images if no earlier record has a higher ratio."""
        if self.path is None:
            return found.record
        # Images are written before the record: a record without its images would require sampling them again.
        if best_record([*earlier, found.record]) is found.record:
            self._write_best(found)
        earlier_records = files.read_records(self.path.with_suffix('.jsonl'))
        files.append_record(self.path.with_suffix('.jsonl'), found.record)
        if 'raced_seeds' not in found.record:
            self.remove_partial()
        changed = files.changed_settings(earlier_records[-1], found.record) if earlier_records else ''
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(f'Other settings: {changed}\n' * bool(changed) + log_line(found.record) + '\n')
        tqdm.write(log_line(found.record))
        return found.record

    def add_metrics(self, record: Record) -> None:
        """Write a record again after metrics have been added to it."""
        if self.path is not None:
            with contextlib.ExitStack() as stack:
                self.claim(stack)
                files.replace_record(self.path.with_suffix('.jsonl'), record)

    def keep(self, found: EvaluatedSet) -> None:
        """Keep the images of a generator whose record is already written."""
        self._write_best(found)
        self.remove_partial()

    def _write_best(self, found: EvaluatedSet) -> None:
        assert self.path is not None
        images, result = found.images, found.result
        assert images.seeds is not None
        assert images.classes is not None
        best = BestSnapshot(
            torch.tensor(images.seeds),
            torch.from_numpy(images.pixels),
            images.classes,
            result.indices,
            result.squared_distances,
        )
        path = self.path.with_name(BEST_NAME)
        if changed := changed_from_best(path, found.record, self.generators):
            tqdm.write(
                f'Note: {path} and the pictures and tables next to it are from an evaluation with other settings '
                f'({changed}); they are replaced. The earlier records are kept; to restore the earlier files, repeat '
                f'the earlier command.'
            )
        write_best(path, found.record, best)

    def read_best(self, record: Record, where: str, training_set: TrainingSet) -> list[EvaluatedSet]:
        """A list with the set saved in mem_best.npz; empty if the file is missing, or if its settings, image shape
        or neighbour indices do not match the record and the training set.
        """
        assert self.path is not None
        best = read_best(self.path.with_name(BEST_NAME), record)
        training_images = training_set.images
        if best is None or best.images.shape[1:] != training_images.shape[1:]:
            return []
        if int(best.indices.max()) >= len(training_images):
            return []
        images = generated_set(record['snapshot'], where, best.seeds.tolist(), best.images, best.classes)
        return [EvaluatedSet(images, training_set.summarize(best.indices, best.squared_distances), record)]

    @property
    def folder(self) -> Path | None:
        return None if self.path is None else self.path.parent

    def show_in_tensorboard(self, records: Sequence[Record]) -> None:
        """Add the ratios of a run's snapshots to its TensorBoard events, if the run has any.

        Each evaluation has a tag of its own; the tags of the second and later evaluations end with a number.
        """
        if self.folder is None or not any(self.folder.glob('events.out.tfevents.*')):
            return
        assert self.path is not None
        found = files.evaluations(files.read_records(self.path.with_suffix('.jsonl')))
        own = files.evaluation_of(records[0])
        number = 1 + [files.evaluation_of(group[0]) for group in found].index(own)
        tag = 'Memorization/ratio' + f', evaluation {number}' * (number > 1)
        board = open_tensorboard(self.folder)
        if board is not None:
            with board:
                for record in records:
                    board.add_scalar(tag, record['ratio'], global_step=round(record['kimg'] or 0))

    def remove_partial(self) -> None:
        if self.partial is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
