"""Network snapshots and training states: written whole or not at all, and read without running anything in them.

A snapshot is a safetensors file: the averaged weights and buffers under their module names, and in its metadata one
JSON text with the class and arguments of the network, the training set, the progress and the EMA rule. A training
state is what an exact continuation needs. `load_network` gives an evaluation-mode denoiser.
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
    """What a snapshot's header says. images: training images seen. precision: that of the training."""

    network: NetworkConfig
    images: int
    precision: str
    dataset: str
    dataset_sha256: str
    dataset_size: int
    ema: dict[str, Any]

    @property
    def kimg(self) -> float:
        return self.images / 1000

    @property
    def epochs(self) -> float:
        return self.images / self.dataset_size


def snapshot_path(run_dir: Path, images: int) -> Path:
    return run_dir / f'network-snapshot-{images // 1000:06d}.safetensors'


def state_path(run_dir: Path, images: int) -> Path:
    return run_dir / f'training-state-{images // 1000:06d}.pt'


def _numbered(run_dir: Path, pattern: str) -> list[tuple[int, Path]]:
    matches = ((re.fullmatch(pattern, path.name), path) for path in run_dir.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def list_snapshots(run_dir: Path) -> list[tuple[int, Path]]:
    """The snapshots of a run as (kimg, path), oldest first."""
    return _numbered(run_dir, r'network-snapshot-(\d+)\.safetensors')


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


def read_info(path: str | Path) -> SnapshotInfo:
    """Read a snapshot's header. Raises UserError where the file is missing, cut short or not a snapshot."""
    return _read(Path(path), with_weights=False)[0]


def load_network(path: str | Path, device: torch.device | str = 'cpu', precision: str | None = None) -> Preconditioned:
    """Build the network of a snapshot with its averaged weights, in evaluation mode, without gradients.

    precision: 'fp32', 'tf32', 'bf16' or 'fp16'; None keeps that of the training.
    Raises UserError where the file is missing, cut short, or holds another network than its header says.
    """
    path = Path(path)
    info, weights = _read(path, with_weights=True)
    _check_bounds(path, info.network)
    try:
        net = info.network.build('meta')
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(
            f'{path}: its network cannot be built ({error}); it is not a snapshot of this toolkit'
        ) from error
    _check_weights(path, net, weights)
    net.load_state_dict(weights, assign=True)
    net.set_precision(precision or info.precision)
    place(net.eval().requires_grad_(False), device)
    return net


def _read(path: Path, with_weights: bool) -> tuple[SnapshotInfo, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f'{path}: no such file; a snapshot is a network-snapshot-*.safetensors of train.py')
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()} if with_weights else {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f'{path}: not a whole snapshot ({error}); take another, or train again') from error
    if _METADATA_KEY not in metadata:
        raise UserError(f'{path}: a safetensors file, but not a snapshot of this toolkit')
    try:
        return _parse_header(json.loads(metadata[_METADATA_KEY])), weights
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f'{path}: its header is not that of a snapshot of this toolkit ({error})') from error


def _parse_header(header: dict[str, Any]) -> SnapshotInfo:
    if header.pop('format') != FORMAT_VERSION:
        raise ValueError('another version of the format')
    network = NetworkConfig(**header.pop('network'))
    if network.class_name not in NETWORK_CLASSES:
        raise ValueError(f'unknown class {network.class_name!r}')
    if header['precision'] not in COMPUTE_DTYPES:
        raise ValueError(f'unknown precision {header["precision"]!r}')
    if not (
        isinstance(header['images'], int) and isinstance(header['dataset_size'], int) and header['dataset_size'] > 0
    ):
        raise ValueError('its counts are not whole numbers')
    return SnapshotInfo(network=network, **header)


def _check_bounds(path: Path, network: NetworkConfig) -> None:
    arguments = network.arguments
    too_large = [name for name, most in _MAX_VALUES.items() if _magnitude(arguments.get(name, 0)) > most]
    for name in ('channel_mult', 'attn_resolutions', 'resample_filter'):
        if len(arguments.get(name) or ()) > _MAX_LEVELS:
            too_large.append(name)
    if too_large:
        raise UserError(f'{path}: its network has an impossible {too_large[0]}; it is not a snapshot of this toolkit')


def _magnitude(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else math.inf


def _check_weights(path: Path, net: Preconditioned, weights: dict[str, torch.Tensor]) -> None:
    expected = net.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        name = (missing or unknown)[0]
        problem = f'it lacks {name}' if missing else f'it has a {name} that the network does not'
        raise UserError(f'{path}: its tensors are those of another architecture than its header says: {problem}')
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape or weights[name].dtype != torch.float32:
            has, wants = list(weights[name].shape), list(tensor.shape)
            raise UserError(
                f'{path}: its tensors are those of another architecture than its header says: '
                f'{name} is {weights[name].dtype} {has}, and should be torch.float32 {wants}'
            )


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state, then drop all but the newest two of its folder."""
    with atomic_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's writer turns the file's refusal into its own error
            raise _as_os_error(error, path) from error
    for _, old in list_states(path.parent)[:-STATES_KEPT]:
        if old != path:
            old.unlink(missing_ok=True)


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
