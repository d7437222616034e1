"""Describes the content of a set of images: their sizes and labels, and exact and near copies among them."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from dataset_utils.manifest import Manifest, listed
from dataset_utils.selections import name_of
from dataset_utils.sources import Source, content_sha256
from dataset_utils.sources.base import copies_of, printable, words_of
from dnnlib.util import UserError, counted

NEAR = 16.0  # root mean square difference per pixel (0 to 255); CIFAR-10 has four pairs of images closer than this
DIRECTIONS = 64
BLOCK = 2048  # number of images that each step compares with all others
MAX_VALUES = 1 << 23  # number of pixel values that are projected at a time
MAX_CANDIDATES = 1_000_000
SHOWN = 10  # maximum number of pairs that are listed
SHOWN_CLASSES = 20


def describe(source: Source, near: float) -> str:
    """Describe a source in words: counts, sizes, labels, copies, near copies, and how it was made.

    near: root mean square difference per pixel (0 to 255) below which two images are near copies.
    Raises UserError if images are unreadable or of different sizes, or if `near` is negative.
    """
    if not near >= 0:
        raise UserError(f'`near`={near} is not a valid distance; give a number of at least 0')
    images = source.load(progress=True)
    copies = copies_of(images)
    distinct = [index for index, original in enumerate(copies) if index == original]
    pairs = [(distinct[a], distinct[b], distance) for a, b, distance in near_pairs(images[distinct], near)]
    lines = [
        f'{source.path}: {counted(len(source), "image", "d")}, {words_of(images.shape[1:])}',
        f'Content: sha256 {content_sha256(images, source.labels)}',
        *_label_lines(source),
        *_copy_lines(source, copies),
        *_pair_lines(source, pairs, near),
        *_manifest_lines(source.manifest),
    ]
    return '\n'.join(lines)


def near_pairs(images: np.ndarray, near: float) -> list[tuple[int, int, float]]:
    """Find all pairs of images whose root mean square difference per pixel is below `near`; the search is exact.

    images: uint8 [N, H, W, C]. Returns (i, j, distance) with i < j for each pair; the closest pair is first. Raises
    UserError if too many pairs would have to be compared pixel by pixel.

    Projecting onto orthonormal directions, with the norm of the residual as an additional coordinate, never increases
    a distance. Distances between projections are cheap to compute and rule out most pairs; only the remaining pairs are
    compared pixel by pixel.
    """
    pixels = images.reshape(len(images), -1)  # [N, D]
    found = []
    candidates = 0
    for first, second in _candidate_pairs(_project(pixels), pixels.shape[1] * near**2):
        candidates += len(first)
        if candidates > MAX_CANDIDATES:
            raise UserError(f'`near`={near:g} gives too many pairs to list; lower it')
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            difference = pixels[i].astype(np.float64) - pixels[j]
            distance = math.sqrt(difference @ difference / len(difference))
            if distance < near:
                found.append((i, j, distance))
    return sorted(found, key=lambda pair: (pair[2], pair[:2]))


def _project(pixels: np.ndarray) -> np.ndarray:
    """Project images (uint8 [N, D]) onto K orthonormal directions.

    Returns float32 [N, K + 1]; the last column is the norm of the residual. The directions span the differences between
    some of the images and the mean image, because these directions explain more variance than random ones.
    """
    count = len(pixels)
    mean = pixels.mean(axis=0, dtype=np.float64)
    chosen = np.unique(np.linspace(0, count - 1, min(count, DIRECTIONS)).astype(int))
    directions = np.linalg.qr((pixels[chosen] - mean).T)[0]  # [D, K]
    blocks = []
    step = max(1, MAX_VALUES // pixels.shape[1])
    for start in range(0, count, step):
        centered = pixels[start : start + step] - mean
        along = centered @ directions
        left = np.sqrt(np.maximum((centered**2).sum(1) - (along**2).sum(1), 0))
        blocks.append(np.concatenate([along, left[:, np.newaxis]], axis=1).astype(np.float32))
    return np.concatenate(blocks)


def _candidate_pairs(points: np.ndarray, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of points whose squared distance is below a limit, several pairs at a time.

    Each yielded tuple consists of two arrays: the indices i and the indices j of some of these pairs, with i < j. The
    limit is raised slightly, so that rounding errors do not exclude a pair.
    """
    norms = np.einsum('nk,nk->n', points, points)
    limit += 1e-5 * float(norms.max())
    for start in range(0, len(points), BLOCK):
        stop = min(start + BLOCK, len(points))
        # The condition |a|^2 + |b|^2 - 2 a.b < limit, rearranged so that all terms with b are on one side.
        products = points[start:stop] @ points[start:].T  # [B, N - start]
        products -= 0.5 * norms[start:]
        is_near = products > 0.5 * (norms[start:stop, np.newaxis] - limit)
        first, second = np.nonzero(is_near)
        is_ordered = first < second
        yield first[is_ordered] + start, second[is_ordered] + start


def _label_lines(source: Source) -> list[str]:
    if source.labels is None:
        return ['Labels: none']
    counts = sorted(Counter(source.labels).items())
    sizes = [count for _, count in counts]
    if len(counts) > SHOWN_CLASSES:
        least, most = min(sizes), max(sizes)
        each = f'{least} to {most} images' if least < most else f'{counted(least, "image")} each'
        return [f'Labels: {len(counts)} classes of {each}']
    return [
        f'Labels: {len(counts)} class{"es" if len(counts) > 1 else ""}',
        *(f'  {printable(name_of(label, source.class_names))}: {count}' for label, count in counts),
    ]


def _copy_lines(source: Source, copies: Sequence[int]) -> list[str]:
    pairs = [(original, index) for index, original in enumerate(copies) if index != original]
    lines = [f'  {source.describe(copy)} of {source.describe(original)}' for original, copy in pairs]
    return [f'Exact copies of earlier images: {len(pairs)}', *_first(lines)]


def _pair_lines(source: Source, pairs: Sequence[tuple[int, int, float]], near: float) -> list[str]:
    lines = [f'  {source.describe(i)} and {source.describe(j)}: {distance:.2f}' for i, j, distance in pairs]
    return [f'Near copies (root mean square difference per pixel below {near:g} of 255): {len(pairs)}', *_first(lines)]


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], '  ...']


def _manifest_lines(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return ['Manifest: none']
    sources = zip(listed(manifest.source), listed(manifest.source_sha256), strict=False)
    arguments = ', '.join(f'{name}={value}' for name, value in manifest.arguments.items() if value is not None)
    return [
        f'Made by the rule "{printable(manifest.rule)}" (version {manifest.version}) with {printable(arguments)}',
        *(f'  from {printable(name)}, sha256 {printable(digest)}' for name, digest in sources),
        f'  images used: {printable(str(manifest.indices)[1:-1])}',
        f'  labels: {printable(manifest.labels)}',
    ]
