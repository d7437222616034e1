"""Evaluates runs, snapshots, pipelines, closed forms or given images, as `EvaluationOptions` describe."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dataset_utils import Reading
from dnnlib.util import UserError
from evaluation.consumers import make_consumers
from evaluation.evaluation_options import EvaluationOptions, requested_metrics
from evaluation.features.extractors import Extractor, make_extractor
from evaluation.features.saved import Features, read_features
from evaluation.generators import Generator, Sampling, make_generators
from evaluation.given_images import ImageSet, fitted, open_images, read_images
from evaluation.image_table import rows_of, write_image_table
from evaluation.memorization import TrainingSet
from evaluation.metrics import compute_metrics
from evaluation.one_pass import Context, PartialResults, one_pass, progress_bar
from evaluation.pictures import draw_gallery, save_picture
from evaluation.records import Record
from evaluation.runs import EvaluatedSet, evaluate_generators, finished
from evaluation.spaces import FeatureSpace, PixelSpace
from torch_utils import distributed
from training.config import read_run
from training.dataset import load_dataset

# Given images compared at a time, on each rank.
GIVEN_BATCH = 1024
# Images whose features are extracted at a time.
EXTRACTED_BATCH = 64


def evaluate(options: EvaluationOptions, device: torch.device, pipeline_steps: int | None = None) -> list[Record]:
    """Evaluate, write all files, and return a record per set of images.

    pipeline_steps: sampling steps of a pipeline; None uses the default of its scheduler. Options of downloads and of
    printing have no effect. Raises UserError for what cannot be evaluated, or written.
    """
    saved_features, log = options.features or [], log_path(options)
    metrics = requested_metrics(options)
    extractor = make_extractor(options.extractor, options.preprocess, device) if options.extractor else None
    sampling = Sampling(
        options.sampler,
        options.class_index,
        options.precision,
        pipeline_steps,
        options.data,
        class_prior=options.class_prior,
    )
    generators = make_generators(options, sampling, device)
    require_folders({'table': options.table, 'gallery': options.gallery, 'log': log})
    training_set = load_training_set(options, generators, device)
    test = None if options.test_set is None else read(options, options.test_set, 'test_set', training_set)
    given = [read(options, path, 'images', training_set) for path in options.images]
    features = None
    if saved_features:
        num_test = None if test is None else len(test)
        num_images = len(given[0]) if given else len(options.seeds)
        features = read_features(saved_features, num_images, len(training_set.images), num_test)
    if generators:
        root = options.expdir if options.save_images else None
        context = Context(
            options.seeds, options.batch_size, training_set=training_set, image_root=root, subdirs=options.subdirs
        )
        records, sets = evaluate_generators(generators, context, log, options.race)
    else:
        sets = [found for images in given for found in evaluate_given(images, training_set)]
        records = [found.record for found in sets]

    def finish() -> list[Record]:
        if extractor is not None:
            training_rows = extracted(extractor, training_set.images)
            test_rows = None if test is None else extracted(extractor, test.pixels)
        for found in sets:
            mine = features
            if extractor is not None:
                mine = Features(extracted(extractor, found.images.pixels), training_rows, test_rows)
                found.record.update(extractor.settings)
            found.record.update(compute(metrics, found, training_set, test, mine, device))
        write_files(options, sets, training_set)
        return records

    return distributed.on_main(finish)


def extracted(extractor: Extractor, images: torch.Tensor | np.ndarray) -> np.ndarray:
    """Features float32 [N, d] of images uint8 [N, C, H, W]."""
    starts = range(0, len(images), EXTRACTED_BATCH)
    batches = (torch.as_tensor(images[start : start + EXTRACTED_BATCH]) for start in starts)
    return np.concatenate([extractor(batch).numpy() for batch in batches])


def log_path(options: EvaluationOptions) -> Path | None:
    return options.expdir / 'mem_traj.log' if options.log is None and options.expdir is not None else options.log


def require_folders(files: dict[str, Path | None]) -> None:
    """Raise UserError if a file could not be written, before hours of work are lost."""
    for argument, path in files.items():
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            problem = 'is a folder' if path.is_dir() else f'there is no folder {path.parent}'
            raise UserError(f'`{argument}`={path}: {problem}; name a file in a folder that exists')


def load_training_set(options: EvaluationOptions, generators: Sequence[Generator], device: torch.device) -> TrainingSet:
    """The training set to compare with, by default the one of its run or closed form.

    Prints a warning if the generators were trained on another set, and a note if mirrored images count. Generators
    that do not know their classes get the classes of the set.
    """
    path = options.training_set or options.data
    if path is None:
        if options.expdir is None:
            raise UserError('give `training_set`, the training set to compare with')
        path = training_set_of(options.expdir)
    dataset = load_dataset(path, argument='training_set', channels=_channels(options))
    mirrored = any(generator.xflip for generator in generators) if options.xflip is None else options.xflip
    for generator in generators:
        generator.draw_unknown_classes_from(dataset.class_sizes)
    others = [generator.name for generator in generators if generator.trained_on not in (None, dataset.sha256)]
    if others:
        distributed.print0(
            f'Warning: {others[0]} was trained on another set than {path} (images or labels differ); copies of the '
            f'images that it was trained on are not counted.'
        )
    if mirrored:
        distributed.print0('Mirrored training images (xflip) count as training images.')
    return TrainingSet(dataset, device, f'`training_set`={path}', mirrored)


def _channels(options: EvaluationOptions) -> int | None:
    """The channels that training images are converted to, None to keep their own."""
    if options.channels != 'auto':
        return int(options.channels)
    has_colour = any(open_images(path, 'images', options.float_range).channels == 3 for path in options.images)
    return 3 if has_colour else None


def training_set_of(run_dir: Path) -> str:
    """The path of a run's training set. Raises UserError if train.py did not make the run."""
    try:
        return read_run(run_dir).options.data
    except UserError as error:
        problem = str(error).split(';')[0]
        raise UserError(f'{problem}; give `training_set`, the training set to compare with') from error


def read(options: EvaluationOptions, path: str, argument: str, training_set: TrainingSet) -> ImageSet:
    """Given images, in the shape of the training images."""
    reading = Reading(channels=training_set.images.shape[1])
    images = read_images(path, argument, options.float_range, reading, progress=distributed.is_main())
    return fitted(images, training_set.images.shape[1:], training_set.where, options.resize)


def evaluate_given(images: ImageSet, training_set: TrainingSet) -> list[EvaluatedSet]:
    """Compare given images with the training set; returns the set on the main rank."""
    context = Context(range(len(images)), GIVEN_BATCH, training_set=training_set, name=images.name, keep_images=False)
    with progress_bar(len(images)) as bar:
        consumers = make_consumers(context)
        one_pass(images.batches, context, consumers, PartialResults(None, {}), bar)
    resized = {} if images.resized is None else {'resize': images.resized}
    return distributed.kept_on_main(lambda: finished(images, consumers, {'images': images.name}, resized))


def compute(
    names: Sequence[str],
    found: EvaluatedSet,
    training_set: TrainingSet,
    test: ImageSet | None,
    features: Features | None,
    device: torch.device,
) -> Record:
    """The part of a record that holds the metrics of a set."""
    if not names:
        return {}
    if features is not None:
        space = FeatureSpace(device)
        metrics = compute_metrics(names, space, features.generated, features.training, features.test)
        return {'metrics_space': 'features', 'metrics': metrics}
    neighbors = found.result.indices, found.result.squared_distances
    test_pixels = None if test is None else test.pixels
    metrics = compute_metrics(
        names, PixelSpace(device), found.images.pixels, training_set.images, test_pixels, nearest_two=neighbors
    )
    return {'metrics_space': 'pixels', 'metrics': metrics}


def write_files(options: EvaluationOptions, sets: Sequence[EvaluatedSet], training_set: TrainingSet) -> None:
    """Write the table of all sets and the gallery of the first; for a run, always also next to its log."""
    if options.table is not None:
        write_image_table(options.table, (row for found in sets for row in rows_of(found.images, found.result)))
    gallery, log = options.gallery, log_path(options)
    if gallery is None and log is not None:
        gallery = (options.expdir or log.parent) / 'mem_gallery.png'
    if gallery is not None:
        images, result = sets[0].images, sets[0].result
        picture = draw_gallery(torch.from_numpy(images.pixels), result, training_set.images, images.name)
        save_picture(gallery, picture)
