"""Rules that decide whether an image is a copy, in pixel space or in feature space.

- relative: d1 < d2 / 3, the rule of the memorization ratio (`evaluation.memorization.memorized`).
- cosine:T: the cosine between the features of an image and the features of its nearest training image exceeds T.
  Unrelated images also have a positive cosine, so the result must be compared with a background: the share of held-out
  images that the same rule counts as copies.
- adaptive: d1 is less than half the mean distance to the 50 nearest training images, so images in dense regions do not
  count as copies. Source: Carlini et al. 2023, "Extracting training data from diffusion models".

d1, d2: an image's distances to its nearest and second-nearest distinct training images.
"""

from typing import Any

import numpy as np
from torch import Tensor

from dnnlib.util import UserError
from evaluation.evaluation_options import CopyRule
from evaluation.intervals import wilson_interval
from evaluation.memorization import memorized
from evaluation.spaces import Rows, Space

ALPHA, NEIGHBORS = 0.5, 50  # from Carlini et al.


def find_copies(rule: CopyRule, space: Space, generated: Rows, training: Rows) -> tuple[Tensor, Tensor]:
    """Find the copies among generated images, and each generated image's nearest training image.

    generated: images or features [N, …]. training: images or features [M, …]. Returns whether each generated image is a
    copy, bool [N], and the position of its nearest training image, int64 [N].
    Raises UserError for fewer than two distinct training images.
    """
    if rule.name == 'cosine':
        generated, training = _directions(generated), _directions(training)
    distinct = space.distinct(training)
    if len(distinct) < 2:
        raise UserError('`copy_rule`: the training set has fewer than two distinct images')
    once = training if len(distinct) == len(training) else training[distinct.numpy()]
    count = {'relative': 2, 'cosine': 1, 'adaptive': min(NEIGHBORS, len(distinct))}[rule.name]
    index, squared = space.nearest(generated, once, count)
    nearest = distinct[index[:, 0]]
    if rule.name == 'relative':
        return memorized(squared[:, 0], squared[:, 1]), nearest
    distances = squared.double().sqrt()
    if rule.name == 'cosine':
        return 1 - distances[:, 0].square() / 2 > rule.threshold, nearest
    return distances[:, 0] < ALPHA * distances.mean(dim=1), nearest


def copies_record(rule: CopyRule, name: str, copies: Tensor, background: Tensor | None) -> dict[str, Any]:
    """A record's entry on copies under `rule`.

    name: the name of the space. copies: whether each generated image is a copy, bool [N]. background: whether each
    held-out image is a copy, bool [T]; None if there is no held-out set.
    """
    return {
        'space': name,
        'rule': str(rule),
        **_share(copies),
        'background': None if background is None else _share(background),
    }


def _share(copies: Tensor) -> dict[str, Any]:
    number = int(copies.sum())
    low, high = wilson_interval(number, len(copies))
    return {
        'num_images': len(copies),
        'num_copies': number,
        'ratio': number / len(copies),
        'ratio_low': low,
        'ratio_high': high,
    }


def _directions(features: Rows) -> np.ndarray:
    """Divide features [N, d] by their norms; returns float64 [N, d]."""
    rows = np.asarray(features, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise UserError(
            '`copy_rule`=cosine: all features of an image are 0, so its cosine is undefined; choose another rule'
        )
    return rows / norms
