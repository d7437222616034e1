"""Numbers as int8 digits in base 256, so that products with 8-bit pixels are exact products of int8 matrices.

`split_signed` is for noisy images, `split_weights` for softmax weights. Both round with a dither: noise uniform in
[0, 1), drawn once and independent of the data, is added before rounding down. Rounding errors are then independent of
one another with mean zero for any values, as the error estimate of `int8_sums` assumes; plain rounding does not
guarantee this.
Source of the dither: Schuchman 1964 (subtractive), Wannamaker et al. 2000 (non-subtractive).
"""

import torch
from torch import Tensor

# Root mean square rounding errors in units of the last digit. With subtracted dither, the error is uniform over a unit;
# otherwise it is at most the error of choosing between two units by a fair coin.
SIGNED_ERROR = 12**-0.5
WEIGHT_ERROR = 0.5


def split_signed(values: Tensor, count: int, dither: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write each row as `count` signed digits times the row's own step.

    values: float64 [B, P]. count: 1 to 4. dither: float64 [P] in [0, 1).
    Returns digits int8 [count · B, P], the most significant first; the step float64 [B]; and the remainder, float64
    [B, P], uniform within step / 2: values = step · (digits · 256^k - dither + 1/2) + left.
    """
    step = values.abs().amax(dim=1).clamp(min=1e-300) / (127 * _ones(count) - 1)
    whole = (values / step[:, None] + dither).floor_()
    left = values - (whole - dither + 0.5) * step[:, None]
    rest = whole.to(torch.int32)
    digits = []
    for _ in range(count):
        digit = rest.to(torch.int8)  # the low byte as a signed number
        digits.append(digit)
        rest = (rest - digit) >> 8
    return torch.cat(digits[::-1]), step, left


def split_weights(weights: Tensor, dither: Tensor, digits: list[Tensor]) -> None:
    """Write weights in [0, 1] as digits, one tensor for each, the most significant first.

    weights: float32 [B, N], overwritten. dither: float32 [N] in [0, 1). digits: int8 [B, N] each, filled.
    The weights are (digits · 256^k + weight_offset(count)) / weight_scale(count), up to one unit.
    """
    count = len(digits)
    scaled = torch.add(dither, weights, alpha=weight_scale(count), out=weights).to(torch.int32)
    scaled ^= 128 * _ones(count)  # flips the top bit of each byte: unsigned 0…255 to signed -128…127
    for digit in digits[:0:-1]:
        digit.copy_(scaled)  # keeps the low byte
        scaled >>= 8
    digits[0].copy_(scaled)


def join(products: list[Tensor]) -> Tensor:
    """Combine products with each digit, the most significant first, into products with the number: float64."""
    total = products[0].to(torch.float64)
    for product in products[1:]:
        total = total * 256 + product
    return total


def weight_scale(count: int) -> int:
    """The weight 1 in units of the last digit; one unit less than the digits hold leaves room for the dither."""
    return 256**count - 2


def weight_offset(count: int) -> int:
    """The negated value of the digits of the weight 0."""
    return 128 * _ones(count)


def _ones(count: int) -> int:
    """1 + 256 + 256² + …"""
    return (256**count - 1) // 255
