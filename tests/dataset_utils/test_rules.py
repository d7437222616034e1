"""A function registered with `rules.rule` becomes a subcommand, a rule in manifests, and a selection for studies."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from dataset_utils import open_source, rules
from dataset_utils.archive import Destination
from dataset_utils.building import Plan, write_datasets
from dataset_utils.command_line import main
from dataset_utils.sources import Source
from studies.validation import Validator
from tests.dataset_utils.commands import make, refused
from tests.helpers import invoke


@pytest.fixture
def last():
    @rules.rule('last', 'The last ten digits: --source=digits --dest=ten.zip --max-images=10')
    def plan_last(source: Source, *, max_images: int, seed: int = 3) -> Plan:
        """Take the last `max_images` images."""
        if max_images > len(source):
            raise rules.UserError(f'`max_images`={max_images} is too many')
        indices = list(range(len(source) - max_images, len(source)))
        return rules.subset(source, indices)

    yield plan_last
    del rules.RULES['last'], rules.EXAMPLES['last']


def test_a_registered_selection_is_a_subcommand(last, tmp_path):
    images, labels, manifest = make('last', 'digits', tmp_path / 'd.zip', '--max-images=10')
    assert np.array_equal(images, open_source('digits').load()[-10:])
    assert labels == open_source('digits').labels[-10:]
    assert manifest['rule'] == 'last'
    assert manifest['arguments'] == {'max_images': 10, 'seed': 3}
    assert 'Verified' in invoke(main, 'info', tmp_path / 'd.zip', '--verify=digits').stdout
    assert '--max-images=2000 is too many' in refused('last', 'digits', tmp_path / 'e.zip', '--max-images=2000')


def test_a_registered_selection_has_a_help(last):
    assert 'last ' in invoke(main, '--help').stdout
    text = invoke(main, 'last', '--help').stdout
    assert 'Take the last --max-images images.' in text
    assert '# The last ten digits\n  python -m dataset_utils last --source=digits --dest=ten.zip' in text
    assert 'default: 3' in text


def test_a_study_may_use_a_registered_selection(last, tmp_path):
    from studies.study_file import read_study

    validator = Validator()
    document = {'data': {'selection': 'last', 'source': 'digits'}, 'sizes': {'values': [10]}}
    assert validator.with_steps(read_study(document, 's', 's'), tmp_path).name == 's'


def test_a_registered_selection_can_use_numpys_integers(monkeypatch, tmp_path):
    monkeypatch.setattr(rules, 'RULES', rules.RULES.copy())
    monkeypatch.setattr(rules, 'EXAMPLES', rules.EXAMPLES.copy())

    @rules.rule('dark', 'The darkest digits')
    def plan_dark(source: Source, *, max_images: int) -> Plan:
        """Take the darkest images, and subtract their labels from 9."""
        chosen = source.load().reshape(len(source), -1).sum(axis=1).argsort(kind='stable')[:max_images]
        plan = rules.subset(source, chosen)
        labels: Any = 9 - np.array(plan.labels)
        return dataclasses.replace(plan, rule='dark', labels=labels)

    source = open_source('digits')
    order = source.load().sum(axis=(1, 2, 3)).argsort(kind='stable')[:5].tolist()
    dest = tmp_path / 'd.zip'
    write_datasets(
        (dataclasses.replace(plan_dark(source, max_images=5), rule='dark'), Destination(str(dest), overwrite=False))
    )
    assert open_source(dest).labels == [9 - source.labels[index] for index in order]
    assert open_source(dest).manifest.indices == order
