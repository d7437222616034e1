"""Fréchet and kernel distances between images and a reference, and files with features or statistics."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dnnlib.download import fetch
from dnnlib.util import UserError, atomic_file, counted, require_separate, require_writable, significant
from evaluation.consumers.feature_rows import extract, extract_given
from evaluation.features.extractors import Extractor, identity, make_extractor
from evaluation.generators import ClosedFormGenerator, Generator, Sampling, SnapshotGenerator
from evaluation.given_images import read_images
from evaluation.metrics.frechet import Moments, frechet_distance, frechet_infinity, moments
from evaluation.metrics.kernel_distance import kernel_distance
from evaluation.printing import few_images_note
from evaluation.quality_options import CalcOptions, ExtractionOptions, ExtractOptions, RefOptions
from evaluation.records import Record
from torch_utils import distributed


def calculate(options: CalcOptions, device: torch.device) -> Record:
    """Measure images and return the record. Raises UserError for input that cannot be read or compared."""
    extractor = make_extractor(options.extraction.extractor, options.extraction.preprocess, device)
    references = read_reference(options, extractor)
    subject, features = measured_features(options, extractor, device)

    def measure() -> Record:
        (reference,), (rows,) = references, features
        record = {
            **subject,
            'num_images': len(rows),
            'reference': Path(options.ref).name,
            'num_reference': reference.count if isinstance(reference, Moments) else len(reference),
            **extractor.settings,
            'num_features': rows.shape[1],
            'frechet_distance': frechet_distance(rows, reference),
        }
        if options.infinity:
            record['frechet_infinity'] = asdict(frechet_infinity(rows, reference))
        if not isinstance(reference, Moments):
            record['kernel_distance'] = asdict(kernel_distance(rows, reference))
        return record

    return distributed.on_main(measure)


def report(record: Record) -> str:
    """Format a record as text, with the numbers of images next to each distance."""
    counts = f'{record["num_images"]} images of {record["images"]} compared with '
    counts += f'{record["num_reference"] or "an unknown number"} of {record["reference"]}'
    lines = [
        f'Fréchet distance: {significant(record["frechet_distance"], 6)}, {counts}, features: {record["extractor"]}'
    ]
    if 'frechet_infinity' in record:
        infinity = record['frechet_infinity']
        lines.append(
            f'Fréchet distance at infinity: {significant(infinity["distance"], 6)}, from a line in 1/n fitted to '
            f'{len(infinity["sizes"])} subsets of {infinity["sizes"][0]} to {infinity["sizes"][-1]} images'
        )
    if 'kernel_distance' in record:
        kernel = record['kernel_distance']
        interval = '' if kernel['low'] is None else f' (95 % interval {kernel["low"]:.4g} to {kernel["high"]:.4g})'
        lines.append(f'Kernel distance: {kernel["distance"]:.6g}{interval}, {counts}, features: {record["extractor"]}')
    fewest = min(record['num_images'], record['num_reference'] or record['num_images'])
    return '\n'.join(lines + few_images_note(fewest, record['num_features']))


def write_features(options: ExtractOptions, device: torch.device) -> tuple[int, int]:
    """Write image features; return the number of images and the feature dimension."""
    require_writable('dest', options.dest, '.npy')
    require_separate([('dest', options.dest)], {'source': [options.source]})
    extractor = make_extractor(options.extraction.extractor, options.extraction.preprocess, device)
    features = features_of(options.source, 'source', extractor, options.extraction, fewest=1)

    def write() -> tuple[int, int]:
        with atomic_file(options.dest) as file:
            np.save(file, features[0])  # type: ignore[arg-type]
        return features[0].shape

    return distributed.on_main(write)


def write_reference(options: RefOptions, device: torch.device) -> int:
    """Write the statistics of images in the format of EDM's fid.py; return the number of images."""
    require_writable('dest', options.dest, '.npz')
    require_separate([('dest', options.dest)], {'data': [options.data]})
    extractor = make_extractor(options.extraction.extractor, options.extraction.preprocess, device)
    features = features_of(options.data, 'data', extractor, options.extraction)

    def write() -> int:
        found = moments(features[0])
        with atomic_file(options.dest) as file:
            settings = json.dumps(extractor.settings)
            np.savez(file, mu=found.mean, sigma=found.covariance, num=len(features[0]), settings=settings)
        return len(features[0])

    return distributed.on_main(write)


def read_reference(options: CalcOptions, extractor: Extractor) -> Sequence[np.ndarray | Moments]:
    """The reference's features or, if it is a statistics file, its moments.

    Returns a list with one entry on the main rank, and an empty list on other ranks.
    """
    if distributed.on_main(lambda: is_statistics(options.ref)):
        return distributed.kept_on_main(lambda: read_statistics(options.ref, extractor))
    return features_of(options.ref, 'ref', extractor, options.extraction)


def is_statistics(path: str) -> bool:
    """Whether a file is an .npz with the array names used by EDM's fid.py."""
    if not path.endswith('.npz') or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return {'mu.npy', 'sigma.npy'} <= set(file.namelist())


def read_statistics(path: str, extractor: Extractor) -> Moments:
    """Read `mu`, `sigma` and, if this toolkit wrote the file, `num` and `settings`.

    Raises UserError for a corrupt file, or for features from another extractor.
    """
    where = f'`ref`={path}'
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file['mu'].astype(np.float64), file['sigma'].astype(np.float64)
            count = int(file['num']) if 'num' in file else None
            settings = json.loads(str(file['settings'])) if 'settings' in file else None
    except Exception as error:  # NumPy raises many kinds of exceptions for corrupt files
        raise UserError(f'{where} is corrupt ({type(error).__name__}); create it again') from error
    if covariance.shape != (len(mean), len(mean)) or not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(
            f'{where}: mu {mean.shape} and sigma {covariance.shape} must be finite, with shapes [d] and [d, d]'
        )
    if settings is not None and identity(settings) != extractor.identity:
        raise UserError(f'{where} was made with {settings}, not {extractor.settings}; use the same extractor')
    return Moments(count, mean, covariance)


def measured_features(
    options: CalcOptions, extractor: Extractor, device: torch.device
) -> tuple[Record, list[np.ndarray]]:
    """The record's entries on the origin of the measured images, and the images' features on the main rank."""
    first, last = options.seed, options.seed + options.num - 1
    extraction = options.extraction
    if options.images is not None:
        features = features_of(options.images, 'images', extractor, extraction, options.num, options.seed)
        return {'images': Path(options.images).name, 'seed': options.seed}, features
    sampling = Sampling.of(options)
    generator: Generator
    if options.network is not None:
        fetched = partial(fetch, options.network, extraction.cache_dir, options.sha256)
        generator = SnapshotGenerator(distributed.on_main(fetched), sampling, device)
    else:
        generator = ClosedFormGenerator(str(options.denoiser), sampling, device)
    seeds, batch = range(first, last + 1), extraction.batch_size
    settings = distributed.on_main(
        lambda: {'images': generator.name, **generator.settings, 'seeds': f'{first}-{last}', 'batch': batch}
    )
    return settings, extract(extractor, generator.generate, seeds, batch, lambda: settings, extraction.cache_dir)


def features_of(
    path: str,
    argument: str,
    extractor: Extractor,
    options: ExtractionOptions,
    num: int | None = None,
    seed: int = 0,
    fewest: int = 2,
) -> list[np.ndarray]:
    """The features of given images, on the main rank.

    num: number of images to use, drawn with `seed`; if None, all are used. fewest: the required number of images.
    """
    images = read_images(path, argument, progress=distributed.is_main())
    if len(images) < fewest:
        raise UserError(
            f'`{argument}`={path} has {counted(len(images), "image", "d")}; a covariance needs at least two'
        )
    places = None
    if num is not None and num < len(images):
        places = np.sort(np.random.default_rng(seed).choice(len(images), num, replace=False)).tolist()
    return extract_given(extractor, images, options.batch_size, options.cache_dir, places)
