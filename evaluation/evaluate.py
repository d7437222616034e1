"""Evaluates runs, snapshots, pipelines, closed forms or given images, as specified by `EvaluationOptions`."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dataset_utils.sources.base import range_warning
from dnnlib.util import ArgumentError, UserError, counted, require_separate, require_writable
from evaluation.best_images import BEST_NAME
from evaluation.consumers import make_consumers
from evaluation.consumers.feature_rows import extract_given
from evaluation.copied import CopiedImage, copied_images, copied_record, draw_copied, files_beside, write_copied
from evaluation.evaluation_options import EvaluationOptions, other_rule, requested_metrics
from evaluation.features.cache import pixels_sha256
from evaluation.features.extractors import make_extractor
from evaluation.features.saved import Features, read_features
from evaluation.generators import Generator, Sampling, make_generators
from evaluation.given_images import ImageSet, open_images, read_fitted
from evaluation.image_table import rows_of, write_image_table
from evaluation.measurement import Compared, Measurement
from evaluation.memorization import TrainingSet
from evaluation.one_pass import Context, PartialResults, one_pass
from evaluation.pictures import draw_gallery
from evaluation.records import Record, best_record
from evaluation.runs import EvaluatedSet, EvaluationLog, evaluate_generators, finished, keep_snapshot
from evaluation.spaces import FeatureSpace, PixelSpace
from torch_utils import distributed
from training.config import read_run, require_known_data
from training.contact_sheets import require_picture, save_picture
from training.dataset import load_dataset
from training.held_out_loss import num_shared

# Number of given images compared at a time on each rank.
GIVEN_BATCH = 1024
# Number of images whose features are extracted at a time.
EXTRACTED_BATCH = 64
# Share of training images with near-copies from which a warning is printed.
NEAR_SHARE = 0.05


def evaluate(options: EvaluationOptions, device: torch.device, pipeline_steps: int | None = None) -> list[Record]:
    """Run the evaluation, write all files, and return one record for each set of images.

    pipeline_steps: a pipeline's number of sampling steps; None stands for its scheduler's default. Options for
    downloads and printing are ignored.
    Raises UserError for input that cannot be evaluated, and for files that cannot be written.
    """
    log, sampling = log_path(options), Sampling.of(options, num_steps=pipeline_steps)
    generators = make_generators(options, sampling, device)
    check_folders(options)
    training_set = load_training_set(options, generators, device)
    test = None if options.test_set is None else read_held_out(options, options.test_set, training_set)
    given = [read(options, path, 'images', training_set) for path in options.images]
    require_floats(options, [images.was_float for images in (*given, test) if images is not None])
    if len({images.name for images in given}) < len(given):  # such as run-a/samples.npz and run-b/samples.npz
        given = [replace(images, name=path) for images, path in zip(given, options.images, strict=True)]
    saved = None
    if options.features:
        num_test = None if test is None else len(test)
        num_images = len(given[0]) if given else len(options.seeds)
        saved = read_features(options.features, num_images, len(training_set.images), num_test)
    measurement = make_measurement(options, training_set, test, saved, device)
    in_pass = options.metrics_for == 'all'
    if generators:
        context = Context(
            options.seeds,
            options.batch_size,
            training_set=training_set,
            image_root=options.expdir if options.save_images else None,
            subdirs=options.subdirs,
            measurement=measurement if in_pass else None,
        )
        records, sets = evaluate_generators(generators, context, log, options.race)
    else:
        sets = [found for images in given for found in evaluate_given(images, training_set)]
        records = [found.record for found in sets]
    rows = [] if in_pass and measurement.rule is None else features_of(sets, given, measurement, saved, options)

    def finish() -> list[Record]:
        copies = []
        for found, features in itertools.zip_longest(sets, rows):
            pixels, result = found.images.pixels, found.result
            if not in_pass:
                neighbors = result.indices, result.squared_distances
                found.record.update(measurement.record(pixels, features, neighbors))
                if measurement.metrics:
                    EvaluationLog(log).add_metrics(found.record)
            own = result.memorized, result.indices[:, 0]
            own = own if measurement.rule is None else measurement.copies(pixels, features)
            copies.append(copied_images(*own, training_set.labels))
            num_distinct = len(training_set.images) - result.num_duplicates
            found.record['copied'] = copied_record(copies[-1], num_distinct, training_set.labels)
        write_files(options, sets, copies, training_set)
        if options.keep_best and options.expdir is not None:
            evaluated = [record['snapshot'] for record in records]
            keep_snapshot(options.expdir, best_record(records)['snapshot'], evaluated)
        return records

    return distributed.on_main(finish)


def make_measurement(
    options: EvaluationOptions,
    training_set: TrainingSet,
    test: ImageSet | None,
    saved: Features | None,
    device: torch.device,
) -> Measurement:
    """Prepare the measurement; this extracts the features of the training set and of the held-out set if needed."""
    metrics, rule = requested_metrics(options), other_rule(options)
    extractor = make_extractor(options.extractor, options.preprocess, device) if options.extractor else None
    pixel_space = PixelSpace(device, training_set.mirrored)
    pixels = Compared(pixel_space, training_set.images, None if test is None else test.pixels)
    features = None if saved is None else Compared(FeatureSpace(device), saved.training, saved.test)
    if extractor is not None:
        sets = [ImageSet(training_set.name, training_set.where, training_set.images.numpy())]
        sets += [] if test is None else [test]
        rows = [extract_given(extractor, images, EXTRACTED_BATCH, options.download.cache_dir) for images in sets]
        if distributed.is_main():
            features = Compared(FeatureSpace(device), rows[0][0], rows[1][0] if test is not None else None)
    settings = {
        'metrics': list(metrics),
        **({} if extractor is None else extractor.identity),
        **({} if rule is None else {'space': options.space, 'copy_rule': str(rule)}),
        **({} if test is None else {'test_sha256': pixels_sha256([test.pixels])}),
    }
    rule_sets = pixels if options.space == 'pixels' else features
    return Measurement(
        extractor,
        metrics,
        (features or pixels) if metrics else None,
        rule,
        None if rule is None else rule_sets,
        settings,
    )


def features_of(
    sets: Sequence[EvaluatedSet],
    given: Sequence[ImageSet],
    measurement: Measurement,
    saved: Features | None,
    options: EvaluationOptions,
) -> list[np.ndarray | None]:
    """The features of each evaluated set on the main rank, or None if they are not needed."""
    extractor = measurement.extractor
    if saved is not None:
        return [saved.generated]
    if extractor is None:
        return [None for _ in sets]
    pixels = [found.images.pixels for found in sets]
    images = given or [ImageSet('', '', some) for some in distributed.broadcast(pixels)]
    return [
        rows
        for found in images
        for rows in extract_given(extractor, found, EXTRACTED_BATCH, options.download.cache_dir)
    ]


def log_path(options: EvaluationOptions) -> Path | None:
    return options.expdir / 'mem_traj.log' if options.log is None and options.expdir is not None else options.log


def gallery_path(options: EvaluationOptions) -> Path | None:
    """The file of the gallery; by default, it is next to the log. None if no gallery is wanted."""
    log = log_path(options)
    return options.gallery or (None if log is None else log.with_name('mem_gallery.png'))


def copied_path(options: EvaluationOptions) -> Path | None:
    """The table of copied images; by default, it is next to the log. None if no table is wanted."""
    log = log_path(options)
    return options.copied or (None if log is None else log.with_name('mem_copied.csv'))


def check_folders(options: EvaluationOptions) -> None:
    """Raise UserError if an output file cannot or must not be written, before hours of work are lost."""
    log, gallery, copied = log_path(options), gallery_path(options), copied_path(options)
    for argument, path, suffix in (('table', options.table, '.csv'), ('log', log, '.log'), ('copied', copied, '.csv')):
        require_writable(argument, path, suffix)
    require_picture('gallery', gallery)
    files = [('table', options.table), ('log', log), ('gallery', gallery), ('copied', copied)]
    files += [] if log is None else [('log', log.with_suffix('.jsonl')), ('log', log.with_name(BEST_NAME))]
    files += [] if copied is None else [('copied', path) for path in files_beside(copied)]
    single = {name: [getattr(options, name)] for name in ('network', 'data', 'training_set', 'test_set')}
    inputs: dict[str, Sequence[str]] = {'images': options.images, 'features': options.features or (), **single}
    require_separate([(argument, path) for argument, path in files if path is not None], inputs)
    if options.copied is not None and not options.copied.exists():  # otherwise, the files next to it belong to it
        for path in filter(Path.exists, files_beside(options.copied)):
            raise UserError(
                f'`copied`={options.copied}: {path.name} is also written, but exists already; give another name'
            )


def load_training_set(options: EvaluationOptions, generators: Sequence[Generator], device: torch.device) -> TrainingSet:
    """The training set to compare with; by default, the training set of the run or of the closed form.

    Prints a warning if a generator was trained on another set or if many images have near-copies, and a note if
    mirrored images count as training images.
    Generators that do not know their classes draw from the classes of this set.
    """
    path = training_set_path(options)
    dataset = load_dataset(path, argument='training_set', channels=_channels(options))
    mirrored = any(generator.xflip for generator in generators) if options.xflip is None else options.xflip
    for generator in generators:
        generator.draw_unknown_classes_from(dataset.class_sizes)
    others = [generator.name for generator in generators if generator.trained_on not in (None, dataset.sha256)]
    if others:
        distributed.print0(
            f'Warning: {others[0]} was not trained on {path} but on a set with other images or labels. Copies of '
            f'images that are only in that set are not counted.'
        )
    if mirrored:
        distributed.print0('Mirrored training images (xflip) count as training images.')
    training_set = TrainingSet(dataset, device, f'`training_set`={path}', mirrored)
    share = distributed.on_main(lambda: training_set.near_share)
    if share >= NEAR_SHARE:
        distributed.print0(
            f'Warning: {100 * share:.0f} % of the images in {path} have near-copies in this set, so the ratio can miss '
            f'copies of these images. Remove the near-copies (python -m dataset_utils info --near=… lists them), '
            f'or also count copies by the adaptive copy rule.'
        )
    return training_set


def _channels(options: EvaluationOptions) -> int | None:
    """The number of channels to convert training images to; None leaves them unchanged."""
    if options.channels != 'auto':
        return int(options.channels)
    has_colour = any(open_images(path, 'images', options.float_range).channels == 3 for path in options.images)
    return 3 if has_colour else None


def training_set_path(options: EvaluationOptions) -> str:
    """The path of the training set. Raises UserError if it is neither given nor stored by the run."""
    path = options.training_set or options.data
    if path is not None:
        return path
    if options.expdir is None:
        raise UserError('give `training_set`, the training set to compare with')
    try:
        path = read_run(options.expdir).options.data
    except UserError as error:
        problem = str(error).split(';')[0]
        raise UserError(f'{problem}; give `training_set`, the training set to compare with') from error
    require_known_data(path, 'training_set')
    return path


def read(options: EvaluationOptions, path: str, argument: str, training_set: TrainingSet) -> ImageSet:
    """Read given images, converted to the shape of the training images; warn if their range of values looks wrong."""
    shape, progress = training_set.images.shape[1:], distributed.is_main()
    images = read_fitted(path, argument, shape, training_set.where, options.resize, options.float_range, progress)
    for warning in range_warning(path, images.pixels.max()):
        distributed.print0(warning)
    if options.float_range is not None and images.was_float and argument == 'images' and images.pixels.min() > 126:
        distributed.print0(
            f'Warning: all values in {path} are in the upper half of the range {options.float_range[0]:g} to '
            f'{options.float_range[1]:g}; check the range.'
        )
    return images


def require_floats(options: EvaluationOptions, are_floats: Sequence[bool]) -> None:
    """Raise ArgumentError if `float_range` is given without effect. are_floats: for each set, whether it has floats."""
    if options.float_range is not None and not any(are_floats):
        raise ArgumentError('`float_range` has no effect, because no given images are floating-point; remove it')


def read_held_out(options: EvaluationOptions, path: str, training_set: TrainingSet) -> ImageSet:
    """Read the held-out set; print a warning if it shares images with the training set."""
    test = read(options, path, 'test_set', training_set)
    shared = distributed.on_main(lambda: num_shared(test.pixels, training_set.images.numpy()))
    if shared:
        distributed.print0(
            f'Warning: {shared} of the {counted(len(test), "held-out image")} in {path} are also in the training set, '
            f'so comparisons with held-out images understate memorization.'
        )
    return test


def evaluate_given(images: ImageSet, training_set: TrainingSet) -> list[EvaluatedSet]:
    """Compare given images with the training set; returns the evaluated set on the main rank."""
    context = Context(range(len(images)), GIVEN_BATCH, training_set=training_set, name=images.name, keep_images=False)
    with distributed.progress_bar(len(images), 'evaluate') as bar:
        consumers = make_consumers(context)
        one_pass(images.batches, context, consumers, PartialResults(None, {}), bar)
    resized = {} if images.resized is None else {'resize': images.resized}
    return distributed.kept_on_main(lambda: finished(images, consumers, training_set, {'images': images.name}, resized))


def write_files(
    options: EvaluationOptions,
    sets: Sequence[EvaluatedSet],
    copied: Sequence[list[CopiedImage]],
    training_set: TrainingSet,
) -> None:
    """Write the tables, with rows for all sets, and the galleries, which show only the first set.

    copied: each set's copied training images.
    """
    if options.table is not None:
        rows = (rows_of(found.images, found.result, training_set.original_names) for found in sets)
        write_image_table(options.table, itertools.chain.from_iterable(rows))
    images, result = sets[0].images, sets[0].result
    pixels, gallery = torch.from_numpy(images.pixels), gallery_path(options)
    if gallery is not None:
        save_picture(gallery, draw_gallery(pixels, result, training_set.images, images.name))
    table = copied_path(options)
    if table is not None:
        generated = [found.images for found in sets]
        write_copied(table, generated, copied, training_set.labels, training_set.original_names)
        _, picture = files_beside(table)
        picture.unlink(missing_ok=True)
        if copied[0]:
            squared = result.squared_distances[:, 0] if options.space == 'pixels' else None
            drawn = draw_copied(copied[0], pixels, training_set.images, images.name, squared_distances=squared)
            save_picture(picture, drawn)
