"""Softmax-weighted means of training images by float32 products, with an estimate of their error: for small sets.

With c the rounded mean row, u = z - c and v = q - c, the logits are (u·v - ||v||²/2) / s² up to a constant. v and its
square are exact. Products are summed over `PIXELS` pixels in float32, and the rest in float64.

The error estimate. Adding n numbers in float32 rounds each partial sum by at most 2^-24 of its size; we assume that
these errors are independent and uniform. If the order of the numbers is random, the squares of the n partial sums add
up to about n/3 S² + n/6 Q, where S is the sum and Q the sum of squares of the numbers. For a logit of P pixels, this is
PIXELS ((u·v)² PIXELS / (3 P) + Q / 2) over all its groups, with Q = sum_k u_k² v_k²; we take the largest of the noisy
image's u·v. For the weighted sum over groups of `ROWS` rows, it is ROWS (||sum w v||² / 3 + sum w² ||v||² / 6).
Logits with independent errors e move the weighted mean D by sum w e (q - D) / sum w, whose mean square is about
e² sum w² sum w ||q - D||² / (sum w)³. If one image has almost all weight, the weight of the others bounds the error.
"""

import itertools
import math

import torch
from torch import Tensor

from torch_utils.row_threads import map_rows
from training.closed_form.rows import ImageRows

# Pixels whose products are summed in float32, and rows whose weighted sum is.
PIXELS = 128
ROWS = 256
# Noisy images at a time, so that the sums of groups of pixels stay in the cache.
BATCH = 128
# Half a unit of float32's last place, relative, as the standard deviation of a uniform error.
ROUNDING = 2.0**-24 / math.sqrt(3)
# The difference of two logits is wrong by more than this many times the error of one with a probability below 1e-8.
TAIL = 8
# Factors on weights above which they are useless.
USELESS = 1.3


def products(u: Tensor, v: Tensor) -> Tensor:
    """u·v for u float32 [B, P] and v float32 [N, P], in float64 [B, N] except within groups of pixels."""
    groups = u.shape[1] // PIXELS
    whole = groups * PIXELS
    result = (u[:, whole:] @ v[:, whole:].t()).to(torch.float64)
    if groups:
        left = u[:, :whole].unflatten(1, (groups, PIXELS)).transpose(0, 1)
        right = v[:, :whole].unflatten(1, (groups, PIXELS)).permute(1, 2, 0)
        result += torch.bmm(left, right).sum(dim=0, dtype=torch.float64)
    return result


def float32_means(
    images: ImageRows, x: Tensor, variance: Tensor, start: int, stop: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of rows start … stop - 1, the weight of images that are not the nearest, and the error.

    x: floats [B, P] in data units; variance: s² float64 [B].
    Returns the mean row, float32 [B, P]; the logarithm of a bound on the share of the weights of all images that differ
    from the nearest, float64 [B]; and the expected root mean square error of the denoised image relative to its norm in
    data units, float64 [B], which is not a number if x is not finite in float32.
    """

    def some(rows: slice) -> list[tuple[Tensor, Tensor, Tensor]]:
        pairs = zip(x[rows].split(BATCH), variance[rows].split(BATCH), strict=True)
        return [batch_means(images, *pair, start, stop) for pair in pairs]

    _ = images.centered  # before several threads ask for it
    parts = list(itertools.chain(*map_rows(some, len(x), x.device)))
    if len(parts) == 1:
        return parts[0]
    means, others, errors = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(others), torch.cat(errors)


def batch_means(images: ImageRows, x: Tensor, variance: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `float32_means`, at once."""
    center, rows, halves = images.centered
    v, halves, keys = rows[start:stop], halves[start:stop], images.keys[start:stop]
    highest, size = 2 * halves.amax(), x.shape[1]
    u = x.to(torch.float32, copy=True).mul_(127.5).sub_(center + 0.5)
    dots = torch.cat([products(u, part) for part in v.split(ROWS)], dim=1)  # [B, N]
    largest = torch.linalg.vector_norm(dots, ord=math.inf, dim=1)
    logits = dots.sub_(halves).div_(variance[:, None])
    reference, nearest = logits.max(dim=1)
    weights = logits.sub_(reference[:, None]).to(torch.float32).exp_()
    total, squares = weights.sum(dim=1, dtype=torch.float64), norm_squares(weights)
    mean_square = (weights @ (2 * halves).to(torch.float32)) / total

    # Rounding u, and the partial sums of u·v; the mean of u_k² v_k² is about the product of the means.
    width = min(PIXELS, size)
    longest_u = norm_squares(u).sqrt() + (center + 0.5).norm()
    rounding = width * largest.square() * width / (3 * size) + (width / 2 + 4) * longest_u.square() * highest / size
    logit_error = ROUNDING * (rounding.sqrt() / variance + 1)
    bound = (TAIL * logit_error).exp()
    same = keys == keys[nearest][:, None]
    others = weights.masked_fill(same, 0).sum(dim=1, dtype=torch.float64) * bound / total

    first, *left = zip(v.split(ROWS), weights.split(ROWS, dim=1), strict=True)
    weighted = first[1] @ first[0]
    for part, some in left:
        weighted.addmm_(some, part)
    length = norm_squares(weighted)
    # The mean square of ||q - D||, in float32, and a bound on it, since D is the point that makes it smallest.
    scattered = (mean_square - length / total.square()).clamp(min=0) + 1e-6 * mean_square
    scattered = torch.minimum(scattered, others * 4 * highest)
    moved = torch.where(bound < USELESS, logit_error * (scattered * squares).sqrt() / total, math.inf)
    moved = torch.minimum(moved, others * 2 * highest.sqrt())
    summed = ROUNDING * (min(ROWS, len(v)) * (length / 3 + squares * mean_square / 6)).sqrt() / total
    means = weighted.div_(total.to(torch.float32)[:, None]).add_(center)
    norms = torch.linalg.vector_norm(means + 0.5, dim=1)
    error = torch.hypot(summed, moved) / norms + 2 * ROUNDING * (1 + center.norm() / norms)
    return means, others.log(), error


def norm_squares(rows: Tensor) -> Tensor:
    """Squared norms of rows [B, P], float64 [B]."""
    return torch.linalg.vector_norm(rows, dim=1).to(torch.float64).square()
