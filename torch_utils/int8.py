"""Exact int8 matrix products, using the device's int8 instructions if they are exact.

Some processors saturate inside their int8 instructions (AVX2 without VNNI adds pairs of products in 16 bits), so a
device's int8 instructions are used only if they multiply the extreme values correctly.
"""

import functools

import torch
from torch import Tensor

# Largest number of int8 products (at most 2^14 each) whose sum fits in int32.
MAX_INNER = (2**31 - 1) // 2**14
# Largest number of such products whose sum is exact in float32.
_EXACT_IN_FLOAT32 = 2**24 // 2**14


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply int8 matrices [M, K] and [K, N] exactly. Returns [M, N] in int32, or in int64 if K > `MAX_INNER`."""
    if a.shape[1] > MAX_INNER:
        parts = zip(a.split(MAX_INNER, dim=1), b.split(MAX_INNER, dim=0), strict=True)
        return torch.stack([int8_matmul(*part).to(torch.int64) for part in parts]).sum(dim=0)
    # For K = 1, torch's CPU product reads past the end of both matrices.
    if a.shape[1] > 1 and device_product_is_exact(a.device.type):
        return _device_product(a, b)
    total = torch.zeros([a.shape[0], b.shape[1]], dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], _EXACT_IN_FLOAT32):
        part = slice(start, start + _EXACT_IN_FLOAT32)
        total += (a[:, part].to(torch.float32) @ b[part].to(torch.float32)).to(torch.int32)
    return total


@functools.cache
def device_product_is_exact(device_type: str) -> bool:
    """Test once, on extreme values, whether the device's int8 product is exact."""
    a = torch.tensor([[-128, 127], [127, 127], [-128, -128]], dtype=torch.int8).repeat(16, 64)
    b = torch.tensor([[-128, 127], [-128, 127]], dtype=torch.int8).repeat(64, 16)
    try:
        product = _device_product(a.to(device_type), b.to(device_type))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool(torch.equal(product.cpu().to(torch.float64), a.to(torch.float64) @ b.to(torch.float64)))


def _device_product(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type != 'cuda':
        return torch._int_mm(a, b)
    return torch._int_mm(*for_cuda(a, b))[: a.shape[0], : b.shape[1]]


def for_cuda(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pad and lay out the factors of a product as CUDA requires.

    The first factor needs more than 16 rows, and the other dimensions must be multiples of 8. The second factor must be
    stored column by column; otherwise, some shapes, such as [40, 64] x [64, 904], have no kernels.
    """
    rows, inner, columns = max(24 - a.shape[0], -a.shape[0] % 8), -a.shape[1] % 8, -b.shape[1] % 8
    return padded(a, rows, inner), padded(b.t(), columns, inner).t()


def padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Append rows and columns of zeros; the result is contiguous."""
    return torch.nn.functional.pad(matrix, [0, columns, 0, rows]) if rows or columns else matrix.contiguous()
