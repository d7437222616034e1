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
    ],
)
def test_evaluations_of_heun_are_two_for_each_step_but_the_last(options, expected):
    assert evaluations_per_image(SamplerOptions(**options)) == expected


def test_a_race_samples_a_quarter():
    options = EvaluationOptions(seeds=list(range(100)))
    cost = sampling_cost(options, 16, 192, 20, rate=10.0)
    assert (cost.images, cost.calls, cost.seconds) == (1600, 56000, 5600)
    assert cost.memory == 2 * 192 * 120
    raced = dataclasses.replace(options, race=True)
    assert [sampling_cost(raced, num, 192, 20, None).images for num in (1, 4, 16)] == [100, 200, 400]
