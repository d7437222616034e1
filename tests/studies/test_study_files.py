"""Tests of the study files in scripts/studies."""

from pathlib import Path

import pytest

from studies.points import make_point
from studies.study_file import load_study
from studies.validation import Validator
from tests.helpers import ROOT

STUDIES = ROOT / 'scripts' / 'studies'
FILES = sorted(STUDIES.rglob('*.toml'))
# Factors of the paper's four families, each with its own study file.
FACTORS = {
    *('size', 'dimension', 'num_classes', 'intra_diversity'),
    *('width', 'depth', 'time_embedding', 'skip_connections'),
    *('batch_size', 'weight_decay', 'ema', 'length'),
    'conditioning',
}


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(STUDIES)))
def test_study_files_use_only_options_of_the_scripts(path):
    study = load_study(path)
    Validator().check_options(study)
    assert study.description


@pytest.mark.parametrize('path', sorted((STUDIES / 'pocket').glob('*.toml')), ids=lambda path: path.stem)
def test_sizes_of_a_pocket_study_can_be_selected_from_the_digits(path):
    study = load_study(path)
    if study.sources:
        pytest.skip('the study uses its own sources')
    Validator().with_steps(study, Path('nowhere'))


@pytest.mark.parametrize('folder', [STUDIES, STUDIES / 'pocket'], ids=['paper', 'pocket'])
def test_every_factor_of_the_paper_has_a_study_file(folder):
    assert {path.stem for path in folder.glob('*.toml')} >= FACTORS


def test_study_files_have_the_values_of_the_papers_table():
    width = load_study(STUDIES / 'width.toml')
    assert [combination.values['width'] for combination in width.combinations] == ['128', '192', '256', '320']
    batches = load_study(STUDIES / 'batch_size.toml').combinations
    assert [(v.settings.train['batch'], v.settings.train['lr']) for v in batches] == [
        (128, 0.5e-4), (256, 1e-4), (384, 1.5e-4), (512, 2e-4), (640, 2.5e-4), (768, 3e-4), (896, 3.5e-4),
    ]  # fmt: skip
    skips = load_study(STUDIES / 'skip_connections.toml').combinations
    masks = [combination.settings.train['skip-connections'] for combination in skips]
    assert [sum(mask) for mask in masks] == [9] + [3, 2] * 3 + [1] * 9
    assert sorted(mask.index(1) for mask in masks if sum(mask) == 1) == list(range(9))


def test_a_point_of_the_size_study_has_the_commands_of_the_papers_basic_run():
    study = load_study(STUDIES / 'size.toml')
    commands = make_point(study, Path('out'), study.combinations[0], 1000, 0).commands()
    assert commands['data'][2:4] == ['size', '--source=datasets/cifar10/cifar-10-python.tar.gz']
    assert '--preset=paper' in commands['train']
    assert '--seed=1024' in commands['train']
    assert commands['evaluate'][-2:] == ['--seeds=0-9999', '--batch=512']
