"""Comparison of two runs of the same study."""

import copy
import json

import pytest
from click.testing import CliRunner

import emm
from dnnlib.util import code_sha256, write_json
from evaluation.records import Numbers
from studies.points import DONE, Status, make_point, write_status
from studies.report.tables import write_tables
from studies.results import collect
from studies.study_file import read_study

DOCUMENT = {
    'data': {'selection': 'size', 'source': 'digits'},
    'train': {'preset': 'digits'},
    'evaluate': {'seeds': '0-999'},
    'sizes': {'values': [10, 20]},
    'factors': {'width': {'option': 'train.num-channels', 'values': [8, 16]}},
}


@pytest.fixture
def folder(tmp_path):
    """Folder of a study of two widths, each with ratios of 95 % at 10 and 85 % at 20 images, so that its EMM is 15."""
    return study_folder(tmp_path / 'study', [(950, 850), (950, 850)])


def study_folder(root, copies_by_width):
    """Folder of a study of two widths; copies_by_width: for each width, the copies among 1000 images at both sizes."""
    study = read_study(DOCUMENT, 'study', 'study.toml')
    for combination, counts in zip(study.combinations, copies_by_width, strict=True):
        for size, copies in zip((10, 20), counts, strict=True):
            point = make_point(study, root, combination, size, 0)
            point.folder.mkdir(parents=True)
            numbers = dict.fromkeys(Numbers.__struct_fields__, 1)
            record = numbers | {'num_memorized': copies, 'num_images': 1000, 'ratio': copies / 1000}
            origin = {'dataset_sha256': f'{size:064d}', 'versions': {'code_sha256': code_sha256()}}
            write_json(point.folder / 'point.json', point.identity)
            write_json(point.folder / 'result.json', record | origin)
            write_status(point.folder, Status(DONE))
    write_json(root / 'study.json', {'name': 'study', 'document': DOCUMENT, 'steps': {}})
    write_tables(collect(study, root))
    return root


def compare(folder, saved):
    path = folder.parent / 'saved.json'
    path.write_text(json.dumps(saved))
    return CliRunner().invoke(emm.main, ['compare', str(folder), str(path)])


def test_a_study_agrees_with_its_own_tables(folder):
    output = compare(folder, json.loads((folder / 'tables.json').read_bytes())).output
    assert 'Study file: the same; training sets: the same; code and versions: the same.' in output
    assert output.count('agrees') == 4 + 2  # four ratios and two EMMs
    assert '6 of 6 numbers agree' in output


def test_tables_without_hashes_are_compared_too(folder):
    saved = json.loads((folder / 'tables.json').read_bytes())
    del saved['study_sha256'], saved['versions']
    for row in saved['ratios']:
        del row['dataset_sha256']
    output = compare(folder, saved).output
    assert output.count('not recorded there') == 3
    assert '6 of 6 numbers agree' in output


def test_numbers_are_compared_by_their_intervals(folder):
    saved = json.loads((folder / 'tables.json').read_bytes())
    higher, lower, above, below = saved['ratios']
    # Wilson's intervals at 1,000 images are [93.5, 96.2] and [82.7, 87.1].
    higher.update(ratio=0.5, ratio_low=0.4, ratio_high=0.93)
    lower.update(ratio=0.9, ratio_low=0.88, ratio_high=0.92)
    above.update(ratio=0.97, ratio_low=0.96, ratio_high=0.98)
    below.update(ratio=0.82, ratio_low=0.81, ratio_high=0.83)
    saved['ratios'].append({**below, 'size': 40})
    saved['emm'][0].update(emm=5, emm_relation='<', low=5, low_relation='<', high=5, high_relation='<')
    saved['emm'].pop()
    saved['study_sha256'] = 'other'
    output = compare(folder, saved).output
    assert 'Study file: different' in output
    rows = {tuple(words[:2]): words for words in map(str.split, output.splitlines()) if words[:1] in (['8'], ['16'])}
    assert rows['8', '10'][-1] == 'higher'
    assert rows['8', '20'][-1] == 'lower'
    assert rows['16', '10'][-1] == 'agrees'
    assert rows['16', '20'][-1] == 'agrees'
    assert rows['16', '40'][-2:] == ['only', 'there']
    assert rows['8', '15'][-1] == 'higher'
    assert rows['16', '15'][-2:] == ['only', 'here']
    assert '2 of 5 numbers agree' in output


def test_two_bounds_in_the_same_direction_are_not_counted_as_agreement(tmp_path):
    folder = study_folder(tmp_path / 'study', [(500, 300), (990, 980)])
    saved = json.loads((folder / 'tables.json').read_bytes())
    assert [row['emm_relation'] for row in saved['emm']] == ['<', '≥']
    output = compare(folder, saved).output
    assert output.count('only bounds') == 2
    assert '4 of 4 numbers agree' in output
    for row, relation, size in zip(saved['emm'], ('≥', '<'), (40, 5), strict=True):
        row.update(dict.fromkeys(('emm', 'low', 'high'), size))
        row.update(dict.fromkeys(('emm_relation', 'low_relation', 'high_relation'), relation))
    output = compare(folder, saved).output
    assert output.count('lower') == output.count('higher') == 1
    assert '4 of 6 numbers agree' in output


def test_emms_at_different_thresholds_are_not_compared(folder):
    saved = json.loads((folder / 'tables.json').read_bytes())
    saved['threshold'] = 0.1
    output = compare(folder, saved).output
    assert 'The EMMs are not comparable: the threshold is 0.9 here and 0.1 there.' in output
    assert output.count('not compared') == 2
    assert '4 of 4 numbers agree' in output


def test_a_missing_file_is_reported_as_missing(folder):
    result = CliRunner().invoke(emm.main, ['compare', str(folder), 'nosuch.json'])
    assert result.exit_code == 1
    assert 'nosuch.json: no such file' in result.output


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda saved: saved.pop('emm'), 'is not a tables.json'),
        (lambda saved: saved['ratios'][0].pop('ratio_low'), 'is not a tables.json'),
        (lambda saved: [row.pop('width') for row in saved['ratios']], 'has the factors none, but'),
        (
            lambda saved: saved.update(ratios=[{**saved['ratios'][0], 'size': 7}], emm=[]),
            'have no factor value and size',
        ),
    ],
)
def test_a_file_that_cannot_be_compared_is_refused(folder, change, message):
    saved = copy.deepcopy(json.loads((folder / 'tables.json').read_bytes()))
    change(saved)
    result = compare(folder, saved)
    assert result.exit_code == 1
    assert message in result.output
