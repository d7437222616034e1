"""Softmax-weighted means of training images in float32, with an estimate of their error: for small sets.

In data units, with c the mean row rounded to pixel levels and v = y - c for a training image y, the mean is
c + sum w v / sum w. The logits are x·v - (c·v + ||v||²/2) over sigma² up to a constant. The second part is exact. The
products x·v are sums of float32 over `PIXELS` pixels, added in float64, or, if there are more than a few images, exact
products of pixels with x as int8 digits.

The error estimate. Adding n numbers in float32 rounds each partial sum by at most 2^-24 of its size; we assume that
these errors are independent and uniform. If the order of the numbers is random, the squares of the n partial sums add
up to about n/3 S² + n/6 Q, where S is the sum and Q the sum of squares of the numbers. For a product over P pixels
this is PIXELS ((x·v)² PIXELS / (3 P) + Q / 2) over all its groups, with Q = sum_k x_k² v_k²; we take the largest of the
noisy image's x·v. For the weighted sum over groups of `ROWS` rows, it is ROWS (||sum w v||² / 3 + sum w² ||v||² / 6).
Logits with independent errors e move the weighted mean D by sum w e (y - D) / sum w, whose mean square is about
e² sum w² sum w ||y - D||² / (sum w)³. Digits of x leave one error r of independent coordinates for all logits, which
moves D by sum w r·(y - D) (y - D) / (sigma² sum w); by Cauchy and Schwarz its mean square is at most the variance of a
coordinate times (sum w ||y - D||² / (sigma² sum w))². If one image has almost all weight, the weight of the others
bounds the error.
"""

import functools
import itertools
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils.int8 import int8_matmul
from torch_utils.row_threads import map_rows
from training.closed_form.rows import ImageRows

# Numbers of pixels, and of rows, that are summed in float32; their sums are added in float64.
PIXELS = 128
ROWS = 256
# Noisy images at a time, which limits memory.
BATCH = 512
# Digits are used if they save more time than a float32 product of this number of images takes. Float32 products in
# groups take 1.6 times as long as ungrouped ones.
DIGITS_FROM = 230
GROUPED = 1.6
# Root mean square error of a number in units of its last digit, including float32's rounding before it is cut.
DIGIT_ERROR = 0.5
# Half a unit of float32's last place, relative, as the standard deviation of a uniform error.
ROUNDING = 2.0**-24 / math.sqrt(3)
# The difference of two logits is wrong by more than this many times the error of one with a probability below 1e-8.
TAIL = 8
# Factors on weights above which they are useless.
USELESS = 1.3


@dataclass(frozen=True)
class SmallSet:
    """A training set in data units.

    center: the rounded mean row c, float32 [P]. rows: v = y - c, float32 [N, P]. constants, digit_constants: the parts
    of logits that do not depend on x, times sigma², for products with v and with pixels, float64 [N].
    squares: ||v||², float32 [N].
    """

    images: ImageRows
    center: Tensor
    rows: Tensor
    constants: Tensor
    digit_constants: Tensor
    squares: Tensor

    @staticmethod
    def of(images: ImageRows) -> 'SmallSet':
        center = images.mean.round()
        levels = images.block(0, len(images)).to(torch.float32)
        sums = levels.sum(dim=1, dtype=torch.float64) / 2 + images.norms / 2
        levels.sub_(center.to(torch.float32))  # exact, and so are their norms
        squares = torch.linalg.vector_norm(levels, dim=1, dtype=torch.float64).square()
        center = (center + 0.5) / 127.5
        constants = torch.mv(levels.to(torch.float64), center) / 127.5 + squares / (2 * 127.5**2)
        return SmallSet(
            images,
            center.to(torch.float32),
            levels.div_(127.5),
            constants,
            sums / 127.5**2,
            (squares / 127.5**2).float(),
        )


def float32_means(
    small: SmallSet, x: Tensor, variance: Tensor, start: int, stop: int, denoised: Tensor
) -> tuple[Tensor, Tensor]:
    """Denoise by rows start … stop - 1; returns the weight of images that are not the nearest, and the error.

    x: floats [B, P]; variance: sigma² float64 [B]; both in data units. denoised: floats [B, P], filled.
    Returns the logarithm of a bound on the share of the weights of all images that differ from the nearest, float64
    [B], and the expected root mean square error of the denoised image relative to its norm, float64 [B], which is not a
    number if x is not finite in float32.
    """

    def some(rows: slice) -> list[tuple[Tensor, Tensor]]:
        parts = zip(x[rows].split(BATCH), variance[rows].split(BATCH), denoised[rows].split(BATCH), strict=True)
        with torch.inference_mode(denoised.is_inference()):  # threads do not inherit the mode
            return [denoise_batch(small, start, stop, *part) for part in parts]

    others, errors = zip(*itertools.chain(*map_rows(some, len(x), x.device)), strict=True)
    return torch.cat(others), torch.cat(errors)


def denoise_batch(
    small: SmallSet, start: int, stop: int, x: Tensor, variance: Tensor, denoised: Tensor
) -> tuple[Tensor, Tensor]:
    """Like `float32_means`, in one part."""
    keys = small.images.keys[start:stop]
    v, squares = small.rows[start:stop], small.squares[start:stop]
    highest = squares.amax().to(torch.float64)
    x = x.to(torch.float32)
    if (stop - start) * (GROUPED - int8_time()) > DIGITS_FROM:
        logits, digit_error = digit_products(x, small.images, start, stop)
        logits.sub_(small.digit_constants[start:stop])
        independent, common = torch.zeros_like(variance), digit_error / variance
    else:
        logits = float32_products(x, v)
        independent = float32_error(x, logits, highest) / variance
        logits.sub_(small.constants[start:stop])
        common = torch.zeros_like(variance)
    logits.div_(variance[:, None])
    reference, nearest = logits.max(dim=1)
    weights = logits.sub_(reference[:, None]).to(torch.float32).exp_()
    total, weight_squares = weights.sum(dim=1, dtype=torch.float64), norm_squares(weights)
    mean_square = (weights @ squares) / total
    bound = (TAIL * (independent + ROUNDING + 2 * common * highest.sqrt())).exp()
    same = keys == keys[nearest][:, None]
    others = weights.masked_fill(same, 0).sum(dim=1, dtype=torch.float64) * bound / total

    weights.div_(total.to(torch.float32)[:, None])
    first, *left = zip(v.split(ROWS), weights.split(ROWS, dim=1), strict=True)
    means = first[1] @ first[0]
    for part, some in left:
        means.addmm_(some, part)
    length = norm_squares(means)
    # The mean square of ||y - D||, in float32, and a bound on it, since D is the point that makes it smallest.
    scattered = (mean_square - length).clamp(min=0) + 1e-6 * mean_square
    scattered = torch.minimum(scattered, others * 4 * highest)
    concentration = weight_squares / total.square()
    moved = (independent + ROUNDING) * (scattered * concentration).sqrt() + common * scattered
    moved = torch.where(bound < USELESS, moved, math.inf)
    moved = torch.minimum(moved, others * 2 * highest.sqrt())
    summed = ROUNDING * (min(ROWS, len(v)) * (length / 3 + concentration * mean_square / 6)).sqrt()
    means += small.center
    denoised.copy_(means)
    norms = torch.linalg.vector_norm(means, dim=1)
    error = torch.hypot(summed, moved) / norms + 2 * ROUNDING * (1 + small.center.norm() / norms)
    return others.log(), error


def float32_products(x: Tensor, v: Tensor) -> Tensor:
    """x·v for x float32 [B, P] and v float32 [N, P], in float64 [B, N] except within groups of pixels."""
    result = torch.zeros([len(x), len(v)], dtype=torch.float64, device=x.device)
    product = torch.empty([len(x), len(v)], device=x.device)
    for left, right in zip(x.split(PIXELS, dim=1), v.split(PIXELS, dim=1), strict=True):
        result += torch.mm(left, right.t(), out=product)
    return result


def float32_error(x: Tensor, products: Tensor, highest: Tensor) -> Tensor:
    """Expected root mean square error of `float32_products`, float64 [B]. highest: the largest ||v||²."""
    size = x.shape[1]
    width, largest = min(PIXELS, size), torch.linalg.vector_norm(products, ord=math.inf, dim=1)
    # Rounding x and v, and the partial sums; the mean of x_k² v_k² is about the product of the means.
    squares = width * largest.square() * width / (3 * size) + (width / 2 + 5) * norm_squares(x) * highest / size
    return ROUNDING * squares.sqrt()


def digit_products(x: Tensor, images: ImageRows, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """x·row / 127.5 for rows start … stop - 1 by exact products with three int8 digits of x float32 [B, P].

    Returns float64 [B, N], and the root mean square error of a number that was cut into digits, float64 [B].
    """
    step = torch.linalg.vector_norm(x, ord=math.inf, dim=1).clamp_(min=1e-30) / (127 * 65793 - 1)
    rest = (x / step[:, None]).add_(images.pixel_dither.to(torch.float32)).floor_().to(torch.int32)
    digits = torch.empty([3, *x.shape], dtype=torch.int8, device=x.device)
    for digit in digits.unbind():  # the least significant first
        digit.copy_(rest)  # keeps the low byte
        rest.sub_(digit).bitwise_right_shift_(8)
    low, middle, high = int8_matmul(digits.flatten(0, 1), images.block(start, stop).t()).unflatten(0, (3, -1))
    products = high.to(torch.float64).mul_(256).add_(middle).mul_(256).add_(low)
    products.add_(images.dither_products[start:stop])
    step = step.to(torch.float64)
    return products.mul_(step[:, None] / 127.5), DIGIT_ERROR * step


@functools.cache
def int8_time() -> float:
    """Time of the int8 products, three digits, relative to the float32 product of the same images; measured once."""
    values = torch.ones([64, 1024])
    digits, rows = torch.ones([192, 1024], dtype=torch.int8), torch.ones([1024, 1024], dtype=torch.int8)
    float_rows = rows.to(torch.float32)
    times = []
    for product in (lambda: int8_matmul(digits, rows.t()), lambda: values @ float_rows.t()):
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - start)
        times.append(min(seconds))
    return times[0] / times[1]


def norm_squares(rows: Tensor) -> Tensor:
    """Squared norms of rows [B, P], float64 [B]."""
    return torch.linalg.vector_norm(rows, dim=1).to(torch.float64).square()
