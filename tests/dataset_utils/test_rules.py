"""A function registered with `rules.rule` becomes a subcommand, a rule in manifests, and a selection for studies."""

import numpy as np
import pytest

from dataset_utils import open_source, rules
from dataset_utils.building import Plan
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
