"""Extracts features from images while they are generated."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from dnnlib.locks import locked
from evaluation.features.cache import cached_path, pixels_sha256, read_cached, write_cached
from evaluation.features.extractors import Extractor, Pixels
from evaluation.given_images import ImageSet
from evaluation.one_pass import Consumer, Generate, PartialResults, Pass, one_pass
from torch_utils import distributed
from training.sampling import GeneratedBatch


class FeatureRows(Consumer):
    """Extracts features on the rank that sampled the images; the images are not kept."""

    def __init__(self, context: Pass, extractor: Extractor):
        super().__init__(context)
        self.extractor = extractor

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        return {'features': self.extractor(batch.images)}


def extract(
    extractor: Extractor,
    generate: Generate,
    seeds: Sequence[int],
    batch_size: int,
    images: Callable[[], Mapping[str, Any]] | None = None,
    cache_dir: Path | None = None,
) -> list[np.ndarray]:
    """Generate images and extract their features.

    images: function that returns the settings that determine the images. These settings are needed to cache the
    features and to resume an interrupted pass; if `images` is None, neither is possible. cache_dir: see `cached_path`.
    Returns a list with one float32 array [N, d] on the main rank, and an empty list on other ranks.
    """
    rows = FeatureRows(Pass(seeds, batch_size), extractor)
    with contextlib.ExitStack() as stack:
        path = None if images is None else distributed.on_main(lambda: _claim(stack, cache_dir, extractor, images))
        if path is not None:
            kept = distributed.kept_on_main(lambda: read_cached(path, len(seeds)))
            if distributed.on_main(lambda: kept[0] is not None):
                return cast(list[np.ndarray], kept)
        partial = PartialResults(None if path is None else path.with_suffix('.partial'), {})
        with distributed.progress_bar(len(seeds), 'evaluate') as bar:
            one_pass(generate, rows.context, {'features': rows}, partial, bar)

        def finish() -> np.ndarray:
            features = rows.rows('features').numpy()
            if path is not None:
                write_cached(path, features)
                partial.remove()
            return features

        return distributed.kept_on_main(finish)


def _claim(
    stack: contextlib.ExitStack, cache_dir: Path | None, extractor: Extractor, images: Callable[[], Mapping[str, Any]]
) -> Path:
    """Lock these features' cache file until `stack` closes, and return its path; other processes wait for the lock."""
    path = cached_path(cache_dir, {**extractor.identity, **images()})
    stack.enter_context(locked(path.with_suffix('.lock'), math.inf))
    return path


def extract_given(
    extractor: Extractor,
    images: ImageSet,
    batch_size: int,
    cache_dir: Path | None = None,
    places: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Like `extract`, but for given images. places: positions of the images to use; if None, all images."""
    places = range(len(images)) if places is None else places
    starts = range(0, len(places), batch_size)
    parts = (images.pixels[list(places[start : start + batch_size])] for start in starts)
    key = None if isinstance(extractor, Pixels) else lambda: {'images': pixels_sha256(parts)}
    return extract(extractor, images.batches, places, batch_size, key, cache_dir)
