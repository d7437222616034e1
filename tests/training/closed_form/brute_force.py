"""Closed-form denoisers by their definitions, as loops over pixels, windows and images in extended precision."""

import itertools

import numpy as np
import torch
from torch import Tensor

from training.closed_form.streamed import Streamed


def data(images: Tensor) -> np.ndarray:
    """Convert images from uint8 [N, C, R, R] to extended precision in [-1, 1]."""
    return images.numpy().astype(np.longdouble) / 127.5 - 1


def posterior_mean(logits: list, values: list) -> np.ndarray:
    """Average of the values, weighted by softmax(logits). values: one array of any shape for each logit."""
    shifted = np.array(logits, dtype=np.longdouble)
    weights = np.exp(shifted - shifted.max())
    return np.tensordot(weights / weights.sum(), np.array(values), axes=1)


def window_of(image: np.ndarray, row: int, column: int, size: int, circular: bool) -> tuple[np.ndarray, np.ndarray]:
    """The window around a pixel, [C, k, k], with zeros outside the image, and a mask of positions inside it, [k, k]."""
    resolution, half = image.shape[-1], size // 2
    window = np.zeros([len(image), size, size], dtype=np.longdouble)
    inside = np.zeros([size, size], dtype=bool)
    for i, j in itertools.product(range(size), range(size)):
        y, x = row + i - half, column + j - half
        if circular:
            y, x = y % resolution, x % resolution
        if 0 <= y < resolution and 0 <= x < resolution:
            window[:, i, j], inside[i, j] = image[:, y, x], True
    return window, inside


def local_score(images: Tensor, x: Tensor, sigma: float, size: int) -> np.ndarray:
    training, found = data(images), np.zeros(x.shape)
    for b, noisy in enumerate(x.numpy()):
        for i, j in itertools.product(range(x.shape[2]), range(x.shape[3])):
            own, _ = window_of(noisy, i, j, size, False)
            others = [window_of(image, i, j, size, False)[0] for image in training]
            logits = [-((own - other) ** 2).sum() / (2 * np.longdouble(sigma) ** 2) for other in others]
            found[b, :, i, j] = posterior_mean(logits, [image[:, i, j] for image in training])
    return found


def equivariant(images: Tensor, x: Tensor, sigma: float, size: int, padding: str) -> np.ndarray:
    training, found, circular = data(images), np.zeros(x.shape), padding == 'circular'
    places = list(itertools.product(range(x.shape[2]), range(x.shape[3])))
    candidates = [(*window_of(image, *p, size, circular), image[:, p[0], p[1]]) for image in training for p in places]
    for b, noisy in enumerate(x.numpy()):
        for i, j in places:
            own, inside = window_of(noisy, i, j, size, circular)
            fit = [(other, value) for other, border, value in candidates if np.array_equal(border, inside)]
            logits = [-((own - other) ** 2).sum() / (2 * np.longdouble(sigma) ** 2) for other, _ in fit]
            found[b, :, i, j] = posterior_mean(logits, [value for _, value in fit])
    return found


def patches(images: Tensor, x: Tensor, sigma: float, size: int, mirror: bool) -> np.ndarray:
    training = data(images)
    training = np.concatenate([training, training[..., ::-1]]) if mirror else training
    found, covered, places = np.zeros(x.shape), np.zeros(x.shape), range(x.shape[2] - size + 1)
    for i, j in itertools.product(places, places):
        there = np.s_[..., i : i + size, j : j + size]
        candidates = training[there]
        for b, noisy in enumerate(x.numpy()[there]):
            logits = [-((noisy - other) ** 2).sum() / (2 * np.longdouble(sigma) ** 2) for other in candidates]
            found[b][there] += posterior_mean(logits, list(candidates))
        covered[there] += 1
    return found / covered


def pca_locality(images: Tensor, x: Tensor, sigma: float, tau: float) -> np.ndarray:
    training = data(images).reshape(len(images), -1)
    covariance = np.atleast_2d(np.cov(training.astype(np.float64).T, bias=True))
    wiener = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(covariance)))
    found = np.zeros([len(x), training.shape[1]])
    for m, row in enumerate(wiener):
        same = (training[:, m] == training[0, m]).all()  # every mask gives the same mean
        mask = np.zeros(len(row), dtype=bool) if same else np.abs(row) >= tau * np.abs(row).max()
        for b, noisy in enumerate(x.flatten(1).numpy()):
            squares = ((noisy - training)[:, mask] ** 2).sum(axis=1)
            found[b, m] = posterior_mean(list(-squares / (2 * np.longdouble(sigma) ** 2)), list(training[:, m]))
    return found.reshape(x.shape)


def optimum(images: Tensor, x: Tensor, sigma: float) -> np.ndarray:
    training = data(images)
    return np.stack(
        [
            posterior_mean(
                [-((one - y) ** 2).sum() / (2 * np.longdouble(sigma) ** 2) for y in training], list(training)
            )
            for one in x.numpy()
        ]
    )


def mixed_images(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Correlated uint8 images with exact copies and near-copies (one pixel value differs by 1)."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 45, [count, channels, -(-size // 2), -(-size // 2)]).repeat(2, axis=2).repeat(2, axis=3)
    pixels = 120 + coarse[:, :, :size, :size] + random.normal(0, 20, [count, channels, size, size])
    images = pixels.clip(1, 254).astype(np.uint8)
    if count > 3:
        images[1], images[2] = images[0], images[0]
        images[2, 0, 0, 0] += 1
    return torch.from_numpy(images)


def queries(images: Tensor, sigma: float, seed: int = 1) -> Tensor:
    """Images to denoise, float64: noisy training images, the midpoint of two near-copies, and pure noise far away."""
    random = np.random.default_rng(seed)
    clean = images[[0, len(images) - 1]].double() / 127.5 - 1
    noisy = clean + sigma * torch.from_numpy(random.normal(size=clean.shape))
    halfway = (images[:1].double() + images[min(2, len(images) - 1)]) / 255 - 1
    distant = torch.from_numpy(random.normal(size=clean[:1].shape)) * 30 * max(sigma, 0.2)
    return torch.cat([noisy, halfway, distant])


def relative_error(found: Tensor, expected: np.ndarray) -> float:
    """The largest relative error of any image: the norm of the error divided by the norm of the expected image."""
    error = (found.double().numpy() - expected).reshape(len(expected), -1)
    return float((np.linalg.norm(error, axis=1) / np.linalg.norm(expected.reshape(len(expected), -1), axis=1)).max())


def check(denoiser: Streamed, x: Tensor, sigma: float, expected: np.ndarray) -> None:
    """Check that a denoiser has a relative error below 1e-10 with precision 'fp64' and below 1e-6 with 'fp32'."""
    assert relative_error(denoiser(x, sigma), expected) < (1e-10 if denoiser.float64 else 1e-6)
