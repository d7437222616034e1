"""Estimated costs of evaluations, compared with counts made by hand."""

import dataclasses

import pytest

from evaluation.evaluation_cost import evaluations_per_image, sampling_cost
from evaluation.evaluation_options import EvaluationOptions
from training.sampler_options import SamplerOptions


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, 35),
        ({'num_steps': 2}, 3),
        ({'solver': 'euler'}, 18),
        ({'S_churn': 40.0}, 35),
        ({'discretization': 've'}, 35),
        ({'sigma_min': 100.0, 'sigma_max': 200.0}, 35),
    ],
)
def test_heun_evaluates_the_denoiser_twice_in_every_step_except_the_last(options, expected):
    assert evaluations_per_image(SamplerOptions(**options)) == expected


def test_a_race_is_estimated_to_sample_a_quarter_of_the_images():
    options = EvaluationOptions(seeds=list(range(100)))
    cost = sampling_cost(options, 16, 192, 20, rate=10.0)
    assert (cost.images, cost.calls, cost.seconds) == (1600, 56000, 5600)
    assert cost.memory == 2 * 192 * 120
    raced = dataclasses.replace(options, race=True)
    assert [sampling_cost(raced, num, 192, 20, None).images for num in (1, 4, 16)] == [100, 200, 400]
