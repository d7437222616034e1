"""Sampling with the optimal denoiser: images that settle are finished early, and samples replay training images."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.closed_form.optimal_cases import (
    hard_sets,
    naive,
    naive_pixels,
    noisy,
    smooth_images,
    squared_distances,
)
from training.closed_form import int8_sums
from training.closed_form.optimal import OptimalDenoiser
from training.sampling import StackedRandomGenerator, ablation_sampler, edm_sampler, to_uint8


class CountingDenoiser:
    """Wraps a denoiser and counts the images it denoises. It has a method `settled` only if `with_settled` is set."""

    sigma_min, sigma_max, label_dim = 0.0, math.inf, 0

    def __init__(self, inner: OptimalDenoiser, with_settled: bool):
        self.inner, self.asked, self.fired = inner, 0, 0
        self.img_channels, self.img_resolution = inner.img_channels, inner.img_resolution
        if with_settled:
            self.settled = self._settled

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        self.asked += len(x)
        return self.inner(x, sigma, class_labels)

    def _settled(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.asked += len(x)
        done, denoised = self.inner.settled(x, sigma, class_labels)
        self.fired += int(done.sum())
        return done, denoised


def test_settled_images_skip_later_steps_without_changing(images: Tensor, denoiser: OptimalDenoiser) -> None:
    latents = StackedRandomGenerator('cpu', range(16)).randn([16, 3, 16, 16])
    plain, quick = CountingDenoiser(denoiser, False), CountingDenoiser(denoiser, True)
    expected, found = edm_sampler(plain, latents), edm_sampler(quick, latents)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert torch.equal(to_uint8(found), to_uint8(expected))
    assert plain.asked == 16 * 35
    assert quick.fired == 16
    assert quick.asked < 16 * 28


def test_a_settled_image_stays_settled_down_to_zero_noise(images: Tensor, denoiser: OptimalDenoiser) -> None:
    x = noisy(images, 0.7, count=16)
    settled, denoised = denoiser.settled(x, 0.7)
    assert settled.any()
    assert torch.equal(denoised, denoiser(x, 0.7))
    for t in (1.0, 0.5, 0.1, 0.01):
        gaps = squared_distances(denoised + t * (x - denoised), images).sort(dim=1).values
        others = (-(gaps[:, 1:] - gaps[:, :1]) / (2 * (0.7 * t) ** 2)).exp().sum(dim=1)
        assert (others[settled] < 2.0**-53).all()


def test_a_point_midway_between_two_images_never_settles(images: Tensor, denoiser: OptimalDenoiser) -> None:
    middle = naive_pixels(images[3:5]).mean(dim=0, keepdim=True)
    for sigma in (10.0, 0.1, 0.002):
        assert not denoiser.settled(middle, sigma)[0].any()


@pytest.mark.parametrize('rows', [100, 1 << 16])
def test_an_image_settles_even_if_it_has_exact_copies(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_sums, 'MAX_BLOCK', rows)
    images = smooth_images(400).repeat(3, 1, 1, 1)
    settled, denoised = OptimalDenoiser(images).settled(naive_pixels(images[:2]) + 0.001, 0.01)
    assert settled.all()
    assert torch.equal(to_uint8(denoised), images[:2])


def test_reduced_coordinates_report_the_settled_images() -> None:
    images = smooth_images(400)[torch.arange(500) % 400]  # 100 of the images occur twice
    denoiser = OptimalDenoiser(images)
    coordinates = denoiser.coordinates
    assert coordinates is not None
    for sigma in (3.0, 0.7, 0.05):
        x = noisy(images, sigma, count=16)
        given = coordinates.of(x), torch.tensor(sigma, dtype=torch.float64)
        settled, found = coordinates.settled(*given)
        assert torch.equal(settled, denoiser.settled(x, sigma)[0])
        assert torch.equal(found, coordinates(*given))


class NaiveDenoiser(CountingDenoiser):
    """The optimal denoiser by its definition in float64; class labels select the images of one class."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        if class_labels is None:
            return naive(self.images, x, sigma)[1]
        return torch.cat([
            naive(self.images[self.labels == label], x[k : k + 1], sigma)[1] for k, label in enumerate(class_labels)
        ])  # fmt: skip


@pytest.mark.parametrize('name', hard_sets())
def test_sampling_in_reduced_coordinates_gives_the_same_images_as_in_pixels(name: str) -> None:
    images = hard_sets()[name][:500]
    labels = torch.arange(len(images)) % 2
    random = StackedRandomGenerator('cpu', range(12))
    latents = random.randn([12, 3, 16, 16])
    denoiser = OptimalDenoiser(images, labels)
    assert denoiser.coordinates is not None
    for classes in (None, torch.zeros(12, dtype=torch.int64), torch.arange(12) % len(labels.unique())):
        found, expected = (
            edm_sampler(net, latents, classes, num_steps=12) for net in (denoiser, NaiveDenoiser(images, labels))
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
        assert torch.equal(to_uint8(found), to_uint8(expected))


def test_large_training_sets_have_no_reduced_coordinates(images: Tensor, tmp_path: Path) -> None:
    assert OptimalDenoiser(images[:768]).coordinates is not None
    assert OptimalDenoiser(images[:769]).coordinates is None  # more images than pixels
    wide = torch.randint(256, [6, 3, 1024, 1024], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert OptimalDenoiser(wide[:5]).coordinates is not None
    assert OptimalDenoiser(wide).coordinates is None  # 6 * 3 * 1024² float64 values exceed 128 MiB
    np.save(tmp_path / 'images.npy', images[:9])
    assert OptimalDenoiser(np.load(tmp_path / 'images.npy', mmap_mode='r')).coordinates is None


def test_the_samplers_with_churn_and_for_ablations_replay_training_images(
    images: Tensor, denoiser: OptimalDenoiser
) -> None:
    random = StackedRandomGenerator('cpu', range(4))
    latents = random.randn([4, 3, 16, 16])
    churned = edm_sampler(denoiser, latents, randn_like=random.randn_like, S_churn=20)
    for result in (churned, ablation_sampler(denoiser, latents, solver='euler')):
        assert (to_uint8(result)[:, None] == images).flatten(2).all(dim=2).any(dim=1).all()


def test_the_image_of_a_seed_does_not_depend_on_its_batch(denoiser: OptimalDenoiser) -> None:
    latents = StackedRandomGenerator('cpu', range(9)).randn([9, 3, 16, 16])
    together = to_uint8(edm_sampler(denoiser, latents))
    assert torch.equal(together[4:6], to_uint8(edm_sampler(denoiser, latents[4:6])))


def test_the_result_does_not_depend_on_the_number_of_threads(
    images: Tensor, denoiser: OptimalDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noisy(images, 4.0, count=7)
    expected = denoiser(x, 4.0)
    monkeypatch.setattr('torch_utils.row_threads.ROWS_PER_THREAD', 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.inference_mode():
            found = denoiser(x, 4.0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
