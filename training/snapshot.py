"""Network snapshots and training states: written whole or not at all, and read without running anything in them.

A snapshot is a safetensors file: the averaged weights and buffers under their module names, and in its metadata one
JSON text with the class and arguments of the network, the training set, the progress and the EMA rule. A training
state is what an exact continuation needs. `load_network` gives an evaluation-mode denoiser, of a snapshot or of a
network pickle of NVlabs/edm.
"""

import dataclasses
import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dnnlib.util import UserError, atomic_file
from torch_utils.misc import place
from training.edm_pickle import EDMPickle, is_pickle, read_edm_pickle
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
STATES_KEPT = 2
_METADATA_KEY = 'snapshot'
_SNAPSHOT_NAME = r'network-snapshot-(\d{1,9})\.safetensors'
_PICKLE_NAME = r'network-snapshot-(\d{1,9})\.pkl'
# Bounds on what a file may ask to be built before its tensors are compared; far above any network in use.
_MAX_VALUES = {'num_blocks': 256, 'img_resolution': 8192, 'M': 100_000}
_MAX_LEVELS = 12


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """How to build a network: the name of a class of `NETWORK_CLASSES`, and its keyword arguments."""

    class_name: str
    arguments: dict[str, Any]

    def build(self, device: torch.device | str = 'cpu') -> Preconditioned:
        """Make the network with random weights from the global generator; on 'meta' without any.

        Raises ValueError when the arguments do not fit together.
        """
        with torch.device(device):
            return NETWORK_CLASSES[self.class_name](**self.arguments)


@dataclasses.dataclass(frozen=True)
class SnapshotInfo:
    """What a snapshot's header says. images: training images seen. precision: that of the training.

    A network pickle of EDM knows less: its images are those of its file name, network-snapshot-<kimg>.pkl, or None;
    dataset_sha256 and dataset_size are None, its EMA rule is empty.
    """

    network: NetworkConfig
    images: int | None
    precision: str
    dataset: str | None
    dataset_sha256: str | None
    dataset_size: int | None
    ema: dict[str, Any]

    @property
    def kimg(self) -> float | None:
        return None if self.images is None else self.images / 1000

    def epochs(self, dataset_size: int | None = None) -> float | None:
        """Passes over the training set; over one of this size where the snapshot does not say how large it was."""
        size = self.dataset_size or dataset_size
        return None if self.images is None or size is None else self.images / size


def snapshot_path(run_dir: Path, images: int) -> Path:
    return run_dir / f'network-snapshot-{images // 1000:06d}.safetensors'


def state_path(run_dir: Path, images: int) -> Path:
    return run_dir / f'training-state-{images // 1000:06d}.pt'


def _numbered(run_dir: Path, pattern: str) -> list[tuple[int, Path]]:
    matches = ((re.fullmatch(pattern, path.name), path) for path in run_dir.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def list_snapshots(run_dir: Path) -> list[tuple[int, Path]]:
    """The snapshots of a run as (kimg, path), oldest first; a pickle of EDM's only where no snapshot is at its kimg."""
    snapshots = dict(_numbered(run_dir, _PICKLE_NAME)) | dict(_numbered(run_dir, _SNAPSHOT_NAME))
    return sorted(snapshots.items())


def list_states(run_dir: Path) -> list[tuple[int, Path]]:
    """The training states of a run as (kimg, path), oldest first."""
    return _numbered(run_dir, r'training-state-(\d+)\.pt')


def save_network(path: Path, weights: dict[str, torch.Tensor], info: SnapshotInfo) -> None:
    """Write a snapshot. The same weights and info give the same bytes."""
    header = {'format': FORMAT_VERSION, **dataclasses.asdict(info)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, metadata={_METADATA_KEY: json.dumps(header, sort_keys=True)})
    with atomic_file(path) as file:
        file.write(data)


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write weights alone, as a dictionary of tensors that torch.load reads with weights_only."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    _save_torch(path, tensors)


def read_info(path: str | Path) -> SnapshotInfo:
    """Read a snapshot's header. Raises UserError where the file is missing, cut short or not a snapshot."""
    return _read(Path(path), with_weights=False)[0]


def load_network(path: str | Path, device: torch.device | str = 'cpu', precision: str | None = None) -> Preconditioned:
    """Build the network of a snapshot or of a pickle of EDM's with its averaged weights, for evaluation only.

    precision: 'fp32', 'tf32', 'bf16' or 'fp16'; None keeps that of the training.
    Raises UserError where the file is missing, cut short, or holds another network than its header says.
    """
    info, weights = read_snapshot(path)
    net = _build(Path(path), info.network)
    _check_weights(Path(path), net, weights)
    net.load_state_dict(weights, assign=True)
    net.set_precision(precision or info.precision)
    place(net.eval().requires_grad_(False), device)
    return net


def read_snapshot(path: str | Path) -> tuple[SnapshotInfo, dict[str, torch.Tensor]]:
    """Read a snapshot's header and its weights as they are in the file. Raises UserError as `read_info` does."""
    return _read(Path(path), with_weights=True)


def _build(path: Path, network: NetworkConfig) -> Preconditioned:
    _check_bounds(path, network)
    try:
        return network.build('meta')
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        reason = str(error).split('\n')[0]
        raise UserError(f'{path}: its network cannot be built ({reason}); it is not one of this toolkit') from error


def _read(path: Path, with_weights: bool) -> tuple[SnapshotInfo, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f'{path}: no such file; a snapshot is a network-snapshot-*.safetensors of train.py')
    if is_pickle(path):
        return _read_pickle(path, with_weights)
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()} if with_weights else {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f'{path}: not a whole snapshot ({error}); take another, or train again') from error
    if _METADATA_KEY not in metadata:
        raise UserError(f'{path}: a safetensors file, but not a snapshot of this toolkit')
    try:
        info = _parse_header(json.loads(metadata[_METADATA_KEY]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f'{path}: its header is not that of a snapshot of this toolkit ({error})') from error
    return (dataclasses.replace(info, images=_images_of_name(path)) if info.images is None else info), weights


def _read_pickle(path: Path, with_weights: bool) -> tuple[SnapshotInfo, dict[str, torch.Tensor]]:
    pickled = read_edm_pickle(path)
    try:
        return _pickle_info(path, pickled), pickled.weights() if with_weights else {}
    except ValueError as error:
        raise UserError(f'{path}: not a network pickle of EDM that this toolkit knows: {error}') from error


def _pickle_info(path: Path, pickled: EDMPickle) -> SnapshotInfo:
    network_class = NETWORK_CLASSES.get(pickled.class_name)
    if network_class is None:
        raise ValueError(
            f'its network is a {pickled.class_name[:100]!a}, and must be one of {", ".join(NETWORK_CLASSES)}'
        )
    arguments = pickled.bound_arguments(network_class)
    for name in ('img_resolution', 'img_channels'):
        if type(arguments.get(name)) is not int:
            raise ValueError(f'it does not say its {name}')
    return SnapshotInfo(
        network=NetworkConfig(pickled.class_name, arguments),
        images=_images_of_name(path),
        precision='fp16' if arguments.get('use_fp16') else 'fp32',
        dataset=pickled.dataset,
        dataset_sha256=None,
        dataset_size=None,
        ema={},
    )


def _images_of_name(path: Path) -> int | None:
    match = re.fullmatch(f'{_SNAPSHOT_NAME}|{_PICKLE_NAME}', path.name)
    return int(match[1] or match[2]) * 1000 if match else None


def _parse_header(header: dict[str, Any]) -> SnapshotInfo:
    if header.pop('format') != FORMAT_VERSION:
        raise ValueError('another version of the format')
    network = NetworkConfig(**header.pop('network'))
    if network.class_name not in NETWORK_CLASSES:
        raise ValueError(f'unknown class {network.class_name!r}')
    if header['precision'] not in COMPUTE_DTYPES:
        raise ValueError(f'unknown precision {header["precision"]!r}')
    for name, least in (('images', 0), ('dataset_size', 1)):
        if header[name] is not None and not (isinstance(header[name], int) and header[name] >= least):
            raise ValueError('its counts are not whole numbers')
    return SnapshotInfo(network=network, **header)


def _check_bounds(path: Path, network: NetworkConfig) -> None:
    arguments = network.arguments
    too_large = [name for name, most in _MAX_VALUES.items() if _magnitude(arguments.get(name, 0)) > most]
    for name in ('channel_mult', 'attn_resolutions', 'resample_filter'):
        values = arguments.get(name) or ()
        if not isinstance(values, list | tuple) or len(values) > _MAX_LEVELS:
            too_large.append(name)
    if too_large:
        raise UserError(f'{path}: its network has an impossible {too_large[0]}; it is not one of this toolkit')


def _magnitude(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else math.inf


def _check_weights(path: Path, net: Preconditioned, weights: dict[str, torch.Tensor]) -> None:
    expected = net.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        name = (missing or unknown)[0]
        problem = f'it lacks {name}' if missing else f'it has a {name} that the network does not'
        raise UserError(f'{path}: its tensors are those of another architecture than its arguments say: {problem}')
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape or weights[name].dtype != torch.float32:
            has, wants = list(weights[name].shape), list(tensor.shape)
            raise UserError(
                f'{path}: its tensors are those of another architecture than its arguments say: '
                f'{name} is {weights[name].dtype} {has}, and should be torch.float32 {wants}'
            )


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state, then drop all but the newest two of its folder."""
    _save_torch(path, state)
    for _, old in list_states(path.parent)[:-STATES_KEPT]:
        if old != path:
            old.unlink(missing_ok=True)


def _save_torch(path: Path, value: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's writer turns the file's refusal into its own error
            raise _as_os_error(error, path) from error


def _as_os_error(error: RuntimeError, path: Path) -> OSError:
    if isinstance(error.__cause__, OSError):
        return error.__cause__
    if isinstance(error.__context__, OSError):
        return error.__context__
    return OSError(errno.EIO, f'could not be written ({error})', str(path))


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state onto the CPU. Raises UserError where it is missing, cut short or of something else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such file; a training state is a training-state-*.pt of train.py')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch.load has no error of its own for a broken file
        reason = str(error).split('\n')[0][:200]
        raise UserError(
            f'{path}: not a whole training state ({reason}); remove it, and the one before it is taken'
        ) from error
    if not isinstance(state, dict) or state.get('format') != FORMAT_VERSION:
        raise UserError(f'{path}: not a training state of this toolkit')
    return state
