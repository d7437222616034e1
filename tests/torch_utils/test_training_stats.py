import math

import pytest
import torch

from torch_utils.training_stats import Collector


def test_moments_include_all_values_since_the_last_collection():
    collector = Collector()
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    for part in values:
        collector.report('Loss/loss', part.float())
    moments = collector.collect()['Loss/loss']
    assert moments.num == 150
    assert moments.mean == pytest.approx(float(values.mean()), rel=1e-6)
    assert moments.std == pytest.approx(float(values.std(correction=0)), rel=1e-5)
    assert collector.collect() == {}


def test_a_value_that_is_not_finite_makes_the_mean_non_finite():
    collector = Collector()
    collector.report('x', torch.tensor([1.0, math.nan]))
    assert math.isnan(collector.collect()['x'].mean)
