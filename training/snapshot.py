"""Network snapshots and training states, which are written atomically and read without running any code from them.

A snapshot is a safetensors file with the averaged weights and buffers, keyed by module name; its metadata contains a
JSON header, `SnapshotInfo`. A training state holds everything needed to resume a run exactly. `load_network` loads a
denoiser in evaluation mode from a snapshot or from an NVlabs/edm network pickle.
"""

import errno
import inspect
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import safetensors
import safetensors.torch
import torch

from dnnlib.typed import Typed, parse_json, shown
from dnnlib.util import UserError, atomic_file, significant
from torch_utils.misc import place
from training.edm_pickle import EDMPickle, is_pickle, read_edm_pickle
from training.networks import MODEL_TYPES
from training.preconditioning import (
    COMPUTE_DTYPES,
    EDMPrecond,
    Preconditioned,
    VEPrecond,
    VPPrecond,
    iDDPMPrecond,
)

NETWORK_CLASSES: dict[str, type[Preconditioned]] = {
    cls.__name__: cls for cls in (VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond)
}
FORMAT_VERSION = 1
LARGEST_NUMBER: float = 10**9  # far above any network argument
_METADATA_KEY = 'snapshot'
# Thousands of images; the number has a fraction only if there are fewer than 1,000 images.
_KIMG = r'(\d{1,9}(?:\.\d{3})?)'
_SNAPSHOT_NAME = rf'network-snapshot-{_KIMG}\.safetensors'
_PICKLE_NAME = rf'network-snapshot-{_KIMG}\.pkl'
_STATE_NAME = rf'training-state-{_KIMG}\.pt'


class NetworkConfig(Typed, frozen=True):
    """How to build a network: the name of a class in `NETWORK_CLASSES`, and its keyword arguments."""

    class_name: str
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        if self.class_name not in NETWORK_CLASSES:
            raise ValueError(f'class_name must be one of {", ".join(NETWORK_CLASSES)}, not {shown(self.class_name)}')
        for name in ('img_resolution', 'img_channels'):
            if type(self.arguments.get(name)) is not int or self.arguments[name] < 1:
                raise ValueError(f'{name} must be a whole number of at least 1, not {shown(self.arguments.get(name))}')
        model_type = self.arguments.get('model_type', 'SongUNet')
        classes = (NETWORK_CLASSES[self.class_name], MODEL_TYPES.get(str(model_type)))
        for cls in filter(None, classes):
            for parameter in inspect.signature(cls).parameters.values():
                _check_number(parameter, self.arguments)

    def build(self, device: torch.device | str = 'cpu') -> Preconditioned:
        """Make the network. Its weights are drawn from the global generator; on the device 'meta', it has no weights.

        Raises ValueError if the arguments do not fit together.
        """
        with torch.device(device):
            return NETWORK_CLASSES[self.class_name](**self.arguments)


class SnapshotInfo(Typed, frozen=True):
    """The header of a snapshot.

    images: number of training images seen. precision: arithmetic used in training. ema: the weight-averaging rule.
    classes: the classes with training images, ascending; None for an unconditional network, or if unknown.
    class_sizes: number of training images in each of `classes`, or None if unknown.
    xflip: whether the network was also trained on mirrored images.
    For EDM network pickles, dataset_sha256 and dataset_size are None, ema is empty, and `images` is read from a file
    name of the form network-snapshot-<kimg>.pkl (None for other names).
    """

    network: NetworkConfig
    images: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None
    precision: str
    dataset: str | None
    dataset_sha256: str | None
    dataset_size: Annotated[int, msgspec.Meta(ge=1)] | None
    ema: dict[str, Any]
    format: int = FORMAT_VERSION
    classes: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)] | None = None
    class_sizes: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**40)]], msgspec.Meta(min_length=1)] | None = None
    xflip: bool = False

    def __post_init__(self) -> None:
        if self.format != FORMAT_VERSION:
            raise ValueError(
                f'its format is {shown(self.format)}, but this version of the toolkit reads only {FORMAT_VERSION}'
            )
        if self.precision not in COMPUTE_DTYPES:
            raise ValueError(f'precision must be one of {", ".join(COMPUTE_DTYPES)}, not {shown(self.precision)}')
        if self.classes is not None and max(self.classes) >= self.label_dim:
            raise ValueError(f'class {max(self.classes)} is not one of the {self.label_dim} classes of its network')
        if self.class_sizes is not None and len(self.class_sizes) != len(self.classes or []):
            raise ValueError('class_sizes must have one number for each entry of classes')

    @property
    def label_dim(self) -> int:
        """The network's number of classes; 0 if it is unconditional."""
        label_dim = self.network.arguments.get('label_dim', 0)
        return label_dim if type(label_dim) is int else 0

    @property
    def kimg(self) -> float | None:
        return None if self.images is None else self.images / 1000

    def epochs(self, dataset_size: int | None = None) -> float | None:
        """Passes over the training set, or None if unknown. dataset_size: size to use if the snapshot stores none."""
        size = self.dataset_size or dataset_size
        return None if self.images is None or size is None else self.images / size


def _check_number(parameter: inspect.Parameter, arguments: dict[str, Any]) -> None:
    """Raise ValueError if the argument of a numeric parameter is not a number or is out of range."""
    name, default = parameter.name, parameter.default
    if type(default) not in (int, float) or name not in arguments:
        return
    value, limit = arguments[name], LARGEST_NUMBER
    if default == math.inf:
        limit = math.inf
    elif name.endswith('dropout'):
        limit = 1
    if type(value) not in (int, float) or not -LARGEST_NUMBER <= value <= limit:
        raise ValueError(f'{name} must be a number of at most {significant(limit)}, not {shown(value)}')


def snapshot_path(run_dir: Path, images: int) -> Path:
    return run_dir / f'network-snapshot-{_kimg(images)}.safetensors'


def state_path(run_dir: Path, images: int) -> Path:
    return run_dir / f'training-state-{_kimg(images)}.pt'


def _kimg(images: int) -> str:
    return f'000000.{images:03d}' if 0 < images < 1000 else f'{images // 1000:06d}'


def _numbered(run_dir: Path, pattern: str) -> list[tuple[float, Path]]:
    matches = ((re.fullmatch(pattern, path.name), path) for path in run_dir.iterdir())
    return sorted((float(match[1]), path) for match, path in matches if match)


def list_snapshots(run_dir: Path) -> list[tuple[float, Path]]:
    """A run's snapshots as (kimg, path), oldest first; EDM pickles are listed only if no snapshot has the same kimg."""
    snapshots = dict(_numbered(run_dir, _PICKLE_NAME)) | dict(_numbered(run_dir, _SNAPSHOT_NAME))
    return sorted(snapshots.items())


def list_states(run_dir: Path) -> list[tuple[float, Path]]:
    """A run's training states as (kimg, path), oldest first."""
    return _numbered(run_dir, _STATE_NAME)


def newest_snapshot(path: str | Path) -> Path:
    """The newest snapshot of a run folder, or the path itself if it is not a folder.

    Raises UserError for a folder without snapshots.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    snapshots = list_snapshots(path)
    if not snapshots:
        raise UserError(f'{path}: this folder contains no network-snapshot-*; give a snapshot or another run folder')
    return snapshots[-1][1]


def save_network(path: Path, weights: dict[str, torch.Tensor], info: SnapshotInfo) -> None:
    """Write a snapshot. The same weights and info always give the same bytes."""
    header = msgspec.to_builtins(info)
    # If these entries have their defaults, they are omitted: the header is then the same as before the entries existed.
    header = {name: value for name, value in header.items() if name not in ('classes', 'class_sizes', 'xflip') or value}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, metadata={_METADATA_KEY: json.dumps(header, sort_keys=True)})
    with atomic_file(path) as file:
        file.write(data)


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write only the weights, as a dictionary of tensors that torch.load can read with weights_only=True."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    _save_torch(path, tensors)


def read_info(path: str | Path) -> SnapshotInfo:
    """Read a snapshot's header. Raises UserError if the file is missing, incomplete or not a snapshot."""
    return _read(newest_snapshot(path), with_weights=False)[0]


def load_network(path: str | Path, device: torch.device | str = 'cpu', precision: str | None = None) -> Preconditioned:
    """Build the network of a snapshot or EDM pickle with its averaged weights, for evaluation only.

    path: a snapshot, an EDM pickle, or a run folder, whose newest snapshot is read.
    precision: 'fp32', 'tf32', 'bf16' or 'fp16'; None means the precision used in training.
    Raises UserError if the file is missing or incomplete, or if its weights do not fit its header or are not finite.
    """
    path = newest_snapshot(path)
    info, weights = _read(path, with_weights=True)
    net = _build(path, info.network)
    _check_weights(path, net, weights)
    net.load_state_dict(weights, assign=True)
    net.set_precision(precision or info.precision)
    if info.classes is not None:
        net.class_sizes = dict(zip(info.classes, info.class_sizes or [1] * len(info.classes), strict=True))
    place(net.eval().requires_grad_(False), device, net.precision)
    return net


def _build(path: Path, network: NetworkConfig) -> Preconditioned:
    try:
        return network.build('meta')
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        reason = str(error).split('\n')[0]
        raise UserError(f'{path}: its network cannot be built: {reason}') from error


def _read(path: Path, with_weights: bool) -> tuple[SnapshotInfo, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f'{path}: no such file or folder; give a run folder, network-snapshot-* or EDM pickle')
    if is_pickle(path):
        return _read_pickle(path, with_weights)
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()} if with_weights else {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        if zipfile.is_zipfile(path):
            raise UserError(f'{path} is a ZIP archive (such as a data set), not a snapshot; give a snapshot') from error
        raise UserError(f'{path} is not a complete snapshot ({error}); use another, or train again') from error
    if _METADATA_KEY not in metadata:
        raise UserError(f'{path} is a safetensors file, but not a snapshot of this toolkit')
    info = parse_json(metadata[_METADATA_KEY], SnapshotInfo, f'{path}: its header')
    return msgspec.structs.replace(info, images=_images_of_name(path)) if info.images is None else info, weights


def _read_pickle(path: Path, with_weights: bool) -> tuple[SnapshotInfo, dict[str, torch.Tensor]]:
    pickled = read_edm_pickle(path)
    try:
        return _pickle_info(path, pickled), pickled.weights() if with_weights else {}
    except ValueError as error:
        raise UserError(f'{path} is not an EDM network pickle of a supported kind: {error}') from error


def _pickle_info(path: Path, pickled: EDMPickle) -> SnapshotInfo:
    arguments = pickled.bound_arguments(NETWORK_CLASSES.get(pickled.class_name, Preconditioned))
    return SnapshotInfo(
        network=NetworkConfig(pickled.class_name, arguments),
        images=_images_of_name(path),
        precision='fp16' if arguments.get('use_fp16') else 'fp32',
        dataset=pickled.dataset,
        dataset_sha256=None,
        dataset_size=None,
        ema={},
        xflip=pickled.xflip,
    )


def _images_of_name(path: Path) -> int | None:
    match = re.fullmatch(f'{_SNAPSHOT_NAME}|{_PICKLE_NAME}', path.name)
    return round(float(match[1] or match[2]) * 1000) if match else None


def _check_weights(path: Path, net: Preconditioned, weights: dict[str, torch.Tensor]) -> None:
    expected = net.state_dict()
    problems = [
        *(f'it lacks {name}' for name in sorted(expected.keys() - weights.keys())),
        *(f'it has {name}, which the network does not have' for name in sorted(weights.keys() - expected.keys())),
    ]
    for name in expected.keys() & weights.keys():
        has, wants = weights[name], expected[name]
        if has.shape != wants.shape or has.dtype != torch.float32:
            problems.append(f'{name} is {has.dtype} {list(has.shape)}, but must be torch.float32 {list(wants.shape)}')
    if problems:
        raise UserError(f'{path}: its tensors do not fit the network described in its header: {problems[0]}')
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f'{path}: {name} contains values that are not finite; use another snapshot')


def save_state(path: Path, state: dict[str, Any], keep: int) -> None:
    """Write a training state, then delete all but the newest `keep` >= 1 states in its folder."""
    _save_torch(path, state)
    for _, old in list_states(path.parent)[:-keep]:
        if old != path:
            old.unlink(missing_ok=True)


def _save_torch(path: Path, value: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's writer hides the underlying file error
            raise _as_os_error(error, path) from error


def _as_os_error(error: RuntimeError, path: Path) -> OSError:
    if isinstance(error.__cause__, OSError):
        return error.__cause__
    if isinstance(error.__context__, OSError):
        return error.__context__
    return OSError(errno.EIO, f'could not be written ({error})', str(path))


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state onto the CPU. Raises UserError if it is missing, incomplete or not a training state."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such file; give a training-state-*.pt from train.py')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch.load raises many kinds of exceptions for a corrupt file
        reason = str(error).split('\n')[0][:200]
        raise UserError(
            f'{path} is not a complete training state ({reason}); remove it to resume from the previous state'
        ) from error
    if not isinstance(state, dict) or type(state.get('format')) is not int or state['format'] != FORMAT_VERSION:
        raise UserError(f'{path} is not a training state of this toolkit')
    return state
