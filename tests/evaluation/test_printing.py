"""Records as text."""

from evaluation.printing import summary

COUNTS = {'num_images': 200, 'ratio': 0.25, 'ratio_low': 0.195, 'ratio_high': 0.3143, 'mean_distance': 12.345}


def test_one_record_is_a_sentence():
    expected = 'Memorization ratio: 25.00 % (95 % interval 19.50 to 31.43 %) of 200 images'
    assert summary([{'snapshot': 'a.safetensors', **COUNTS}]) == expected


def test_several_records_are_a_table_and_their_metrics_another_without_lists():
    first = {'curve': {'mean': 0.123456789, 'ratios': [0.0] * 100}, 'test': {'z': None, 'half': {'z': -12.0}}}
    records = [
        {'images': 'samples', **COUNTS, 'metrics_space': 'pixels', 'metrics': first},
        {'images': 'b.npy', **COUNTS, 'num_images': 7, 'metrics_space': 'pixels', 'metrics': {'curve': {'mean': 2.0}}},
    ]
    assert summary(records).splitlines() == [
        'images   count   copies     95 % interval  mean distance',
        'samples    200  25.00 %  19.50 to 31.43 %          12.35',
        'b.npy        7  25.00 %  19.50 to 31.43 %          12.35',
        'metrics in pixels   samples  b.npy',
        'curve.mean         0.123457      2',
        'test.z                    -      -',
        'test.half.z             -12      -',
    ]
