"""AuthPct: the per cent of generated images that are authentic, meaning not near-copies of a training image.

A generated image is authentic if it is farther from its nearest training image than that training image is from its
own nearest other training image (Alaa et al. 2022, "How faithful is your synthetic data?"; the plain per cent is that
of Stein et al. 2023, "Exposing flaws of generative model evaluation metrics and their unfair treatment of diffusion
models").

Conventions: "farther" is strict, so equal distances are not authentic. If several training images are equally near, the
one with the lowest index counts. `authpct` takes the training images as they are: one that occurs twice is at distance
0 from its copy, so that only an exact copy of it is not authentic. `authpct_distinct` counts equal training images as
one, as the memorization ratio does; without duplicates both are the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.intervals import wilson_interval
from evaluation.metrics.distances import Distances


@dataclass(frozen=True)
class Authenticity:
    """Per cent of authentic images, with its 95 % Wilson interval in per cent, and the same over distinct images."""

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
    """AuthPct of N >= 1 generated images.

    nearest: squared distances [N] of generated images to their nearest training images. spacing: squared distances [N]
    of those training images to the nearest other one; spacing_distinct: to the nearest other one that is not a copy.
    """
    count = int(authentic(nearest, spacing).sum())
    low, high = wilson_interval(count, len(nearest))
    return Authenticity(
        authpct=100 * count / len(nearest),
        authpct_low=100 * low,
        authpct_high=100 * high,
        authpct_distinct=100 * int(authentic(nearest, spacing_distinct).sum()) / len(nearest),
        num_authentic=count,
    )


def authentic(nearest: Tensor, spacing: Tensor) -> Tensor:
    """Whether generated images are authentic, bool [N]; arguments as for `authenticity`."""
    return nearest > spacing
