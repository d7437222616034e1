"""Computes softmax-weighted sums of training images by exact int8 matrix products, and estimates the errors.

One matrix product gives the logits of all training images, and another gives the weighted sum of the images. Both
multiply int8 digits by pixels, so the products themselves are exact. Errors come from rounding z and the weights to
digits, and from the float32 arithmetic in between. The largest weights in each block of images are computed in float64
instead. At low noise, all other weights are negligible. At intermediate noise, the digits would be too coarse for the
other weights if they also had to represent the largest ones.

Error estimate. Let D = sum w q / sum w be the weighted mean of rows q. Rounding z to digits leaves an error r with
independent coordinates of mean zero and variance step²/12. This error changes each logit computed from digits by
r·q / s². The part r·m / s², where m is the mean row, is known and corrected. The rest shifts D by
r · sum w (q - m)(q - D) / (s² sum w); the sum in the numerator runs over the images whose logits come from
digits. By the Cauchy-Schwarz inequality, the mean squared length of this shift is at most
step²/12 · sum w ||q - m||² · sum w ||q - D||² / (s² sum w)².
Rounding weights to digits leaves independent errors of mean zero and variance at most unit²/4, so the mean squared
error of sum w q is at most unit²/4 · sum ||q||².
Both errors are sub-Gaussian with these variances as variance proxies (the first is uniform, the second bounded). By the
tail bound of Hsu, Kakade and Zhang, the square of either error exceeds (1 + 2 sqrt(t) + 2 t) times its mean with
probability at most exp(-t), where only the dither is random. Float32 adds errors of up to half a unit in the last place
to the logits; we assume that these errors are independent too. `relative_error` adds the three errors.
Sources: Hsu, Kakade and Zhang 2012, theorem 2.1 (the tail bound); `training.closed_form.int8_digits` (the dither).
"""

import dataclasses
import math

import torch
from torch import Tensor

from torch_utils.int8 import int8_matmul
from torch_utils.misc import for_device
from torch_utils.row_threads import map_rows
from training.closed_form.int8_digits import (
    SIGNED_ERROR,
    WEIGHT_ERROR,
    join,
    split_signed,
    split_weights,
    weight_offset,
    weight_scale,
)
from training.closed_form.rows import MAX_BLOCK, ImageRows
from training.closed_form.sums import NO_INDEX, Sums, empty_sums, float64_sums, known_sums, merge

# Number of training images per matrix product for the logits. On a CPU, it is small enough that the product (512 · 2048
# int32 values) stays in the cache. On a GPU, the kernels of such small blocks would take longer to launch than to run.
PRODUCT_ROWS = {'cpu': 2048, 'cuda': 8192}
# Number of weights that are converted to digits at a time (16 or 128 MiB of float32).
CHUNK_WEIGHTS = {'cpu': 1 << 22, 'cuda': 1 << 25}
WEIGHT_DIGITS = 3
# The EXACT_WEIGHTS largest weights of each block are computed in float64. They are found from the maxima of groups of
# GROUP images.
EXACT_WEIGHTS = 16
GROUP = 64
# Blocks with at most this many images are summed in float64.
FEW_IMAGES = 64
# Weights count as peaked if the groups' largest weights sum to less than this many times the largest of them.
EVEN_GROUPS = 30
# Number of rows that are gathered and converted to float64 at a time, and the largest number of pixel values in them.
GATHER_ROWS = {'cpu': 512, 'cuda': 8192}
GATHER_PIXELS = 1 << 27
# The weights not computed in float64 are ignored if they sum to at most this fraction of the total.
NEGLIGIBLE = 1e-8
# Half a unit in the last place of float32, relative to the value.
FLOAT32_ERROR = 2.0**-24
# Logits whose error could exceed this are too inaccurate to compute weights from.
USELESS_BOUND = 0.3


class Int8Query:
    """Noisy images as int8 digits, to be compared with blocks of training images.

    z: float64 [B, P]. variance: s², float64 [B]. count: number of digits per value of z, 1 to 4.
    """

    def __init__(self, images: ImageRows, z: Tensor, variance: Tensor, count: int):
        self.images, self.z, self.variance = images, z, variance
        self.digits, step, left = split_signed(z, count, images.pixel_dither)
        self.mean_norm, highest_norm = images.norms.mean(), images.highest_norm
        square = z.square().sum(dim=1)
        # The terms that are equal for all training images: -||z||² / (2 s²), the mean of -||q||² / (2 s²), and the
        # known effect of rounding z.
        self.offset = -(square + self.mean_norm) / (2 * variance) + left @ images.mean / variance
        self.coefficients = torch.stack([-1 / (2 * variance), step / variance], dim=1).to(torch.float32)
        self.scales = [(256**k * step / variance).to(torch.float32)[:, None] for k in reversed(range(count))]
        self.logit_error = SIGNED_ERROR * step / variance
        # A bound on the error of every logit. First line: the effect of rounding z, by the Cauchy-Schwarz inequality;
        # q - m is at most twice as long as the longest row. Second line: the rounding errors of at most eight float32
        # operations, on numbers no larger than the sum in parentheses.
        self.logit_bound = (
            step * (z.shape[1] * highest_norm).sqrt()
            + 8 * FLOAT32_ERROR * ((square * highest_norm).sqrt() + highest_norm)
        ) / variance

    def logits(self, start: int, stop: int) -> Tensor:
        """Return the logits -||z - q||² / (2 s²) - `offset` of rows start … stop - 1, float32 [B, N].

        N is the number of rows, rounded up to a multiple of the group size; the added columns are minus infinity.
        """
        count, width = stop - start, -(-(stop - start) // GROUP) * GROUP
        logits = self.coefficients.new_empty([len(self.z), width])
        logits[:, count:] = -math.inf
        for first, rows in self.images.blocks(start, stop, for_device(PRODUCT_ROWS, self.z.device)):
            here = slice(first, first + len(rows))
            norms = (self.images.norms[here] - self.mean_norm).to(torch.float32)
            sums = self.coefficients @ torch.stack([norms, self.images.dither_products[here]])
            products = int8_matmul(self.digits, rows.t()).split(len(self.z))
            for product, scale in zip(products[:-1], self.scales[:-1], strict=True):
                sums.addcmul_(product.to(torch.float32), scale)
            out = logits[:, first - start : first - start + len(rows)]
            torch.addcmul(sums, products[-1].to(torch.float32), self.scales[-1], out=out)
        return logits


def int8_sums(
    images: ImageRows, z: Tensor, variance: Tensor, digits: int, start: int, stop: int, find_nearest: bool
) -> tuple[Sums, Tensor]:
    """Return the sums over rows start … stop - 1, and `logit_error` for `relative_error`, float64 [B].

    z: float64 [B, P]. variance: s², float64 [B]. digits: number of digits per value of z, 1 to 4.
    find_nearest: whether to search for the nearest image even if the weights are not peaked. The nearest image
    remains unknown if float32 is too coarse to identify it.
    """

    def some(rows: slice) -> tuple[Sums, Tensor]:
        query = Int8Query(images, z[rows], variance[rows], digits)
        return query_sums(query, start, stop, find_nearest), query.logit_error

    sums, errors = zip(*map_rows(some, len(z), z.device), strict=True)
    return Sums.cat(list(sums)), torch.cat(errors)


def query_sums(query: Int8Query, start: int, stop: int, find_nearest: bool) -> Sums:
    """Sums over rows start … stop - 1, computed block by block."""
    sums: Sums | None = None
    known = torch.full_like(query.variance, -math.inf)
    for first in range(start, stop, MAX_BLOCK):
        last = min(first + MAX_BLOCK, stop)
        if last - first <= FEW_IMAGES:
            part = float64_sums(query.images, query.z, query.variance, first, last)
        else:
            part = block_sums(query, first, last, find_nearest, known)
        sums = part if sums is None else merge(sums, part)
        known = sums.log_total
    return empty_sums(query.z) if sums is None else sums


def block_sums(query: Int8Query, start: int, stop: int, find_nearest: bool, known: Tensor) -> Sums:
    """Like `query_sums`, for one block. known: logarithm of the total weight of earlier blocks."""
    logits = query.logits(start, stop)
    groups = logits.unflatten(1, (-1, GROUP)).amax(dim=2)
    highest = groups.amax(dim=1, keepdim=True)
    peaks = bool((groups - highest).exp().sum(dim=1).amin() < EVEN_GROUPS)
    top = None
    if peaks or find_nearest:
        positions, highest = take_largest(logits, groups)
        top = gathered_sums(query, positions + start)
        known = torch.maximum(known, top.log_total)
    rest = dropped_sums(query, query.offset + highest[:, 0], stop - start)
    rows = (rest.others > known + math.log(NEGLIGIBLE)).nonzero()[:, 0]
    if len(rows) == len(logits):
        rest = rest_sums(query, rows, logits, highest, start, stop)
    elif len(rows):
        rest[rows] = rest_sums(query, rows, logits[rows], highest[rows], start, stop)
    if top is None:
        return rest
    # The nearest image in `top` is certain to be the nearest of all only if all remaining images are farther away.
    rest.distance = torch.where(rest.distance > top.distance, rest.distance, math.inf)
    return merge(top, rest)


def take_largest(logits: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the largest logits (int64 [B, EXACT_WEIGHTS]), and the largest remaining logit ([B, 1]).

    logits: float32 [B, N]; the largest are overwritten with minus infinity. groups: the largest logit of each group,
    [B, N / GROUP]. The K largest logits lie in the K groups with the largest maxima, so only these groups are searched.
    """
    chosen = groups.topk(min(EXACT_WEIGHTS + 1, groups.shape[1]), dim=1).indices
    places = (chosen[:, :, None] * GROUP + torch.arange(GROUP, device=logits.device)).flatten(1)
    values, order = logits.gather(1, places).topk(EXACT_WEIGHTS + 1, dim=1)
    positions = places.gather(1, order[:, :EXACT_WEIGHTS])
    logits.scatter_(1, positions, -math.inf)
    return positions, values[:, -1:]


def gathered_sums(query: Int8Query, positions: Tensor) -> Sums:
    """Sums over K training images that are chosen for each noisy image, computed in float64.

    positions: row positions of these training images, int64 [B, K].
    """
    rows = min(for_device(GATHER_ROWS, query.z.device), GATHER_PIXELS // query.images.num_pixels)
    size = max(1, rows // positions.shape[1])
    parts = []
    for z, variance, places in zip(query.z.split(size), query.variance.split(size), positions.split(size), strict=True):
        q = query.images.rows(places.flatten()).to(torch.float64).unflatten(0, places.shape)
        parts.append(known_sums(query.images, z, variance, q, places))
    return Sums.cat(parts)


def dropped_sums(query: Int8Query, reference: Tensor, count: int) -> Sums:
    """Sums that leave out `count` training images with negligible weights.

    The sums themselves are zero; `rounding`, `distance` and `others` are bounds that account for the omitted images.
    reference: the largest log weight of these images, as inexact as `Int8Query.logits`, float64 [B].
    """
    bound = reference + query.logit_bound
    return dataclasses.replace(
        empty_sums(query.z),
        reference=bound,
        rounding=torch.full_like(reference, count) * query.images.highest_norm.sqrt(),
        distance=-2 * query.variance * bound,
        others=bound + math.log(count),
    )


def rest_sums(query: Int8Query, rows: Tensor, logits: Tensor, highest: Tensor, start: int, stop: int) -> Sums:
    """Sums over images start … stop - 1 for some of the noisy images, with the weights written as int8 digits.

    rows: indices of the noisy images, int64 [R]. logits: float32 [R, N], overwritten. highest: the largest logit of
    each noisy image, float32 [R, 1].
    """
    images, count = query.images, stop - start
    # The last row of digits is all ones, so its product with the pixels is the sum of all pixel rows.
    digits = torch.ones([WEIGHT_DIGITS * len(rows) + 1, count], dtype=torch.int8, device=logits.device)
    parts = digits[:-1].unflatten(0, (WEIGHT_DIGITS, -1))
    norms = images.norms[start:stop].to(torch.float32)
    totals, squares, norm_sums = [], [], []
    size = max(1, for_device(CHUNK_WEIGHTS, logits.device) // count)
    for first in range(0, len(rows), size):
        weights = logits[first : first + size, :count]
        weights = weights.sub_(highest[first : first + size]).exp_()
        totals.append(weights.sum(dim=1))
        squares.append(torch.linalg.vector_norm(weights, dim=1).square())
        norm_sums.append(weights @ norms)
        split_weights(weights, images.weight_dither[:count], [part[first : first + size] for part in parts])
    products = int8_matmul(digits, images.block(start, stop))
    pixel_sums = weight_offset(WEIGHT_DIGITS) * products[-1].to(torch.float64)
    weighted = (join(list(products[:-1].split(len(rows)))) + pixel_sums) / weight_scale(WEIGHT_DIGITS)
    total, square, norm_sum = (torch.cat(values).to(torch.float64) for values in (totals, squares, norm_sums))
    reference, bound = query.offset[rows] + highest[:, 0], query.logit_bound[rows]
    logit_sizes = highest[:, 0].abs() + query.mean_norm / query.variance[rows]
    rounding = WEIGHT_ERROR / weight_scale(WEIGHT_DIGITS) * norms.sum(dtype=torch.float64).sqrt()
    rounding = rounding + FLOAT32_ERROR * logit_sizes * (square * norm_sum / total).sqrt()
    return Sums(
        reference=reference,
        total=total,
        squares=square,
        weighted=weighted,
        inexact=total.clone(),
        spread=norm_sum - 2 * weighted @ images.mean + total * images.mean.square().sum(),
        rounding=rounding.masked_fill(bound > USELESS_BOUND, math.inf),
        nearest=torch.full_like(rows, NO_INDEX),
        key=torch.zeros_like(rows),
        distance=-2 * query.variance[rows] * (reference + bound),
        others=reference + bound + total.log(),
    )


def relative_error(images: ImageRows, logit_error: Tensor, sums: Sums) -> Tensor:
    """Expected root mean square error of each denoised image, relative to the image's norm, float64 [B].

    logit_error: the value returned by `int8_sums`. sums: sums over all training images.
    """
    mean, center = sums.mean, images.mean
    distance = (mean - center).square().sum(dim=1)  # [B]
    exact = sums.total - sums.inexact
    # Two upper bounds on sum w ||q - D||² over the inexact images, whose weights come from digits; the smaller bound is
    # used. The first bound follows from D - m = sum w (q - m) / sum w. The images summed in float64 contribute at most
    # their weight times the longest q - m to the sum of w (q - m). The second bound is the triangle inequality.
    longest = images.highest_norm.sqrt() + center.norm()
    scattered = sums.spread - (sums.total + exact) * distance + 2 * exact * longest * distance.sqrt()
    scattered = torch.minimum(scattered, (sums.spread.sqrt() + (sums.inexact * distance).sqrt()).square())
    # If all images are inexact, an error that all logits share cancels, so D can replace m.
    spread = torch.where(exact <= 1e-12 * sums.total, scattered, sums.spread)
    from_logits = logit_error * (spread * scattered).clamp(min=0).sqrt()
    return (from_logits + sums.rounding) / (sums.total * (mean + 0.5).norm(dim=1))
