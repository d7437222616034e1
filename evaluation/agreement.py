"""Do two generators make the same images from the same seeds, or does each copy its own training set?

Two images are compared by the cosine between their pixels (after subtracting each image's mean) and by their root mean
square distance. Networks trained on two small disjoint sets each copy their own set and disagree; with more data they
agree and copy neither set. These similarities must be compared with a background: the similarity of unrelated images,
and the similarity of held-out images to their nearest training images.
Sources: Kadkhodaie et al. 2024 (pixels); Zhang et al. 2024 (feature cosine, share above a threshold).
"""

import numpy as np
import torch
from torch import Tensor

Rows = Tensor | np.ndarray
# Cosine of SSCD features above which Zhang et al. consider two images the same.
THRESHOLD = 0.6
# Images per matrix product.
BLOCK = 4096


def cosines(a: Rows, b: Rows) -> Tensor:
    """The cosine between a[i] and b[i] for each i, float64 [N]; it is 0 if at least one of the images is constant.

    a, b: float features [N, d], or uint8 images [N, …]. The mean of each uint8 image is subtracted first.
    """
    return (unit_rows(a) * unit_rows(b)).sum(dim=1)


def rms_distances(a: Rows, b: Rows) -> Tensor:
    """The root mean square difference between images a[i] and b[i], in pixel levels.

    a, b: uint8 [N, …]. Returns float64 [N].
    """
    return (_matrix(a) - _matrix(b)).square().mean(dim=1).sqrt()


def nearest_cosines(queries: Rows, references: Rows) -> tuple[Tensor, Tensor]:
    """Find the most similar reference for each query; on ties, the reference with the lowest index.

    Returns the indices of these references, int64 [N], and their cosines with the queries, float64 [N].
    """
    rows, others = unit_rows(queries), torch.as_tensor(references)
    best = rows.new_full([len(rows)], -np.inf)
    index = torch.zeros([len(rows)], dtype=torch.int64, device=rows.device)
    for start in range(0, len(others), BLOCK):
        cosine, place = (rows @ unit_rows(others[start : start + BLOCK]).t()).max(dim=1)
        closer = cosine > best
        best, index = torch.where(closer, cosine, best), torch.where(closer, place + start, index)
    return index, best


def unrelated(a: Rows, b: Rows) -> tuple[Rows, Rows]:
    """Pair images from different seeds: each a[i] with b[i + 1], and the last image in `a` with b[0]."""
    return a, torch.as_tensor(b).roll(-1, dims=0)


def unit_rows(rows: Rows) -> Tensor:
    """Scale rows to length 1; rows of zeros stay 0. Returns float64 [N, P].

    If the rows are uint8 images, the mean of each image is subtracted first.
    """
    matrix = _matrix(rows)
    if torch.as_tensor(rows).dtype == torch.uint8:
        matrix = matrix - matrix.mean(dim=1, keepdim=True)
    norms = matrix.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, matrix / norms, 0)


def _matrix(rows: Rows) -> Tensor:
    return torch.as_tensor(rows).flatten(1).to(torch.float64)
