"""Tests of the text that describes evaluation records."""

from evaluation.printing import is_far, quality_text, summary

COUNTS = {'num_images': 200, 'ratio': 0.25, 'ratio_low': 0.195, 'ratio_high': 0.3143, 'mean_distance': 12.345}


def test_one_record_is_printed_as_a_sentence():
    expected = 'Memorization ratio: 25.00 % (95 % interval 19.50 to 31.43 %) of 200 images'
    assert summary([{'snapshot': 'a.safetensors', **COUNTS}]) == expected


def test_several_records_are_printed_as_a_table_with_a_second_table_of_metrics():
    first = {'curve': {'mean': 0.123456789, 'ratios': [0.0] * 100}, 'test': {'z': None, 'half': {'z': -12.0}}}
    records = [
        {'images': 'samples', **COUNTS, 'metrics_space': 'pixels', 'metrics': first},
        {'images': 'b.npy', **COUNTS, 'num_images': 7, 'metrics_space': 'pixels', 'metrics': {'curve': {'mean': 2.0}}},
    ]
    assert summary(records).splitlines() == [
        'images   count   copies     95 % interval  mean distance',
        'samples    200  25.00 %  19.50 to 31.43 %          12.35',
        'b.npy        7  25.00 %  19.50 to 31.43 %          12.35',
        'metrics in pixels   samples  b.npy  if memorized',
        'curve.mean         0.123457      2',
        'test.z                    -      -',
        'test.half.z             -12      -',
    ]


def test_only_huge_metrics_have_an_exponent():
    metrics = {'distance': {'near': 123456.7, 'far': 1234567.8}, 'kernel': {'value': 1.25e11}}
    text = summary([{'images': 'a', **COUNTS, 'metrics_space': 'pixels', 'metrics': metrics}])
    assert [line.split() for line in text.splitlines()[-3:]] == [
        ['distance.near', '123,457'],
        ['distance.far', '1,234,568'],
        ['kernel.value', '1.25e+11'],
    ]
    record = {'metrics': {'frechet': {'to_training': 123456.7, 'to_test': 1234567.8}}}
    assert quality_text(record) == 'Fréchet 123,457 training, 1,234,568 held-out  '


def test_copies_by_another_rule_and_copied_training_images_are_printed():
    share = {'num_images': 8, 'ratio': 0.5, 'ratio_low': 0.25, 'ratio_high': 0.75}
    copies = {'space': 'features', 'rule': 'cosine:0.6', **share, 'background': {**share, 'num_images': 9}}
    copied = {'num_images': 1, 'share': 0.05, 'classes': [{'class': 3, 'copies': 4}]}
    record = {'images': 'a', **COUNTS, 'copies': copies, 'copied': copied}
    background = 'background, 9 held-out images: 50.00 % (95 % interval 25.00 to 75.00 %)'
    assert summary([record]).splitlines()[1:] == [
        f'Copies in features, rule cosine:0.6: 50.00 % (95 % interval 25.00 to 75.00 %); {background}',
        'Copied: 1 training image, 5.00 % of the set; most copies: class 3 (4)',
    ]
    assert summary([record, record]).splitlines()[1:] == [
        *['a         200  25.00 %  19.50 to 31.43 %          12.35                       1'
          '             50.00 %  25.00 to 75.00 %'] * 2,
        f'Copies in features, rule cosine:0.6; {background}',
    ]  # fmt: skip


def test_a_note_warns_of_frechet_distances_for_different_numbers_of_images():
    def record(num_training):
        frechet = {'to_training': 3.0, 'num_generated': 10, 'num_training': num_training, 'num_test': None}
        return {'images': 'a', **COUNTS, 'metrics_space': 'features', 'metrics': {'frechet': frechet}}

    note = 'Note: Fréchet distances for different numbers of images cannot be compared.'
    assert summary([record(20), record(30)]).splitlines()[-1] == note
    assert note not in summary([record(20), record(20)])


def test_a_note_warns_of_too_few_images_for_a_covariance():
    def text(num_features):
        sizes = {'num_generated': 30, 'num_training': 20, 'num_test': None, 'num_features': num_features}
        metrics = {'frechet': {'to_training': 3.0, **sizes}}
        return summary([{'images': 'a', **COUNTS, 'metrics_space': 'features', 'metrics': metrics}] * 2)

    note = 'Note: 20 images are too few for the covariance of 20 features'
    assert text(20).count(note) == 1  # printed once for both image sets
    assert 'Note' not in text(19)


def test_images_far_from_any_data_are_flagged_if_they_are_more_than_a_fifth():
    few, many = COUNTS | {'num_images': 50, 'num_far': 10}, COUNTS | {'num_images': 50, 'num_far': 11}
    assert [is_far(record) for record in (COUNTS, few, many)] == [False, False, True]
    assert summary([{'snapshot': 'a', **many}]).endswith('12.35 (22 % of images far from any data)')


def test_noise_from_a_network_leads_to_advice_about_sigma_max():
    few, many = ({'snapshot': 'a', **COUNTS, 'num_images': 50, 'num_far': far, 'kimg': 60.0} for far in (10, 11))
    assert 'sigma_max' not in summary([few])
    assert summary([many]).endswith('where sampling starts.')


def test_old_records_are_flagged_by_their_mean_distance():
    # The limit is √2 times the reference distance; 12.345 / √2 = 8.729.
    near, far = COUNTS | {'reference_distance': 8.74}, COUNTS | {'reference_distance': 8.72}
    assert [is_far(record) for record in (near, far)] == [False, True]
    assert summary([{'snapshot': 'a', **far}]).endswith('12.35 (far from any data)')
