"""Splits numbers into int8 digits in base 256, so that int8 matrix products multiply them by 8-bit pixels exactly.

`split_signed` is for noisy images, and `split_weights` is for softmax weights. Both round with dither: before rounding
down, they add noise that is uniform in [0, 1), drawn once and independent of the data. For any input, the rounding
errors then have mean zero and are mutually independent, as the error estimate in `int8_sums` assumes; plain rounding
does not guarantee this.
Source of the dither: Schuchman 1964 (subtractive), Wannamaker et al. 2000 (non-subtractive).
"""

import torch
from torch import Tensor

# Root mean square rounding errors, in units of the last digit. Signed digits have subtractive dither, so their error is
# uniform over one unit. Weights are rounded up or down at random; their error is largest if up and down are equally
# likely.
SIGNED_ERROR = 12**-0.5
WEIGHT_ERROR = 0.5


def split_signed(values: Tensor, count: int, dither: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write each number as `count` signed digits, in units of a step size that is specific to the row.

    values: float64 [B, P]. count: number of digits, 1 to 4. dither: float64 [P] in [0, 1).
    Returns the digits (int8 [count · B, P], most significant first), the step sizes (float64 [B]) and the remainders
    `left` (float64 [B, P], uniform in ±step / 2). They satisfy
    values = step · (sum of digits · 256^k - dither + 1/2) + left.
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
    """Write weights in [0, 1] as digits, most significant first.

    weights: float32 [B, N], overwritten. dither: float32 [N] in [0, 1). digits: output tensors, one per digit,
    int8 [B, N].
    To within one unit of the last digit, a weight equals
    (sum of digits · 256^k + weight_offset(count)) / weight_scale(count), where count is the number of digits.
    """
    count = len(digits)
    scaled = torch.add(dither, weights, alpha=weight_scale(count), out=weights).to(torch.int32)
    scaled ^= 128 * _ones(count)  # flips the top bit of each byte, which maps 0…255 to -128…127
    for digit in digits[:0:-1]:
        digit.copy_(scaled)  # keeps the low byte
        scaled >>= 8
    digits[0].copy_(scaled)


def join(products: list[Tensor]) -> Tensor:
    """Combine the products of single digits (most significant first) into products of the complete numbers, float64."""
    total = products[0].to(torch.float64)
    for product in products[1:]:
        total = total * 256 + product
    return total


def weight_scale(count: int) -> int:
    """The weight 1 in units of the last digit: one less than the largest number, to leave room for the dither."""
    return 256**count - 2


def weight_offset(count: int) -> int:
    """The number to add to the value of the digits so that the weight 0 gives 0."""
    return 128 * _ones(count)


def _ones(count: int) -> int:
    """1 + 256 + 256² + …"""
    return (256**count - 1) // 255
