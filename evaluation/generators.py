"""Generators (anything that makes an image from a seed): snapshots, diffusers pipelines, and closed-form denoisers.

To add a kind, write a class, add a line to `GENERATORS`, and add an option of that name.
"""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dataset_utils import Source, open_source
from dnnlib.download import fetch
from dnnlib.download_options import DownloadOptions
from dnnlib.typed import read_json
from dnnlib.util import UserError, file_sha256
from torch_utils import distributed
from torch_utils.misc import configure_backends
from training.closed_form import files_of, make_denoiser, require_levels
from training.closed_form.closed_form import compute_device
from training.closed_form.rows import ImageRows, rows_of
from training.config import OPTIONS_FILE
from training.dataset import count_labels
from training.denoiser import Denoiser
from training.pipeline import load_pipeline, read_pipeline
from training.sampling import GeneratedBatch, SamplerOptions, check_class, generate_images, noise_range
from training.snapshot import SnapshotInfo, list_snapshots, load_network, newest_snapshot, read_info

Device = torch.device | str


@dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    class_index: the class of all images; if None, a class is drawn for each seed. class_prior: how classes are drawn,
    either 'uniform' (over classes with training images) or 'data' (in proportion to their numbers of training images).
    precision: the denoiser's precision; None stands for the precision in which it was trained. num_steps: a pipeline's
    number of steps; None stands for its scheduler's default.
    The remaining fields are used only by closed forms. data: the training set. conditional: whether to use classes if
    class_index is None. sharded: whether to spread the training set over the ranks, which then work on every batch
    together.
    """

    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    class_index: int | None = None
    precision: str | None = None
    num_steps: int | None = None
    data: str | None = None
    conditional: bool = False
    sharded: bool = False
    class_prior: str = 'uniform'

    @classmethod
    def of(cls, options: object, **others: Any) -> 'Sampling':
        """Take fields from the attributes of `options` with the same names; `others` adds or overrides fields."""
        known = {name: value for name, value in vars(options).items() if name in cls.__annotations__}
        return cls(**{**known, **others})


class Generator(ABC):
    """Makes one image for each seed. Weights are read when sampling begins.

    name: the generator's name in records. where: the generator's path or description, for messages. shape: an image's
    shape (C, H, W). kimg: thousands of training images seen, or None if unknown. sampler, class_index, precision:
    settings that appear in records. label_dim: number of classes. classes: the classes to draw from; None stands for
    all. If `classes` maps classes to numbers of training images, classes are drawn in proportion to these numbers.
    trained_on: the content hash of its training set, if known. xflip: whether it was also trained on mirrored images.
    """

    name: str
    where: str
    shape: tuple[int, int, int]
    kimg: float | None = None
    sampler: dict[str, Any]
    class_index: int | None = None
    label_dim = 0
    classes: dict[int, int] | list[int] | None = None
    draws_any_class = True
    precision: str = 'fp32'
    trained_on: str | None = None
    xflip: bool = False

    def __init__(self, sampling: Sampling, device: Device):
        self.sampling, self.device = sampling, device
        given = sampling.sampler.given().items()
        self.sampler = {'name': sampling.sampler.name}
        self.sampler |= {name: str(value) if value == float('inf') else value for name, value in given}

    @functools.cached_property
    def sha256(self) -> str:
        return self._hash()

    @abstractmethod
    def _hash(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the images except their seeds, as values that JSON can store."""
        sampler = {'sampler' if name == 'name' else name: value for name, value in self.sampler.items()}
        own = {'class_index': self.class_index, **self.prior, 'precision': self.precision}
        return {'generator': self.name, 'sha256': self.sha256, **sampler, **own}

    @property
    def prior(self) -> dict[str, str]:
        """The record's entry on how classes are drawn; empty if they are drawn uniformly."""
        prior = self.sampling.class_prior
        return {} if prior == 'uniform' else {'class_prior': prior}

    @abstractmethod
    def denoiser(self) -> Denoiser:
        """The denoiser, ready to evaluate. Raises UserError if the generator has none."""

    def epochs(self, dataset_size: int) -> float | None:
        """The number of epochs trained, None if unknown.

        dataset_size: the training-set size to assume if the generator does not store it.
        """
        return None

    def draw_unknown_classes_from(self, class_sizes: Mapping[int, int] | None) -> None:
        """Draw from the classes in `class_sizes`, unless the generator knows its own classes.

        class_sizes: number of training images by class.
        """
        if self.draws_any_class and class_sizes and max(class_sizes) < self.label_dim:
            self._draw_classes_from(class_sizes)

    def _draw_classes_from(self, class_sizes: Mapping[int, int]) -> None:
        self.draws_any_class = False
        if self.class_index is not None and self.class_index not in class_sizes:
            raise UserError(
                f'`class_index`={self.class_index}: no training image has this class; '
                f'{len(class_sizes)} classes have training images'
            )
        if self.class_index is None and self.sampling.class_prior == 'data':
            self.classes = dict(class_sizes)
        elif self.class_index is None:
            self.classes = list(class_sizes) if len(class_sizes) < self.label_dim else None

    def _check_prior(self) -> None:
        """Raise UserError if `class_prior` is 'data', and no classes are drawn or the class sizes are unknown."""
        if self.sampling.class_prior == 'uniform':
            return
        if not self.label_dim or self.class_index is not None:
            raise UserError(f'`class_prior`: {self.where} does not draw classes; remove `class_prior`')
        if self.draws_any_class:
            raise UserError(
                f'`class_prior`: {self.where} does not store the number of training images per class; set it to uniform'
            )

    def generate(self, batches: Sequence[Sequence[int]]) -> Iterator[GeneratedBatch]:
        """Yield the images of each batch of seeds."""
        if batches:
            self._check_prior()
            sampler, class_index = self.sampling.sampler, self.sampling.class_index
            yield from generate_images(self.denoiser(), batches, sampler, self.device, class_index, self.classes)


class SnapshotGenerator(Generator):
    """A network snapshot: a file, the newest snapshot in a run folder, or one of EDM's network pickles.

    Raises UserError for a file of another kind, and for a class that the network does not have.
    """

    def __init__(self, path: str | Path, sampling: Sampling, device: Device):
        super().__init__(sampling, device)
        self.path = newest_snapshot(path)
        self.where, self.name, self.info = str(self.path), self.path.name, read_info(self.path)
        arguments = self.info.network.arguments
        self.shape = arguments['img_channels'], arguments['img_resolution'], arguments['img_resolution']
        self.class_index, self.kimg = sampling.class_index, self.info.kimg
        self.precision = sampling.precision or self.info.precision
        self.trained_on, self.xflip = self.info.dataset_sha256, self.info.xflip or trained_with_xflip(self.path)
        self.label_dim = self.info.label_dim
        check_class(self.class_index, self.label_dim)
        self._draw_known_classes(self.info)

    def _draw_known_classes(self, info: SnapshotInfo) -> None:
        """Draw from the classes stored in the snapshot; older snapshots may lack classes or class_sizes."""
        if info.classes is not None and info.class_sizes is not None:
            self._draw_classes_from(dict(zip(info.classes, info.class_sizes, strict=True)))
        elif info.classes is not None and self.sampling.class_prior == 'uniform':
            self._draw_classes_from(dict.fromkeys(info.classes, 1))

    def _hash(self) -> str:
        return file_sha256(self.path)

    def epochs(self, dataset_size: int) -> float | None:
        return self.info.epochs(dataset_size)

    def denoiser(self) -> Denoiser:
        net = load_network(self.path, self.device, self.precision)
        configure_backends(net.precision)
        return net


class PipelineGenerator(Generator):
    """An unconditional pipeline saved by diffusers in a folder; it samples with its own scheduler.

    Raises UserError if the folder holds another kind of pipeline, or if diffusers is not installed.
    """

    def __init__(self, path: str | Path, sampling: Sampling, device: Device):
        super().__init__(sampling, device)
        self.description = read_pipeline(Path(path))
        self.name, self.where = Path(path).resolve().name, str(path)
        self.shape = self.description.shape
        self.num_steps = sampling.num_steps or self.description.usual_steps
        self.sampler = {'name': self.description.scheduler, 'num_steps': self.num_steps}

    def _hash(self) -> str:
        return self.description.sha256()

    def denoiser(self) -> Denoiser:
        raise UserError(f'`pipeline`={self.where} cannot denoise at every noise level; give a snapshot')

    def generate(self, batches: Sequence[Sequence[int]]) -> Iterator[GeneratedBatch]:
        configure_backends(self.precision)
        yield from load_pipeline(self.description, self.device).generate(batches, self.num_steps)


class ClosedFormGenerator(Generator):
    """A closed-form denoiser fitted to the training set `sampling.data`; it uses labels only if classes are requested.

    Raises UserError for an unknown name, a missing training set, and a class without training images.
    """

    def __init__(self, name: str | Path, sampling: Sampling, device: Device):
        super().__init__(sampling, compute_device(device))
        self.name, self.where = str(name), f'the denoiser {name}'
        self.files = files_of(self.name)
        if sampling.data is None:
            raise UserError(f'`denoiser`={name} requires `data` (its training set)')
        self.source = open_source(sampling.data, 'data')
        height, width, channels = self.source.shape
        self.shape = channels, height, width
        self.class_index, self.precision = sampling.class_index, sampling.precision or 'fp32'
        self.labels = class_labels(self.source, sampling)
        if self.labels is not None:
            self.label_dim = int(self.labels.max()) + 1
            self._draw_classes_from(count_labels(self.labels) or {})

    def _hash(self) -> str:
        hashes = [self.source.sha256(), *map(file_sha256, self.files)]
        return hashes[0] if not self.files else hashlib.sha256(''.join(hashes).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        return {'dataset': self.source.name, **super().settings, 'conditional': self.labels is not None}

    @functools.cached_property
    def rows(self) -> ImageRows:
        """The training set (or this rank's share of it) on the device."""
        return rows_of(self.source, self.labels, torch.device(self.device), self.sampling.sharded)

    def denoiser(self) -> Denoiser:
        configure_backends(self.precision)
        parameters: dict[str, Any] = {} if self.sampling.precision is None else {'precision': self.sampling.precision}
        return make_denoiser(self.name, self.rows, **parameters)

    def require_levels(self) -> None:
        """Raise UserError if the sampler's noise levels are outside the range of a window table."""
        require_levels(self.name, *noise_range(self.sampling.sampler))

    def generate(self, batches: Sequence[Sequence[int]]) -> Iterator[GeneratedBatch]:
        self.require_levels()
        return super().generate(batches)


def class_labels(source: Source, sampling: Sampling) -> torch.Tensor | None:
    """The training set's labels, int64 [N]; None if classes are not used. Raises UserError if labels are missing."""
    if not sampling.conditional and sampling.class_index is None:
        return None
    if source.labels is None:
        raise UserError(f'`conditional` and `class_index` require labels, but {source.name} has none; remove both')
    return torch.tensor(source.labels)


def generators_of_run(path: str | Path, sampling: Sampling, device: Device) -> list[Generator]:
    """All snapshots of a run except the one at 0 kimg, newest first. Raises UserError if there are none."""
    run_dir = Path(path)
    if not run_dir.is_dir():
        raise UserError(f'`expdir`={run_dir}: no such folder; give a run folder written by train.py')
    paths = [path for kimg, path in reversed(list_snapshots(run_dir)) if kimg]
    if not paths:
        raise UserError(
            f'`expdir`={run_dir} contains no network-snapshot-*.safetensors or .pkl after 0 kimg; train the run first'
        )
    return [SnapshotGenerator(path, sampling, device) for path in paths]


# For each argument, the function that takes its value and makes a generator; for a run, it makes several.
GENERATORS: dict[str, Callable[[str | Path, Sampling, Device], Generator | list[Generator]]] = {
    'expdir': generators_of_run,
    'network': SnapshotGenerator,
    'pipeline': PipelineGenerator,
    'denoiser': ClosedFormGenerator,
}


def make_generators(named: object, sampling: Sampling, device: Device) -> list[Generator]:
    """Make the generators that `named` specifies.

    named: an object with an attribute for each key of `GENERATORS`; at most one of these attributes is not None.
    """
    for argument, make in GENERATORS.items():
        value = getattr(named, argument)
        if value is not None:
            made = make(value, sampling, device)
            return made if isinstance(made, list) else [made]
    return []


def fetched(network: str, download: DownloadOptions | None = None) -> Path:
    """The path of the network's file; a URL is downloaded once for all ranks. Raises UserError like `fetch`."""
    download = download or DownloadOptions()
    return distributed.on_main(lambda: fetch(network, download.cache_dir, download.sha256))


def trained_with_xflip(snapshot: Path) -> bool:
    """Whether the options in the snapshot's run folder enable mirrored images; False if the folder has no options."""
    saved = read_json(snapshot.parent / OPTIONS_FILE, dict[str, Any]) or {}
    options = saved.get('options', saved.get('dataset_kwargs'))
    return isinstance(options, dict) and options.get('xflip') is True
