"""The optimal denoiser, compared with its definition in naive float64."""

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dnnlib.util import UserError
from tests.helpers import DATA, cifar10_pixels, needs_cifar10
from tests.training.closed_form.optimal_cases import (
    SIGMAS,
    WAYS,
    hard_sets,
    naive,
    naive_pixels,
    noisy,
    relative_error,
    smooth_images,
    squared_distances,
)
from tests.training.closed_form.ranks import on_ranks
from torch_utils import distributed
from torch_utils.int8 import MAX_INNER
from training.closed_form import int8_sums, optimal, sums
from training.closed_form.optimal import OptimalDenoiser
from training.closed_form.rows import ImageRows
from training.sampling import StackedRandomGenerator, edm_sampler, rho_schedule, to_uint8


def forbid_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise AssertionError('images were recomputed in float64')

    monkeypatch.setattr(optimal, 'float64_sums', fail)


@pytest.mark.parametrize('sigma', SIGMAS)
def test_denoised_images_equal_the_definition(
    images: Tensor, denoiser: OptimalDenoiser, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if optimal.FLOAT64_PIXELS == 0:
        forbid_float64(monkeypatch)
    x = noisy(images, sigma)
    found = denoiser(x, sigma)
    assert found.dtype == torch.float64
    assert relative_error(found, naive(images, x, sigma)[1]) < 1e-5
    assert denoiser(x.float(), sigma).dtype == torch.float32
    assert relative_error(denoiser(x.float(), sigma), naive(images, x.float(), sigma)[1]) < 1e-5


def test_each_image_may_have_its_own_sigma(images: Tensor, denoiser: OptimalDenoiser) -> None:
    sigmas = torch.tensor(SIGMAS, dtype=torch.float64)
    x = torch.cat([noisy(images, sigma, count=1, seed=k) for k, sigma in enumerate(SIGMAS)])
    assert relative_error(denoiser(x, sigmas), naive(images, x, sigmas)[1]) < 1e-5


@pytest.mark.parametrize('sigma', [40.0, 3.0, 0.3])
@pytest.mark.parametrize('rows', [1, 65, 129, 1 << 16])
def test_the_result_does_not_depend_on_the_block_size(
    rows: int, sigma: float, digits_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_sums, 'MAX_BLOCK', rows)
    monkeypatch.setitem(int8_sums.PRODUCT_ROWS, 'cpu', min(rows, 37))
    monkeypatch.setitem(int8_sums.CHUNK_WEIGHTS, 'cpu', rows)
    monkeypatch.setattr(sums, 'FLOAT64_ROWS', min(rows, 41))
    images = smooth_images(170, size=8)
    x = noisy(images, sigma)
    assert relative_error(OptimalDenoiser(images)(x, sigma), naive(images, x, sigma)[1]) < 1e-5
    exact = OptimalDenoiser(images, precision='fp64')
    assert relative_error(exact(x, sigma), naive(images, x, sigma)[1]) < 1e-12


@pytest.mark.parametrize(('fast', 'count', 'float64'), [(True, 100, True), (True, 101, False), (False, 1, False)])
def test_a_gpu_uses_float64_if_it_is_fast_and_the_sums_are_not_too_large(
    fast: bool, count: int, float64: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = OptimalDenoiser(smooth_images(20, channels=1, size=8))
    denoiser.rows.device = torch.device('cuda')
    monkeypatch.setattr(optimal, 'float64_is_fast', lambda device: fast)
    monkeypatch.setattr(optimal, 'FLOAT64_WORK', 100 * 20 * 64)
    assert denoiser._in_float64(count) == float64


def test_ranks_that_hold_shards_all_use_float64_or_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def choice(rows: ImageRows) -> Tensor:
        # Without the property's cache: before Python 3.12, its lock would let only one of the threads reach `gather`.
        return torch.tensor(OptimalDenoiser.__dict__['_fast_float64'].func(OptimalDenoiser(rows)))

    for fast in ([True, False], [True, True]):
        monkeypatch.setattr(optimal, 'float64_is_fast', lambda device, fast=fast: fast[distributed.rank()])
        assert on_ranks(2, smooth_images(20), None, choice, monkeypatch) == [all(fast)] * 2


def test_the_optimum_of_a_small_training_set_has_gradients() -> None:
    images = smooth_images(50, channels=1, size=8)
    x = noisy(images, 1.0).requires_grad_()
    factors = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (found,) = torch.autograd.grad(OptimalDenoiser(images)(x, 1.0), x, factors)
    (expected,) = torch.autograd.grad(naive(images, x, 1.0)[1], x, factors)
    assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('sigma', [80.0, 0.5, 0.002])
def test_one_or_two_training_images_are_enough(count: int, sigma: float, digits_only: None) -> None:
    images = smooth_images(count, channels=1, size=8)
    x = noisy(images, sigma)
    assert relative_error(OptimalDenoiser(images)(x, sigma), naive(images, x, sigma)[1]) < 1e-10


@pytest.mark.parametrize('sigma', SIGMAS)
def test_duplicated_images_count_as_often_as_they_occur(sigma: float) -> None:
    images = smooth_images(600)
    images = torch.cat([images, images[:200], images[:100], images[:1].expand(100, -1, -1, -1)])
    x = noisy(images[:100], sigma, count=6)
    assert relative_error(OptimalDenoiser(images)(x, sigma), naive(images, x, sigma)[1]) < 1e-5


@pytest.mark.parametrize('sigma', [1.0, 0.05, 0.002])
def test_near_ties_share_the_weight(sigma: float) -> None:
    """The near ties are 100 images that differ by 1 in one pixel value: more than are recomputed in float64."""
    images = smooth_images(400)
    near = images[:1].repeat(100, 1, 1, 1)
    near.view(100, -1)[torch.arange(100), torch.arange(100)] ^= 1
    images = torch.cat([images[1:], near])
    x = torch.cat([naive_pixels(near[:1]), naive_pixels(near).mean(dim=0, keepdim=True), noisy(near, sigma, count=3)])
    assert relative_error(OptimalDenoiser(images)(x, sigma), naive(images, x, sigma)[1]) < 1e-5


def test_a_point_midway_between_two_images_is_denoised_to_their_mean_at_any_sigma() -> None:
    images = smooth_images(500)
    middle = naive_pixels(images[3:5]).mean(dim=0, keepdim=True)
    for sigma in (0.5, 0.01, 0.002):
        assert relative_error(OptimalDenoiser(images)(middle, sigma), middle) < 1e-5


@pytest.mark.parametrize('sigma', [80.0, 2.0, 0.01])
def test_a_device_without_an_exact_int8_product_gives_the_same_result(
    images: Tensor, denoiser: OptimalDenoiser, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noisy(images, sigma)
    expected = denoiser(x, sigma)
    monkeypatch.setattr('torch_utils.int8.device_product_is_exact', lambda _: False)
    assert torch.equal(denoiser(x, sigma), expected)


@pytest.mark.parametrize('sigma', [80.0, 5.0, 0.5])
def test_each_class_has_the_optimum_of_its_own_images(sigma: float, digits_only: None) -> None:
    images = smooth_images(700, size=8)
    labels = torch.arange(700) * 7919 % 5
    labels[labels == 3] = 6
    denoiser = OptimalDenoiser(images, labels)
    assert denoiser.label_dim == 7
    x, classes = noisy(images, sigma, count=5), torch.tensor([4, 0, 6, 0, 1])
    expected = torch.cat([naive(images[labels == c], x[[k]], sigma)[1] for k, c in enumerate(classes.tolist())])
    assert relative_error(denoiser(x, sigma, classes), expected) < 1e-5
    one_hot = torch.nn.functional.one_hot(classes, 7).float()
    assert torch.equal(denoiser(x, sigma, one_hot), denoiser(x, sigma, classes))
    over_all = naive(images, x, sigma)[1]
    assert relative_error(denoiser(x, sigma), over_all) < 1e-5
    one_hot[2] = 0
    assert relative_error(denoiser(x, sigma, one_hot)[2:3], over_all[2:3]) < 1e-5


@pytest.mark.parametrize('sigma', [80.0, 5.0, 0.5])
def test_statistics_equal_their_definitions(images: Tensor, denoiser: OptimalDenoiser, sigma: float) -> None:
    x = noisy(images, sigma)
    distances = squared_distances(x, images)
    weights = naive(images, x, sigma)[0]
    found = denoiser.statistics(x, sigma)
    expected = torch.logsumexp(-distances / (2 * sigma**2), dim=1)
    torch.testing.assert_close(found.log_normalizer, expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.effective_number, 1 / weights.square().sum(dim=1), rtol=1e-5, atol=0)
    assert torch.equal(found.nearest, distances.argmin(dim=1))
    torch.testing.assert_close(found.distance, distances.amin(dim=1).sqrt())


def test_among_equal_images_the_one_with_the_lowest_index_is_nearest() -> None:
    images = smooth_images(800)
    images = torch.cat([images, images.flip(0)])
    labels = torch.arange(1600) // 400 % 2  # sorted by class, copies 800 … 1199 precede their originals
    x = noisy(images[:800], 1.0, count=8)
    expected = squared_distances(x, images[:800]).argmin(dim=1)
    assert torch.equal(OptimalDenoiser(images).statistics(x, 1.0).nearest, expected)
    assert torch.equal(OptimalDenoiser(images, labels).statistics(x, 1.0).nearest, expected)


@pytest.mark.parametrize('brightness', [0, 80])
def test_the_error_estimate_bounds_the_root_mean_square_error(brightness: int) -> None:
    """With only two int8 digits of z, the estimated error exceeds the rounding errors of float32."""
    images = (smooth_images(2300) // 2 + 64 + brightness).clamp(max=255).to(torch.uint8)
    denoiser = OptimalDenoiser(images)
    for sigma in (80.0, 20.0, 5.0, 2.0):
        x = noisy(images, sigma, count=32)
        z, variance = denoiser._in_pixels(x, sigma)
        sums, logit_error = int8_sums.int8_sums(denoiser.rows, z, variance, 2, 0, len(images), False)
        estimate = int8_sums.relative_error(denoiser.rows, logit_error, sums)
        expected = naive(images, x, sigma)[1].flatten(1)
        actual = ((sums.mean + 0.5) / 127.5 - expected).norm(dim=1) / expected.norm(dim=1)
        assert (actual <= 5 * estimate).all()
        assert actual.square().mean() <= estimate.square().mean()


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', hard_sets())
def test_hard_sets_are_denoised_exactly_and_never_settle_too_early(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimal, 'FLOAT64_PIXELS', WAYS[way])
    images = hard_sets()[name]
    denoiser = OptimalDenoiser(images)
    for sigma in (80.0, 8.0, 2.0, 0.3, 0.002):
        x = noisy(images, sigma, count=24)
        weights, expected = naive(images, x, sigma)
        done, found = denoiser.settled(x, sigma)
        actual = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert (actual < 1e-5).all()
        same = (images == images[weights.argmax(dim=1)][:, None]).flatten(2).all(dim=2)
        assert (weights.masked_fill(same, 0).sum(dim=1)[done] < 2.0**-53).all()


def test_the_estimated_error_of_logits_matches_their_error() -> None:
    images = (smooth_images(500) // 4 + 180).to(torch.uint8)
    denoiser = OptimalDenoiser(images)
    x = noisy(images, 10.0, count=32)
    z, variance = denoiser._in_pixels(x, 10.0)
    query = int8_sums.Int8Query(denoiser.rows, z, variance, 2)
    logits = query.logits(0, 500)[:, :500].double() + query.offset[:, None]
    wrong = logits + squared_distances(x, images) / (2 * 10.0**2)
    contrast = (images.double() - images.double().mean(dim=0)).flatten(1).norm(dim=1)
    estimate = query.logit_error[:, None] * contrast
    assert 0.8 < (wrong / estimate).square().mean().sqrt() < 1.2
    assert (wrong.abs() <= query.logit_bound[:, None]).all()


def test_the_error_estimate_detects_useless_logits() -> None:
    """At noise level 0.002, two digits of z cannot separate images at nearly equal distances."""
    images = smooth_images(400)
    images[:100] = images[:1]
    images[:100].view(100, -1)[torch.arange(100), torch.arange(100)] ^= 1
    denoiser = OptimalDenoiser(images)
    z, variance = denoiser._in_pixels(naive_pixels(images[:1]), 0.002)
    sums, logit_error = int8_sums.int8_sums(denoiser.rows, z, variance, 2, 0, 400, False)
    assert int8_sums.relative_error(denoiser.rows, logit_error, sums).isinf().all()


def test_images_with_an_uncertain_int8_result_are_computed_in_float64(
    images: Tensor, denoiser: OptimalDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimal, 'TOLERANCE', 0.0)
    x = noisy(images, 5.0)
    assert relative_error(denoiser(x, 5.0), naive(images, x, 5.0)[1]) < 1e-12


def test_memory_mapped_images_give_the_same_result(images: Tensor, digits_only: None, tmp_path: Path) -> None:
    np.save(tmp_path / 'images.npy', images.numpy())
    mapped = np.load(tmp_path / 'images.npy', mmap_mode='r')
    labels = torch.arange(len(images)) % 3
    on_disk, in_memory = OptimalDenoiser(mapped, labels), OptimalDenoiser(images, labels)
    classes = torch.tensor([0, 2, 2, 1])
    for sigma in (30.0, 1.0):
        x = noisy(images, sigma)
        assert torch.equal(on_disk(x, sigma), in_memory(x, sigma))
        assert torch.equal(on_disk(x, sigma, classes), in_memory(x, sigma, classes))
        assert torch.equal(on_disk.statistics(x, sigma).nearest, in_memory.statistics(x, sigma).nearest)


@pytest.mark.parametrize('sigma', [30.0, 1.0])
@pytest.mark.parametrize('bounds', [[0, 1, 2300], [0, 700, 1500, 2300]])
def test_sums_over_shards_merge_to_the_sums_over_all_images(
    images: Tensor, bounds: list[int], sigma: float, digits_only: None
) -> None:
    copies = torch.cat([images[:1100], images[:1100], images[:100]])  # shards contain copies of each other's images
    x = noisy(copies, sigma)
    merged = None
    for start, stop in itertools.pairwise(bounds):
        shard = OptimalDenoiser(copies[start:stop])
        shard.rows.offset = start
        z, variance = shard._in_pixels(x, sigma)
        part = sums.Sums.unpack(shard._range_sums(z, variance, (0, stop - start), True).pack())
        merged = part if merged is None else sums.merge(merged, part)
    assert merged is not None
    assert relative_error((merged.mean + 0.5).reshape(x.shape) / 127.5, naive(copies, x, sigma)[1]) < 1e-5
    assert torch.equal(merged.nearest, squared_distances(x, copies).argmin(dim=1))


@pytest.mark.parametrize('way', ['digits', 'float64'])
def test_a_class_that_only_one_shard_has_is_merged_correctly(
    images: Tensor, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimal, 'FLOAT64_PIXELS', 0)
    labels = torch.arange(len(images)) * 4 // len(images)  # four classes, one for each shard
    x = noisy(images, 3.0)
    z, variance = OptimalDenoiser(images)._in_pixels(x, 3.0)
    for label in range(4):
        parts = []
        for shard_label in range(4):
            precision = 'fp64' if way == 'float64' else 'fp32'
            part = labels == shard_label
            shard = OptimalDenoiser(images[part], labels[part], precision=precision)
            chosen = shard.rows.ranges.get(label, (0, 0))
            parts.append(sums.Sums.unpack(shard._range_sums(z, variance, chosen, False).pack()))
        found = functools.reduce(sums.merge, parts).mean
        _, expected = naive(images[labels == label], x, 3.0)
        assert relative_error((found.reshape(x.shape) + 0.5) / 127.5, expected) < 1e-5


def test_an_empty_batch_gives_an_empty_batch(images: Tensor, denoiser: OptimalDenoiser) -> None:
    for one in (denoiser, OptimalDenoiser(images[:2])):
        none = noisy(images, 1.0)[:0]
        assert one(none, 1.0).shape == none.shape
        assert [part.shape[0] for part in one.settled(none, 1.0)] == [0, 0]


@pytest.mark.parametrize('sigma', [20.0, 0.5])
def test_images_with_too_many_pixels_for_one_int32_sum_are_denoised_exactly(sigma: float) -> None:
    images = smooth_images(65, size=210)
    assert images[0].numel() > MAX_INNER
    x = noisy(images, sigma, count=2)
    assert relative_error(OptimalDenoiser(images)(x, sigma), naive(images, x, sigma)[1]) < 1e-5


def test_invalid_arguments_give_a_one_sentence_error(images: Tensor, denoiser: OptimalDenoiser) -> None:
    x = noisy(images, 1.0)
    with pytest.raises(UserError, match='no images'):
        OptimalDenoiser(images[:0])
    with pytest.raises(UserError, match='square'):
        OptimalDenoiser(images[:, :, :8])
    with pytest.raises(UserError, match='uint8'):
        OptimalDenoiser(images.float())
    for unusable in (torch.arange(3), torch.full([2300], 0.5), torch.zeros([2300, 2])):
        with pytest.raises(UserError, match='`labels` must be one integer for each of the 2300 images'):
            OptimalDenoiser(images, unusable)
    with pytest.raises(UserError, match=r'x must be a tensor \[B, 3, 16, 16\]'):
        denoiser(x[:, :1], 1.0)
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match='sigma must be positive'):
            denoiser(x, sigma)
    with pytest.raises(UserError, match='2 values for 4 images'):
        denoiser(x, torch.ones(2))
    with pytest.raises(UserError, match='not finite'):
        denoiser(torch.full_like(x, math.nan), 1.0)
    with pytest.raises(UserError, match='no labels'):
        denoiser(x, 1.0, torch.zeros(4, dtype=torch.int64))
    labelled = OptimalDenoiser(images[:4], torch.tensor([0, 0, 2, 2]))
    for absent in (1, 3, -1):
        with pytest.raises(UserError, match=f'class {absent} has no training images'):
            labelled(x, 1.0, torch.tensor([0, absent, 2, 0]))
    with pytest.raises(UserError, match='class 1 has no training images'):
        labelled(x, 1.0, torch.eye(3)[[0, 1, 2, 0]])
    with pytest.raises(UserError, match='class_labels has 1 labels for 4 images'):
        labelled(x, 1.0, torch.tensor([0]))
    for wrong in (torch.zeros([4, 2]), torch.zeros([4]), torch.zeros([4, 3], dtype=torch.int64)):
        with pytest.raises(UserError, match=r'give integers \[B\] or one-hot floats \[B, 3\]'):
            labelled(x, 1.0, wrong)
    with pytest.raises(UserError, match='contains the label -1'):
        OptimalDenoiser(images[:2], torch.tensor([0, -1]))


def test_the_error_for_too_little_memory_gives_the_size_of_the_set(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torch_utils.misc.free_bytes', lambda _: 1_000_000)
    with pytest.raises(UserError, match='need 1,766,400 bytes on cpu, but only 1,000,000 are free'):
        OptimalDenoiser(images)


@pytest.mark.parametrize('way', WAYS)
def test_denoised_digits_equal_the_reference_data(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal, 'FLOAT64_PIXELS', WAYS[way])
    data = np.load(DATA / 'optimal_denoiser_digits.npz')
    denoiser = OptimalDenoiser(torch.from_numpy(data['images']), torch.from_numpy(data['labels']))
    for sigma in (80.0, 10.0, 2.0, 1.0, 0.5, 0.05, 0.002):
        case = {name: torch.from_numpy(data[f'sigma{sigma}.{name}']) for name in ('x', 'class', 'denoised_float64')}
        in_class = torch.from_numpy(data[f'sigma{sigma}.denoised_class_float64'])
        x = case['x'].double()
        assert relative_error(denoiser(x, sigma), case['denoised_float64']) < 1e-5
        assert relative_error(denoiser(x, sigma, case['class']), in_class) < 1e-5
    seeds = data['generate.seeds']
    latents = StackedRandomGenerator('cpu', seeds.tolist()).randn([len(seeds), 1, 8, 8])
    generated = to_uint8(edm_sampler(OptimalDenoiser(torch.from_numpy(data['images'])), latents))
    assert np.array_equal(generated.numpy(), data['generate.images_uint8'])


@pytest.mark.slow
@needs_cifar10
def test_denoising_cifar10_is_exact_along_sampling_trajectories() -> None:
    images = torch.from_numpy(np.concatenate([cifar10_pixels(f'data_batch_{k}') for k in range(1, 6)]))
    denoiser = OptimalDenoiser(images)
    y = naive_pixels(images).flatten(1)
    x = StackedRandomGenerator('cpu', range(8)).randn([8, 3, 32, 32]).double() * 80
    sigmas = rho_schedule(0.002, 80, 18, 7).tolist()
    for sigma, sigma_next in itertools.pairwise(sigmas):
        flat = x.flatten(1)
        logits = (flat @ y.t() - y.square().sum(dim=1) / 2) / sigma**2
        expected = (torch.softmax(logits, dim=1) @ y).reshape(x.shape)
        assert relative_error(denoiser(x, sigma), expected) < 1e-5
        x = expected + (x - expected) * sigma_next / sigma
