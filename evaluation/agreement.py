"""Do two generators make the same images from the same seeds, or does each copy its own training set?

Images are compared by the cosine of their pixels after subtracting the mean of each image, and by their root mean
square distance. Networks trained on two small disjoint sets copy their own set and disagree; with more data they agree
and copy neither. A similarity is meaningful only next to its background: the similarity of
unrelated images, and of held-out images to their nearest training image.
Sources: Kadkhodaie et al. 2024 (pixels), Zhang et al. 2024 (cosine of features, share above a threshold).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.intervals import wilson_interval
from evaluation.noise_levels import Estimate, mean_interval

Rows = Tensor | np.ndarray
QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # in %
# Cosine of SSCD features above which Zhang et al. count two images as the same.
THRESHOLD = 0.6
# Images of one product.
BLOCK = 4096


@dataclass(frozen=True)
class Distribution:
    """Similarities of N >= 2 pairs. mean: with its interval. quantiles: by percentage, see `QUANTILES`.

    share: of similarities above the threshold, with its 95 % Wilson interval.
    """

    mean: Estimate
    quantiles: dict[int, float]
    share: Estimate


def cosines(a: Rows, b: Rows) -> Tensor:
    """The cosine of each pair of rows, float64 [N]: of mean-removed pixels for uint8 images, of features otherwise.

    a, b: uint8 [N, …], or float [N, d]. 0 if an image is constant.
    """
    return (unit_rows(a) * unit_rows(b)).sum(dim=1)


def rms_distances(a: Rows, b: Rows) -> Tensor:
    """Root mean square difference of each pair of images uint8 [N, …], in pixel levels, float64 [N]."""
    return (_matrix(a) - _matrix(b)).square().mean(dim=1).sqrt()


def nearest_cosines(queries: Rows, references: Rows) -> tuple[Tensor, Tensor]:
    """The most similar reference of each query, int64 [N], ties by lowest index, and its cosine, float64 [N]."""
    rows, others = unit_rows(queries), torch.as_tensor(references)
    best = rows.new_full([len(rows)], -np.inf)
    index = torch.zeros([len(rows)], dtype=torch.int64, device=rows.device)
    for start in range(0, len(others), BLOCK):
        cosine, place = (rows @ unit_rows(others[start : start + BLOCK]).t()).max(dim=1)
        closer = cosine > best
        best, index = torch.where(closer, cosine, best), torch.where(closer, place + start, index)
    return index, best


def distribution(similarities: Tensor, threshold: float = THRESHOLD) -> Distribution:
    """The mean, the quantiles and the share above a threshold of similarities float64 [N], N >= 2."""
    values = similarities.cpu().numpy()
    above = int((values > threshold).sum())
    quantiles = np.percentile(values, QUANTILES)
    return Distribution(
        mean=mean_interval(values),
        quantiles=dict(zip(QUANTILES, quantiles.tolist(), strict=True)),
        share=Estimate(above / len(values), *wilson_interval(above, len(values))),
    )


def unrelated(a: Rows, b: Rows) -> tuple[Rows, Rows]:
    """Pairs of images of different seeds: each image of a with the next one of b, the last with the first."""
    return a, torch.as_tensor(b).roll(-1, dims=0)


def unit_rows(rows: Rows) -> Tensor:
    """Rows of length 1 (or 0), float64 [N, P]; images uint8 lose their mean value first."""
    matrix = _matrix(rows)
    if torch.as_tensor(rows).dtype == torch.uint8:
        matrix = matrix - matrix.mean(dim=1, keepdim=True)
    norms = matrix.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, matrix / norms, 0)


def _matrix(rows: Rows) -> Tensor:
    return torch.as_tensor(rows).flatten(1).to(torch.float64)
