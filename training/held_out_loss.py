"""The loss on training images and on held-out images at each noise level, evaluated during training.

Every evaluation uses the same images, noise and noise levels, so the loss changes only because the network changes.
Evaluation leaves the random numbers of training unchanged, so the trained weights are bitwise identical with and
without it.
"""

import itertools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from dataset_utils import open_source
from dataset_utils.sources.base import digest
from dnnlib.util import UserError
from torch_utils import distributed
from torch_utils.misc import derived_seed, layout
from training.config import TrainingConfig
from training.dataset import Dataset, StreamedDataset, labels_of, require_shape, to_float
from training.denoiser import Denoiser

# Edges of the noise-level bins; each image gets one noise level in each bin.
BINS = (0.05, 0.2, 0.8, 3.2, 12.8)
SIGMA_DATA = 0.5
BATCH_SIZE = 64


def open_held_out_loss(
    config: TrainingConfig, dataset: Dataset | StreamedDataset, device: torch.device
) -> 'HeldOutLoss | None':
    """The evaluator for the held-out set `test_data`, or None if this option is not given.

    Raises UserError if held-out images differ from training images in shape or classes, or if the sets share images.
    """
    options, wanted = config.options, config.dataset
    if options.test_data is None:
        return None
    where = f'`test_data`={options.test_data}'
    source = open_source(options.test_data, 'test_data')
    test_set = StreamedDataset(source.name, source, labels_of(source), '', 1)
    held_out = first_images(test_set, options.test_images, config.label_dim, where)
    shape = (wanted.channels, wanted.resolution, wanted.resolution)
    require_shape(held_out.images.shape[1:], shape, where, 'training images are')
    if not options.allow_overlap:
        distributed.on_main(lambda: refuse_shared(held_out.images, dataset, where))
    return HeldOutLoss(first_images(dataset, options.test_images, config.label_dim, wanted.path), held_out, device)


def first_images(dataset: Dataset | StreamedDataset, count: int, label_dim: int, where: str) -> Dataset:
    """The first `count` images of a set (all if there are fewer), with labels if the network is class-conditional.

    Raises UserError if the network is class-conditional and labels are missing or outside its classes.
    """
    images = torch.from_numpy(np.stack([dataset.image(place) for place in range(min(count, len(dataset)))]))
    labels = dataset.labels
    if not label_dim:
        return Dataset(dataset.name, images, None, '')
    if labels is None or int(labels[:count].max()) >= label_dim:
        raise UserError(f'{where}: a class-conditional network requires images with labels from 0 to {label_dim - 1}')
    return Dataset(dataset.name, images, labels[:count], '')


def refuse_shared(images: Tensor, training: Dataset | StreamedDataset, where: str) -> None:
    """Raise UserError if at least one held-out image is also in the training set, pixel for pixel.

    images: held-out images, uint8 [N, C, R, R].
    """
    if shared := num_shared(images.numpy(), (training.image(place) for place in range(len(training)))):
        raise UserError(
            f'{where}: {shared} of its {len(images)} images are also in the training set; give other images, or add '
            '`allow_overlap` to continue anyway'
        )


def num_shared(images: Iterable[np.ndarray], training: Iterable[np.ndarray]) -> int:
    """How many images are also in the training set, pixel for pixel."""
    known = set(map(digest, training))
    return sum(digest(image) in known for image in images)


class HeldOutLoss:
    """Evaluates a network's loss in each noise-level bin. Each of the two sets needs at least one image."""

    def __init__(self, training: Dataset, held_out: Dataset, device: torch.device):
        self.sets = {'train': training, 'test': held_out}
        self.device = device

    def evaluate(self, net: Denoiser) -> dict[str, float]:
        """The mean loss of each set over all bins (key 'Loss/test') and in each bin (key 'Loss/test_0.2_to_0.8').

        The loss is EDM's: the squared error per pixel, weighted by (sigma² + 0.25) / (0.5 sigma)². Every rank must call
        this with the same weights; each rank evaluates some of the batches, and all ranks return the same result.
        """
        names = [(name, start) for name, images in self.sets.items() for start in range(0, len(images), BATCH_SIZE)]
        mine = {key: self._losses(net, *key) for key in names[distributed.rank() :: distributed.world_size()]}
        found = {key: losses for part in distributed.gather(mine) for key, losses in part.items()}
        fields = {}
        for name in self.sets:
            means = torch.cat([found[key] for key in names if key[0] == name], dim=1).mean(dim=1).tolist()  # [bins]
            fields[f'Loss/{name}'] = sum(means) / len(means)
            for (low, high), mean in zip(itertools.pairwise(BINS), means, strict=True):
                fields[f'Loss/{name}_{low:g}_to_{high:g}'] = mean
        return fields

    def _losses(self, net: Denoiser, name: str, start: int) -> Tensor:
        """The loss of each image in a batch, for each bin: float64 [bins, B] on the CPU."""
        dataset = self.sets[name]
        part = slice(start, start + BATCH_SIZE)
        clean = to_float(dataset.images[part].to(self.device)).contiguous(
            memory_format=layout(self.device, training=True)
        )
        labels = None if dataset.labels is None else dataset.labels[part].to(self.device)
        losses = []
        for low, high in itertools.pairwise(BINS):
            sigma, noise = self._noise(clean, start, low, high)
            with torch.inference_mode():
                error = (net(clean + sigma * noise, sigma.flatten(), labels) - clean).square().flatten(1).mean(dim=1)
            weight = (sigma.flatten() ** 2 + SIGMA_DATA**2) / (sigma.flatten() * SIGMA_DATA) ** 2
            losses.append((weight * error).double().cpu())
        return torch.stack(losses)

    def _noise(self, clean: Tensor, start: int, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Draw log-uniform noise levels in a bin ([B, 1, 1, 1]), and noise with the shape of `clean`.

        start: index of the first image; an image's noise depends only on its index.
        """
        uniform, noise = [], []
        for place in range(start, start + len(clean)):
            generator = torch.Generator().manual_seed(derived_seed(place))
            uniform.append(torch.rand([1, 1, 1], generator=generator))
            noise.append(torch.randn(clean.shape[1:], generator=generator))
        sigma = low * (high / low) ** torch.stack(uniform)
        return sigma.to(self.device), torch.stack(noise).to(self.device)
