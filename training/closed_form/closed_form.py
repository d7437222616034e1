"""The base class of closed-form denoisers. It holds the training set's shape and classes, and checks arguments."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from training.closed_form.rows import ImageRows, Images, taken
from training.dataset import checked_labels
from training.preconditioning import check_noisy


@dataclass(eq=False, repr=False)
class ClosedForm:
    """Base class; each subclass is a dataclass whose keyword-only fields are its parameters.

    images: uint8 [N, C, R, R]. labels: int64 [N] or None. device: the device to compute on. If images are `ImageRows`,
    labels and device are taken from them.
    Attributes. images: uint8 tensor [N, C, R, R] on the device; subclasses of `Streamed` read `rows` instead.
    num_images: number of training images. class_sizes: number of training images in each class. label_dim: 0 without
    labels, otherwise the highest label + 1.
    Raises UserError if the training set is empty or its images are not square.
    """

    sigma_min = 0.0
    sigma_max = math.inf
    # Whether the denoiser reads `ImageRows`, which can be sharded over ranks, instead of a tensor of images.
    takes_shards = False

    images: Images
    labels: Tensor | np.ndarray | None = None
    device: torch.device | str = 'cpu'

    def __post_init__(self) -> None:
        if isinstance(self.images, ImageRows):
            self.labels, self.device = self.images.labels, self.images.device
            if self.images.sharded and not self.takes_shards:
                raise UserError(
                    f'`sharded`: {type(self).__name__} needs the whole training set on each rank; remove `sharded`'
                )
        check_images(self.images)
        self.labels = checked_labels(self.labels, len(self.images))
        self.device = compute_device(self.device)
        if not self.takes_shards:
            self.images = taken(self.images, torch.arange(len(self.images))).to(self.device)
        self.img_channels, self.img_resolution = self.images.shape[1], self.images.shape[2]
        self.num_images = len(self.images)
        self.class_sizes = Counter([] if self.labels is None else self.labels.tolist())
        self.label_dim = max(self.class_sizes, default=-1) + 1

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)

    def _as_images(self, rows: Tensor, x: Tensor) -> Tensor:
        """Convert denoised rows [B, P] from pixel units to images in [-1, 1] with the shape and device of x.

        The result is float64 if x is float64, otherwise float32.
        """
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return rows.to(torch.float64, copy=True).add_(0.5).div_(127.5).reshape(x.shape).to(dtype).to(x.device)

    def _in_pixels(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x and the noise variance, both in pixel units (float64 [B, P] and [B])."""
        variance = self._variance(x, sigma)
        z = x.flatten(1).to(self.device).to(torch.float64).mul(127.5).sub_(0.5)
        if not bool(z.isfinite().all()):
            raise UserError('x contains values that are not finite')
        return z, variance

    def _variance(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Check sigma and the shape of x, and return the noise variance in pixel units, float64 [B]."""
        check_noisy(x, sigma, self.img_channels, self.img_resolution)
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=self.device).flatten()
        if not bool((sigma > 0).all() & sigma.isfinite().all()):
            raise UserError('sigma must be positive and finite')
        return (127.5 * sigma).square().expand(len(x))

    def _classes(self, class_labels: Tensor | None, count: int) -> Tensor | None:
        """Return the class of each noisy image, int64 [B]. An all-zero one-hot row gives -1, meaning all classes."""
        if class_labels is None:
            return None
        if not self.label_dim:
            raise UserError('class_labels were given, but the training set has no labels')
        labels = class_labels.to(self.device)
        if len(labels) != count:
            raise UserError(f'class_labels has {len(labels)} labels for {count} images')
        if labels.shape[1:] != ((self.label_dim,) if labels.is_floating_point() else ()):
            raise UserError(
                f'class_labels has shape {list(labels.shape)}; give integers [B] or one-hot floats '
                f'[B, {self.label_dim}]'
            )
        known = set(self.class_sizes)
        if labels.is_floating_point():
            labels, known = torch.where(labels.any(dim=1), labels.argmax(dim=1), -1), known | {-1}
        if absent := set(labels.unique().tolist()) - known:
            raise UserError(
                f'class {min(absent)} has no training images; choose among the classes that have, such as '
                f'{min(self.class_sizes)}, with `classes` or `class_index`'
            )
        return labels


def check_images(images: Images) -> None:
    if images.ndim != 4 or images.dtype not in (torch.uint8, np.uint8):
        raise UserError(f'training images must be uint8 [N, C, R, R], not {images.dtype} {list(images.shape)}')
    if len(images) == 0:
        raise UserError('the training set has no images')
    if images.shape[2] != images.shape[3]:
        raise UserError(f'training images must be square, not {images.shape[2]}×{images.shape[3]}')


def compute_device(device: torch.device | str) -> torch.device:
    """The device to compute on. Apple's GPUs have no float64, so the CPU is used instead."""
    device = torch.device(device)
    return torch.device('cpu') if device.type == 'mps' else device
