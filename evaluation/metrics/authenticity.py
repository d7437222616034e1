"""AuthPct: the percentage of generated images that are authentic, meaning not near-copies of a training image.

A generated image is authentic if the distance to its nearest training image exceeds the distance between this training
image and the nearest other training image (Alaa et al. 2022, "How faithful is your synthetic data?"; the percentage is
from Stein et al. 2023, "Exposing flaws of generative model evaluation metrics and their unfair treatment of diffusion
models").

Conventions: an image is not authentic if the two distances are equal. If several training images are equally
near, the one with the lowest index is used. `authpct` keeps duplicates in the training set. The distance from a
duplicated training image to its nearest training image is 0. A generated image whose nearest training image is
duplicated therefore counts as authentic, unless it is an exact copy. `authpct_distinct` counts equal training images
once, as the memorization ratio does. If there are no duplicates, `authpct_distinct` equals `authpct`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.intervals import wilson_interval
from evaluation.metrics.distances import Distances


@dataclass(frozen=True)
class Authenticity:
    """The percentage of authentic images, with its 95 % Wilson interval.

    authpct_distinct: the percentage if equal training images count once.
    """

    authpct: float
    authpct_low: float
    authpct_high: float
    authpct_distinct: float
    num_authentic: int


def from_distances(distances: Distances, seed: int) -> Authenticity:
    index, squared = distances.nearest_two
    nearest = index[:, 0].contiguous()
    place = torch.searchsorted(distances.distinct_training, nearest)
    return authenticity(squared[:, 0], distances.within_training[nearest, 0], distances.within_distinct_training[place])


def authenticity(nearest: Tensor, spacing: Tensor, spacing_distinct: Tensor) -> Authenticity:
    """Compute AuthPct for N >= 1 generated images.

    nearest: squared distances from generated images to their nearest training images, [N]. spacing: squared distances
    from these training images to their nearest other training images, [N]. spacing_distinct: like spacing, but with
    duplicates removed from the training set.
    """
    count = int((nearest > spacing).sum())
    low, high = wilson_interval(count, len(nearest))
    return Authenticity(
        authpct=100 * count / len(nearest),
        authpct_low=100 * low,
        authpct_high=100 * high,
        authpct_distinct=100 * int((nearest > spacing_distinct).sum()) / len(nearest),
        num_authentic=count,
    )
