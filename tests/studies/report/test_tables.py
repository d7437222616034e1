"""Columns of a study's tables."""

import pytest

from studies.report.tables import metric_means


def test_metric_values_that_all_repeats_have_are_averaged():
    first = {'metrics': {'precision_recall': {'precision': 0.5, 'recall': 1, 'curve': [1, 2]}, 'gap': {'value': None}}}
    second = {'metrics': {'precision_recall': {'precision': 0.25, 'recall': 0}, 'gap': {'value': 1.0}}}
    assert metric_means([first, second]) == {'precision_recall.precision': 0.375, 'precision_recall.recall': 0.5}
    assert metric_means([first]) == {'precision_recall.precision': 0.5, 'precision_recall.recall': 1}


@pytest.mark.parametrize('metrics', [{}, {'metrics': [1]}, {'metrics': {'a': {'b': 'text'}}}, {'metrics': {'a': None}}])
def test_records_without_usable_metrics_give_no_columns(metrics):
    assert metric_means([metrics]) == metric_means([{'metrics': {'a': {'b': 1}}}, metrics]) == {}
