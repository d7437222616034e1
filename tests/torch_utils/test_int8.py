"""Products of int8 matrices, compared with products in int64."""

import pytest
import torch

from torch_utils import int8
from torch_utils.int8 import MAX_INNER, int8_matmul


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('inner', [1, 64, MAX_INNER, MAX_INNER + 1, 2 * MAX_INNER + 5])
def test_products_of_extreme_values_are_exact(inner: int, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exact:
        monkeypatch.setattr(int8, 'device_product_is_exact', lambda _: False)
    a = torch.tensor([[-128], [127], [3]], dtype=torch.int8).repeat(1, inner)
    b = torch.tensor([[-128, 127, 0]], dtype=torch.int8).repeat(inner, 1)
    assert torch.equal(int8_matmul(a, b).to(torch.int64), a.to(torch.int64) @ b.to(torch.int64))


@pytest.mark.parametrize('stored_by', ['rows', 'columns'])
@pytest.mark.parametrize('shape', [(1, 1, 1), (17, 64, 9), (40, 64, 904), (24, 8, 8)])
def test_factors_for_cuda_have_the_required_sizes_and_layout(shape, stored_by):
    rows, inner, columns = shape
    random = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, [rows, inner], dtype=torch.int8, generator=random)
    b = torch.randint(-128, 128, [inner, columns], dtype=torch.int8, generator=random)
    if stored_by == 'columns':
        b = b.t().contiguous().t()
    wide_a, wide_b = int8.for_cuda(a, b)
    assert wide_a.shape[0] > 16
    assert all(size % 8 == 0 for size in (*wide_a.shape, *wide_b.shape))
    assert wide_a.is_contiguous()
    assert wide_b.t().is_contiguous()
    product = (wide_a.long() @ wide_b.long())[:rows, :columns]
    assert torch.equal(product, a.long() @ b.long())
