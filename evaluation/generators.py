"""What is sampled and judged: anything that makes an image of each seed. Weights are read when sampling begins."""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import UserError
from torch_utils.misc import configure_backends
from training.pipeline import load_pipeline, read_pipeline
from training.sampling import GeneratedBatch, SamplerOptions, generate_images
from training.snapshot import load_network, read_info

# From batches of seeds to their images.
Generate = Callable[[list[list[int]]], Iterator[GeneratedBatch]]


class Model(ABC):
    """A generative model on disk, and how it is sampled.

    path: of its file or folder. shape: (C, H, W) of its images. kimg: thousands of training images that it has seen, or
    None where nothing says so. sampler, class_index, precision: as in a record.
    """

    path: Path
    shape: tuple[int, int, int]
    kimg: float | None = None
    sampler: dict[str, Any]
    class_index: int | None = None
    precision: str

    @property
    def name(self) -> str:
        return self.path.name

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of its file or files."""
        return self._hash()

    @abstractmethod
    def _hash(self) -> str: ...

    def epochs(self, dataset_size: int) -> float | None:
        """Passes over its training set, or over one of this size where nothing says how large it was."""
        return None

    @abstractmethod
    def load(self) -> Generate:
        """Read the weights; what is returned samples with them."""


class SnapshotModel(Model):
    """A network snapshot, or a network pickle of EDM's.

    class_index: of all images, or None to draw a class for each seed. precision: None keeps that of the training.
    Raises UserError for what is no snapshot, and for a class that the network does not have.
    """

    def __init__(
        self,
        path: Path,
        sampler: SamplerOptions,
        device: torch.device | str,
        class_index: int | None = None,
        precision: str | None = None,
    ):
        self.path, self.device = path, device
        self.class_index, self.options = class_index, sampler
        self.info = read_info(path)
        arguments = self.info.network.arguments
        self.shape = arguments['img_channels'], arguments['img_resolution'], arguments['img_resolution']
        check_class(class_index, arguments.get('label_dim', 0))
        self.kimg = self.info.kimg
        self.precision = precision or self.info.precision
        given = {key: str(value) if value == float('inf') else value for key, value in sampler.given().items()}
        self.sampler = {'name': sampler.name, **given}

    def _hash(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def epochs(self, dataset_size: int) -> float | None:
        return self.info.epochs(dataset_size)

    def load(self) -> Generate:
        net = load_network(self.path, self.device, self.precision)
        configure_backends(net.precision)
        return lambda batches: generate_images(net, batches, self.options, self.device, self.class_index)


class PipelineModel(Model):
    """An unconditional pipeline that diffusers saved in a folder. num_steps: None takes the scheduler's usual number.

    Raises UserError where the folder holds another kind of pipeline, or diffusers is not installed.
    """

    precision = 'fp32'

    def __init__(self, path: Path, num_steps: int | None, device: torch.device | str):
        self.path, self.device = path, device
        self.description = read_pipeline(path)
        self.shape = self.description.shape
        self.num_steps = num_steps or self.description.usual_steps
        self.sampler = {'name': self.description.scheduler, 'num_steps': self.num_steps}

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def _hash(self) -> str:
        return self.description.sha256()

    def load(self) -> Generate:
        configure_backends(self.precision)
        pipeline = load_pipeline(self.description, self.device)
        return lambda batches: pipeline.generate(batches, self.num_steps)


def check_class(class_index: int | None, label_dim: int) -> None:
    """Raise UserError where a class is asked for that a network does not have."""
    if class_index is None:
        return
    if not label_dim:
        raise UserError(f'--class={class_index}: the network is unconditional; leave --class out')
    if class_index >= label_dim:
        raise UserError(f'--class={class_index}: the network has {label_dim} classes, 0 to {label_dim - 1}')
