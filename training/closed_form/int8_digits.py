"""Numbers as int8 digits in base 256, so that products with 8-bit pixels are exact int8 matrix products.

`split_signed` is for noisy images, `split_weights` for softmax weights. Both round with dither: noise that is uniform
in [0, 1), drawn once and independent of the data, is added before rounding down. Rounding errors then have mean zero
and are mutually independent for any input, as the error estimate in `int8_sums` assumes; plain rounding does not
guarantee this.
Source of the dither: Schuchman 1964 (subtractive), Wannamaker et al. 2000 (non-subtractive).
"""

import torch
from torch import Tensor

# Root mean square rounding errors in units of the last digit. With subtractive dither, the error is uniform over one
# unit; otherwise it is at most the error of rounding up or down by a fair coin.
SIGNED_ERROR = 12**-0.5
WEIGHT_ERROR = 0.5


def split_signed(values: Tensor, count: int, dither: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write each row as `count` signed digits, in units of a step that is specific to the row.

    values: float64 [B, P]. count: 1 to 4. dither: float64 [P] in [0, 1).
    Returns the digits, int8 [count · B, P], most significant first; the step, float64 [B]; and the remainder `left`,
    float64 [B, P], uniform in ±step / 2: values = step · (digits · 256^k - dither + 1/2) + left.
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

    weights: float32 [B, N], overwritten. dither: float32 [N] in [0, 1). digits: output tensors, int8 [B, N], one per
    digit.
    With count digits, the weights equal (digits · 256^k + weight_offset(count)) / weight_scale(count) to within one
    unit.
    """
    count = len(digits)
    scaled = torch.add(dither, weights, alpha=weight_scale(count), out=weights).to(torch.int32)
    scaled ^= 128 * _ones(count)  # flips the top bit of each byte: unsigned 0…255 to signed -128…127
    for digit in digits[:0:-1]:
        digit.copy_(scaled)  # keeps the low byte
        scaled >>= 8
    digits[0].copy_(scaled)


def join(products: list[Tensor]) -> Tensor:
    """Combine the products with each digit, most significant first, into float64 products with the complete number."""
    total = products[0].to(torch.float64)
    for product in products[1:]:
        total = total * 256 + product
    return total


def weight_scale(count: int) -> int:
    """The weight 1 in units of the last digit; one unit below the largest value, to leave room for the dither."""
    return 256**count - 2


def weight_offset(count: int) -> int:
    """The number to add to the digits' value so that the weight 0 gives 0."""
    return 128 * _ones(count)


def _ones(count: int) -> int:
    """1 + 256 + 256² + …"""
    return (256**count - 1) // 255
