"""The sentence that states a study's main finding, on its page and at the end of its output."""

import pytest

from dnnlib.util import write_json
from studies.report.finding import finding
from studies.results import collect
from tests.studies.stand_in import make_study, record_of, run

RATES = {'rate': {'label': 'Learning rate', 'option': 'train.lr', 'values': [0.001, 0.004]}}


def study_of(root, sizes, ratios):
    """Results of a study of two learning rates. ratios: for each learning rate, a list of ratios, one for each size."""
    _, results = run(make_study(sizes={'values': sizes}, factors=RATES), root, lambda size: 0.0)
    for outcome, own in zip(results.outcomes, ratios, strict=True):
        for result, ratio in zip(outcome.points, own, strict=True):
            write_json(result.point.folder / 'result.json', record_of(ratio))
    return collect(results.study, root)


@pytest.mark.parametrize(
    ('ratios', 'text'),
    [
        # Wilson's intervals at 1,000 images: 0.297 in [0.270, 0.326], 0.31 in [0.282, 0.339], 0.4 in [0.370, 0.431].
        ((0.297, 0.297), 'is 29.7 % for every combination.'),
        (
            (0.31, 0.297),
            'from 29.7 % for Learning rate 0.004 to 31.0 % for Learning rate 0.001, but all 95 % intervals overlap.',
        ),
        ((0.297, 0.4), 'ranges from 29.7 % for Learning rate 0.001 to 40.0 % for Learning rate 0.004.'),
    ],
)
def test_ratios_with_overlapping_intervals_are_not_called_different(tmp_path, ratios, text):
    sentence = finding(study_of(tmp_path, [5], [[ratio] for ratio in ratios]))
    assert sentence.startswith('With 5 training images, the share of copies')
    assert text in sentence


@pytest.mark.parametrize(
    ('ratios', 'text'),
    [
        # Both EMMs are 30, halfway between 95 % at 20 and 85 % at 40 images.
        (([1, 0.95, 0.85], [1, 0.95, 0.85]), 'The EMM is 30 training images for every combination.'),
        # The second EMM is 29, because its ratio at 40 images is 84 % instead of 85 %.
        (
            ([1, 0.95, 0.85], [1, 0.95, 0.84]),
            '29 training images for Learning rate 0.004 to 30 for Learning rate 0.001, but all 95 % intervals overlap.',
        ),
        # Both EMMs are 'at least 40'.
        (([1, 1, 1], [1, 1, 1]), 'The EMM is ≥ 40 training images for every combination.'),
        (([1, 0.5, 0], [1, 1, 1]), 'for Learning rate 0.001 to ≥ 40 for Learning rate 0.004.'),
    ],
)
def test_emms_with_overlapping_intervals_are_not_called_different(tmp_path, ratios, text):
    assert text in finding(study_of(tmp_path, [10, 20, 40], ratios))


def test_a_finding_names_what_it_covers_if_other_combinations_have_no_result(tmp_path):
    results = study_of(tmp_path, [10, 20], [[1, 0.5], [1, 0.5]])
    for result in results.outcomes[0].points:
        (result.point.folder / 'result.json').unlink()
    assert finding(collect(results.study, tmp_path)).endswith('So far, this covers only Learning rate 0.004.')
    values = {'rate': {**RATES['rate'], 'values': [0.001, 0.002, 0.004]}}
    study = make_study(sizes={'values': [10, 20]}, factors=values)
    run(make_study(sizes={'values': [10, 20]}, factors=RATES), tmp_path, lambda size: 0.5)
    assert finding(collect(study, tmp_path)).endswith('So far, this covers only 2 of 3 combinations.')


def test_a_study_whose_images_are_all_far_from_any_data_has_no_finding(tmp_path):
    _, results = run(make_study(sizes={'values': [10, 20]}), tmp_path, lambda size: 0.0)
    far = record_of(0.0) | {'mean_distance': 90.0, 'num_far': 501}
    folders = [result.point.folder for result in results.points]
    write_json(folders[0] / 'result.json', far)
    assert finding(collect(results.study, tmp_path)).startswith('No measured training set is memorized')
    write_json(folders[1] / 'result.json', far)
    assert finding(collect(results.study, tmp_path)) == (
        'No finding yet: the generated images are noise, or far from any data; train longer.'
    )
