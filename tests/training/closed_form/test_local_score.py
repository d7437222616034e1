"""The local score denoisers, compared with their definitions."""

import itertools
import json

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.training.closed_form import brute_force
from tests.training.closed_form.brute_force import check, mixed_images, queries, relative_error
from tests.training.closed_form.ranks import on_ranks
from training.closed_form import (
    EquivariantLocalScoreDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    make_denoiser,
    streamed,
)

SIGMAS = [0.002, 0.05, 0.3, 1.0, 5.0, 80.0]
PRECISIONS = ['fp32', 'fp64']


@pytest.mark.parametrize('sigma', SIGMAS)
@pytest.mark.parametrize(
    ('count', 'channels', 'size', 'window'),
    [(50, 3, 4, 3), *((12, 1, 8, window) for window in (1, 3, 5, 7)), (9, 1, 7, 7), (1, 3, 4, 3), (2, 3, 5, 5)],
)
def test_each_pixel_is_a_posterior_mean_over_the_windows_at_its_position(count, channels, size, window, sigma):
    images = mixed_images(count, channels, size)
    x = queries(images, sigma)
    expected = brute_force.local_score(images, x, sigma, window)
    for precision in PRECISIONS:
        check(LocalScoreDenoiser(images, window=window, precision=precision), x, sigma, expected)


@pytest.mark.parametrize('padding', ['circular', 'zeros'])
@pytest.mark.parametrize('sigma', [0.002, 0.3, 1.0, 80.0])
@pytest.mark.parametrize(
    ('count', 'channels', 'size', 'window'),
    [(12, 1, 4, 3), (5, 3, 6, 3), (4, 1, 6, 5), (4, 1, 8, 3), (3, 1, 7, 7), (1, 3, 5, 3), (2, 1, 5, 1)],
)
def test_each_equivariant_pixel_is_a_posterior_mean_over_windows_everywhere(
    count, channels, size, window, sigma, padding
):
    images = mixed_images(count, channels, size)
    x = queries(images, sigma)
    expected = brute_force.equivariant(images, x, sigma, window, padding)
    for precision in PRECISIONS:
        check(
            EquivariantLocalScoreDenoiser(images, window=window, padding=padding, precision=precision),
            x,
            sigma,
            expected,
        )


@pytest.mark.parametrize('padding', ['circular', 'zeros'])
@pytest.mark.parametrize('size', range(1, 7))
def test_the_equivariant_form_is_exact_for_every_window_size(size, padding):
    images = mixed_images(3, 1, size)
    for window, sigma in itertools.product(range(1, size + 1, 2), (0.05, 1.0)):
        x = queries(images, sigma)
        expected = brute_force.equivariant(images, x, sigma, window, padding)
        check(EquivariantLocalScoreDenoiser(images, window=window, padding=padding), x, sigma, expected)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('distance', [1e2, 1e3, 1e4])
def test_the_result_is_exact_for_queries_far_from_the_data(distance, precision):
    images, random = mixed_images(20, 3, 5), np.random.default_rng(0)
    x = torch.from_numpy(random.normal(size=[2, 3, 5, 5])) * distance
    for sigma in (0.01 * distance, distance):
        expected = brute_force.local_score(images, x, sigma, 3)
        check(LocalScoreDenoiser(images, window=3, precision=precision), x, sigma, expected)
        expected = brute_force.patches(images, x, sigma, 3, True)
        check(PatchDenoiser(images, window=3, precision=precision), x, sigma, expected)
    expected = brute_force.equivariant(images[:4], x, distance, 3, 'circular')
    denoiser = EquivariantLocalScoreDenoiser(images[:4], window=3, padding='circular', precision=precision)
    check(denoiser, x, distance, expected)


def test_the_result_is_exact_for_a_distant_query_equally_near_to_two_images():
    """At each pixel, the query is far from both images, in a direction perpendicular to their difference."""
    images = mixed_images(2, 3, 5, seed=3)
    first, second = images.double() / 127.5 - 1
    sideways = torch.linalg.cross(
        first - second, torch.from_numpy(np.random.default_rng(0).normal(size=[3, 5, 5])), dim=0
    )
    x = ((first + second) / 2 + 1e4 * sideways / sideways.norm())[None]
    for denoiser, expected in (
        (LocalScoreDenoiser(images, window=3, precision='fp64'), brute_force.local_score(images, x, 1.0, 3)),
        (PatchDenoiser(images, window=3, precision='fp64'), brute_force.patches(images, x, 1.0, 3, True)),
    ):
        check(denoiser, x, 1.0, expected)


def test_the_circular_form_commutes_with_shifts():
    images, x = mixed_images(6, 3, 8), queries(mixed_images(6, 3, 8), 0.5)
    denoiser = EquivariantLocalScoreDenoiser(images, window=3, padding='circular', precision='fp64')
    moved = denoiser(x.roll((2, 5), (2, 3)), 0.5)
    assert relative_error(moved, denoiser(x, 0.5).roll((2, 5), (2, 3)).numpy()) < 1e-12


@pytest.mark.parametrize('kind', [LocalScoreDenoiser, EquivariantLocalScoreDenoiser])
def test_the_result_does_not_depend_on_block_size_batch_or_ranks(kind, monkeypatch):
    images, sigma = mixed_images(23, 3, 5), 0.4
    x = queries(images, sigma)
    whole = kind(images, window=3, precision='fp64')(x, sigma).numpy()
    for numbers in (1, 60, 1 << 30):
        monkeypatch.setitem(streamed.BLOCK_NUMBERS, 'cpu', numbers)
        assert relative_error(kind(images, window=3, precision='fp64')(x, sigma), whole) < 1e-12
    assert (
        relative_error(torch.cat([kind(images, window=3, precision='fp64')(one[None], sigma) for one in x]), whole)
        < 1e-12
    )
    for ranks in (1, 2, 3):
        results = on_ranks(
            ranks, images, None, lambda rows: kind(rows, window=3, precision='fp64')(x, sigma), monkeypatch
        )
        assert all(torch.equal(results[0], result) for result in results)
        assert relative_error(results[0], whole) < 1e-12


def test_class_labels_select_the_training_images_of_a_class(monkeypatch):
    images, labels = mixed_images(20, 1, 5), torch.arange(20) * 7 % 3
    x, sigma = queries(images, 0.5), 0.5
    classes = [2, 0, 2, 1]
    expected = np.concatenate(
        [brute_force.local_score(images[labels == c], x[i : i + 1], sigma, 3) for i, c in enumerate(classes)]
    )
    denoiser = LocalScoreDenoiser(images, labels, window=3, precision='fp64')
    check(denoiser, x, sigma, brute_force.local_score(images, x, sigma, 3))
    assert relative_error(denoiser(x, sigma, torch.tensor(classes)), expected) < 1e-10
    for result in on_ranks(
        2,
        images,
        labels,
        lambda rows: LocalScoreDenoiser(rows, window=3, precision='fp64')(x, sigma, torch.tensor(classes)),
        monkeypatch,
    ):
        assert relative_error(result, expected) < 1e-10


def test_each_image_may_have_its_own_noise_level_and_window():
    images = mixed_images(20, 1, 8)
    x, sigmas = queries(images, 0.5), [0.05, 3.0, 0.5, 0.05]
    table = [(5.0, 7), (1.0, 5), (0.04, 3)]
    windows = [3, 7, 5, 3]
    denoiser = LocalScoreDenoiser(images, window=table, precision='fp64')
    found = denoiser(x, torch.tensor(sigmas, dtype=torch.float64))
    for i, (sigma, window) in enumerate(zip(sigmas, windows, strict=True)):
        expected = brute_force.local_score(images, x[i : i + 1], sigma, window)
        assert relative_error(found[i : i + 1], expected) < 1e-10


def test_windows_by_noise_level_are_scaled_to_the_resolution():
    at = lambda size, sigma: LocalScoreDenoiser(mixed_images(1, 1, size)).windows.at(sigma)  # noqa: E731
    assert [at(32, sigma) for sigma in (80, 8.4, 3.3, 1.9, 1.1, 0.6, 0.3, 0.002)] == [17, 17, 15, 11, 7, 5, 3, 3]
    assert [at(64, sigma) for sigma in (80, 0.002)] == [33, 5]
    assert [at(8, sigma) for sigma in (80, 1.9, 0.002)] == [5, 3, 3]
    assert at(2, 80) == 1


def test_a_window_table_is_read_from_a_file_and_limits_the_noise_levels(tmp_path):
    images, path = mixed_images(5, 1, 8), tmp_path / 'windows.json'
    path.write_text(json.dumps({'windows': [[0.1, 3], [10, 7]]}))
    denoiser = LocalScoreDenoiser(images, window=path)
    assert denoiser.windows.at(0.9) == 3
    assert denoiser.windows.at(1.1) == 7
    with pytest.raises(UserError, match=r'`window`: the table covers the noise levels 0\.1 to 10, but not 80'):
        denoiser(queries(images, 80.0), 80.0)
    path.write_text(json.dumps({'windows': [[0.1, 3], [0, 7]]}))
    with pytest.raises(UserError, match=r'windows\[1]\[0] must be a number above 0\.0, not 0; make a window table'):
        LocalScoreDenoiser(images, window=path)
    path.write_text('{"windows": [[0.1, 3], [Infinity, 7]]}')
    with pytest.raises(UserError, match=r'windows\[1]\[0] must be a number of at most .*, not inf'):
        LocalScoreDenoiser(images, window=path)


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'window': 9}, '`window`=9 does not fit in the 8×8 images; give 1 to 8'),
        ({'window': 4}, '`window`=4 has no centre pixel; give an odd number'),
        ({'window': [(1.0, 4)]}, '`window`=4 has no centre pixel'),
        ({'window': 3.0}, '`window`=3.0 must be an integer, the path of a window table, or pairs'),
        ({'window': [3, 5]}, r'`window`=\[3, 5\] must be an integer, the path of a window table, or pairs'),
        ({'window': [(1.0, 3.5)]}, r'`window`=\[\(1.0, 3.5\)\] must be .* pairs \(sigma, integer\)'),
        ({'window': [(0.0, 3)]}, '`window`: the noise level 0 in the table must be positive'),
        ({'window': np.int64(9)}, '`window`=9 does not fit'),
        ({'window': []}, '`window`: the table has no noise levels'),
        ({'window': 'none.json'}, '`window`=none.json is neither a number nor an existing file'),
        ({'window': __file__}, r'not a JSON file .*; make a window table with `diagnose\.py calibrate`'),
        ({'precision': 'bf16'}, '`precision`=bf16'),
        ({'padding': 'reflect'}, '`padding`=reflect is unknown; give circular or zeros'),
        ({'tau': 1}, '`tau`: the equivariant denoiser does not have this parameter'),
    ],
)
def test_wrong_parameters_give_a_one_sentence_error(parameters, message):
    with pytest.raises(UserError, match=message):
        make_denoiser('equivariant', mixed_images(2, 1, 8), **parameters)


def test_class_labels_are_refused_if_the_training_set_has_none():
    with pytest.raises(UserError, match='the training set has no labels'):
        LocalScoreDenoiser(mixed_images(2, 1, 8))(torch.zeros(1, 1, 8, 8), 1.0, torch.tensor([0]))
