import csv

import pytest

from tests.helpers import DATA
from training.schedule import Schedule, evenly, every, logarithmically, rampup_kimg, scaled_kimg


def schedule(**given):
    values = {
        'dataset_size': 1000, 'batch_size': 512, 'total_images': 40_000_000, 'rampup_images': 200_000,
        'ema_mode': 'mode2', 'ema_halflife_images': 10_000, 'final_ema': 0.99929,
    }  # fmt: skip
    return Schedule(**{**values, **given})


def test_lengths_learning_rates_and_averages_match_the_paper():
    with open(DATA / 'schedules.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        size = int(row['dataset_size'])
        total_kimg = max(1, scaled_kimg(float(row['duration']), size))
        assert (total_kimg, rampup_kimg(size)) == (int(row['total_kimg']), int(row['lr_rampup_kimg']))
        resolved = schedule(
            dataset_size=size,
            batch_size=int(row['batch']),
            rampup_images=rampup_kimg(size) * 1000,
            ema_mode=row['ema_mode'],
            ema_halflife_images=scaled_kimg(float(row['ema']), size) * 1000,
            final_ema=float(row['final_ema']),
        )
        images = int(row['cur_nimg'])
        assert resolved.lr_multiplier(images) == pytest.approx(float(row['lr_multiplier']), rel=1e-12)
        assert resolved.ema_beta(images) == pytest.approx(float(row['ema_beta']), rel=1e-12, abs=1e-300)


def test_below_100_images_the_default_half_life_is_0():
    assert scaled_kimg(0.5, 99) == 0
    assert schedule(dataset_size=99, ema_halflife_images=0).ema_beta(10**6) == 0


def test_transfer_removes_the_limit_on_the_half_life():
    assert schedule(ema_rampup_ratio=None).ema_beta(512) == schedule().ema_beta(10**7)


def test_in_mode4_final_ema_is_used_after_warm_up():
    assert schedule(ema_mode='mode4', final_ema=0.5, batch_size=128).ema_beta(10**7) == pytest.approx(0.5)


def test_image_counts_are_rounded_up_to_whole_steps():
    assert every(2500, 6000, batch_size=1000) == [3000, 5000, 6000]
    assert evenly(3, 10_000, batch_size=512) == [3584, 7168, 10240]


def test_two_snapshots_with_the_same_name_are_refused():
    with pytest.raises(ValueError, match='2 and 3 would both be at 1 kimg'):
        evenly(4, 2000, batch_size=10)
    with pytest.raises(ValueError, match=r'1 and 2 would both be at 0\.512 kimg'):
        evenly(2, 100, batch_size=512)


@pytest.mark.parametrize(
    'places',
    [
        lambda: evenly(10**9, 1000, 64),
        lambda: logarithmically(10**9, 10**6, 64),
        lambda: every(1000, 10**12, 64),
        lambda: every(1, 10**30, 64),
    ],
)
def test_schedules_with_too_many_times_are_refused(places):
    with pytest.raises(ValueError, match='the limit is 100,000'):
        places()


def test_snapshots_of_short_training_runs_have_distinct_names():
    assert evenly(3, 400, batch_size=32) == [160, 288, 416]


def test_steps_epochs_and_warm_up_are_rounded_as_documented():
    short = schedule(total_images=1500, rampup_images=0)
    assert (short.total_steps, short.epochs, short.lr_multiplier(0)) == (3, 1.5, 1.0)
    assert rampup_kimg(99) == 19  # 19,800 images


def test_logarithmic_image_counts_have_a_constant_ratio():
    assert logarithmically(4, 1_000_000, batch_size=1) == [1000, 10_000, 100_000, 1_000_000]
    assert logarithmically(3, 100_000, batch_size=512) == [1024, 10240, 100352]
    assert logarithmically(1, 5000, batch_size=10) == [5000]


def test_logarithmic_image_counts_with_equal_snapshot_names_are_left_out():
    places = logarithmically(50, 20_000, batch_size=100)
    assert len({place // 1000 for place in places}) == len(places) < 50
    assert 1000 <= places[0] < 2000
    assert places[-1] == 20_000
    assert logarithmically(5, 700, batch_size=50) == [700]
    assert logarithmically(1000, 20_500, batch_size=100)[-1] == 20_500
