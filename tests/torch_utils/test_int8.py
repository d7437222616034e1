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
