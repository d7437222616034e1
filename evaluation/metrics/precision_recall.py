"""Precision, recall, density and coverage of generated images.

The ball of an image has a radius equal to the distance to the k-th nearest other image in the same set.

- precision: share of generated images that lie in the ball of at least one training image; recall: share of training
  images that lie in the ball of at least one generated image. Kynkäänniemi et al. 2019, "Improved precision and recall
  metric for assessing generative models".
- density: number of training images whose balls contain a generated image, averaged over generated images and divided
  by k; it can exceed 1.
  coverage: share of training images whose ball contains a generated image. Naeem et al. 2020, "Reliable fidelity and
  diversity metrics for generative models".

Conventions: k = 5 as in Naeem et al. (3 in Kynkäänniemi et al.). Balls are closed for precision and recall, as in
their definition. They are open for density and coverage, as in the code of Naeem et al., so that the density is 1 when
the training images themselves are evaluated. Open and closed balls differ only for images exactly at the distance of
the k-th neighbour, such as copies of training images. Duplicates are kept: if more than k training images are equal,
their balls have radius 0.
"""

from dataclasses import dataclass

from torch import Tensor

from dnnlib.util import UserError
from evaluation.metrics.distances import Distances


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1], except the density, which is >= 0. k: a ball reaches to the k-th nearest neighbour."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def from_distances(distances: Distances, seed: int) -> PrecisionRecall:
    k = distances.k
    for rows, name in ((distances.generated, 'generated'), (distances.training, 'training')):
        if len(rows) <= k:
            raise UserError(f'precision_recall: {len(rows)} {name} images are too few; give at least {k + 1}')
    return precision_recall(
        distances.in_training_balls,
        distances.in_generated_balls[1],
        distances.training_to_generated,
        distances.within_training[:, -1],
        k,
    )


def precision_recall(
    in_training_balls: tuple[Tensor, Tensor], in_generated_balls: Tensor, nearest: Tensor, radii: Tensor, k: int
) -> PrecisionRecall:
    """Compute all four numbers from N generated and M training images.

    in_training_balls: for each generated image, how many open and closed balls of training images contain it, int64 [N]
    each. in_generated_balls: for each training image, how many closed balls of generated images contain it, int64 [M].
    nearest: squared distances from training images to their nearest generated images, [M]. radii: squared radii of the
    training images' balls, [M].
    """
    in_open, in_closed = in_training_balls
    return PrecisionRecall(
        precision=_share(in_closed > 0),
        recall=_share(in_generated_balls > 0),
        density=int(in_open.sum()) / (k * len(in_open)),
        coverage=_share(nearest < radii),
        k=k,
    )


def _share(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)
