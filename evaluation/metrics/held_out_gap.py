"""Are generated images nearer to the training images than to a held-out test set from the same source?

d_train and d_test are the distances from a generated image to its nearest training image and its nearest test image.
If a model learned the distribution instead of memorizing, its images are equally near to both sets: d_test - d_train is
zero on average if the sets have the same size. The C_T test of Meehan et al. 2020 (`evaluation.metrics.data_copying`)
asks the same question; this metric answers it for each generated image, in units of distance.

Conventions: distances are Euclidean; in pixel space, their unit is one step of the scale from 0 to 255. If
training and test images were exchangeable, more generated images would still be nearer to the larger set.
`expected_share` is the share that would then be nearer to the training set: the number of distinct training images
divided by the number of distinct training and test images. Ties are counted separately. The 95 % interval of the mean
gap uses the normal approximation; the interval of the share is Wilson's.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
from torch import Tensor

from evaluation.intervals import CONFIDENCE, wilson_interval
from evaluation.metrics.distances import Distances


@dataclass(frozen=True)
class HeldOutGap:
    """Nearest-neighbour distances to training and test images, and how much nearer the training images are.

    mean_gap, median_gap: statistics of d_test - d_train. gap_low, gap_high: the mean gap's interval, None for a single
    image. share_nearer_to_training: share of generated images that are nearer to the training set, with the interval
    share_low to share_high. share_tied: share of images equally near to both sets. expected_share: share expected to be
    nearer to the training set if generated images were independent of the training images.
    """

    mean_to_training: float
    mean_to_test: float
    median_to_training: float
    median_to_test: float
    mean_gap: float
    gap_low: float | None
    gap_high: float | None
    median_gap: float
    share_nearer_to_training: float
    share_low: float
    share_high: float
    share_tied: float
    expected_share: float


def from_distances(distances: Distances, seed: int) -> HeldOutGap:
    _, squared = distances.nearest_two
    num_test = len(distances.space.distinct(distances.test))
    return held_out_gap(squared[:, 0], distances.to_test, len(distances.distinct_training), num_test)


def held_out_gap(to_training: Tensor, to_test: Tensor, num_training: int, num_test: int) -> HeldOutGap:
    """Compute the gap for N >= 1 generated images.

    to_training, to_test: squared distances from generated images to their nearest training and test images, [N] each.
    num_training, num_test: the number of distinct images in each set.
    """
    nearer = int((to_training < to_test).sum())
    low, high = wilson_interval(nearer, len(to_training))
    training, test = to_training.double().sqrt().numpy(), to_test.double().sqrt().numpy()
    gap = test - training
    half = None
    if len(gap) > 1:
        half = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)) * float(gap.std(ddof=1)) / math.sqrt(len(gap))
    mean = float(gap.mean())
    return HeldOutGap(
        mean_to_training=float(training.mean()),
        mean_to_test=float(test.mean()),
        median_to_training=float(np.median(training)),
        median_to_test=float(np.median(test)),
        mean_gap=mean,
        gap_low=None if half is None else mean - half,
        gap_high=None if half is None else mean + half,
        median_gap=float(np.median(gap)),
        share_nearer_to_training=nearer / len(to_training),
        share_low=low,
        share_high=high,
        share_tied=int((to_training == to_test).sum()) / len(to_training),
        expected_share=num_training / (num_training + num_test),
    )
