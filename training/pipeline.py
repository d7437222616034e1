"""Unconditional diffusers pipelines saved in folders. `read_pipeline` describes one, and `load_pipeline` loads it.

Only data is read from the folder. Classes must be on a short list and are built from their recorded arguments; weights
must be safetensors. Nothing is downloaded, and no code from the folder is run. The diffusers package is needed only for
sampling.
"""

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dnnlib.typed import shown
from dnnlib.util import UserError, file_sha256
from training.sampling import GeneratedBatch, StackedRandomGenerator, to_uint8

PIPELINES = ('DDPMPipeline', 'DDIMPipeline')
# Supported schedulers, each with its usual number of steps.
SCHEDULERS = {'DDPMScheduler': 1000, 'DDIMScheduler': 50, 'EDMEulerScheduler': 18, 'EDMDPMSolverMultistepScheduler': 18}
NETWORK = 'UNet2DModel'
WEIGHTS_NAME = 'diffusion_pytorch_model.safetensors'
_MAX_JSON_BYTES = 1 << 20
# Limits on the network that a folder can request, far above any pipeline in use.
_MAX_LEVELS, _MAX_LAYERS, _MAX_NUMBER = 12, 64, 10_000
# Names of attention weights in pipelines from 2022, and their current names.
_OLD_NAMES = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


@dataclass(frozen=True)
class PipelineDescription:
    """The content of a pipeline's files, except its weights. shape: the shape (C, H, W) of its images."""

    folder: Path
    scheduler: str
    scheduler_arguments: dict[str, Any]
    network_arguments: dict[str, Any]
    files: tuple[Path, ...]  # in this order: the index, the two configurations, the weights

    @property
    def shape(self) -> tuple[int, int, int]:
        side = self.network_arguments['sample_size']
        side = side if isinstance(side, int) else side[0]
        return self.network_arguments['in_channels'], side, side

    @property
    def usual_steps(self) -> int:
        return SCHEDULERS[self.scheduler]

    def sha256(self) -> str:
        """A single hash that covers all files."""
        return hashlib.sha256(b''.join(bytes.fromhex(file_sha256(path)) for path in self.files)).hexdigest()


def read_pipeline(folder: Path) -> PipelineDescription:
    """Read a pipeline without its weights. Raises UserError if the folder has no pipeline, or an unsupported one."""
    if not folder.is_dir():
        raise UserError(f'`pipeline`={folder}: no such folder; give one that diffusers wrote with save_pretrained')
    index_path = folder / 'model_index.json'
    index = _read_json(folder, index_path)
    name = index.get('_class_name')
    parts = {key: value for key, value in index.items() if not key.startswith('_')}
    if name not in PIPELINES or parts.keys() != {'scheduler', 'unet'}:
        raise UserError(
            f'`pipeline`={folder}: its model_index.json names {shown(name)} with {shown(", ".join(sorted(parts)))}; '
            f'only {" and ".join(PIPELINES)} with a scheduler and a unet are supported'
        )
    scheduler = _class_of(folder, parts['scheduler'], tuple(SCHEDULERS))
    _class_of(folder, parts['unet'], (NETWORK,))
    scheduler_path = _part(folder, 'scheduler') / 'scheduler_config.json'
    network_path = _part(folder, 'unet') / 'config.json'
    weights = _part(folder, 'unet') / WEIGHTS_NAME
    if not weights.is_file():
        raise UserError(
            f'`pipeline`={folder}: {weights.relative_to(folder)} is missing, and no other weight format is supported; '
            f'save the pipeline with safe_serialization=True'
        )
    description = PipelineDescription(
        folder,
        scheduler,
        _arguments(folder, scheduler_path, scheduler),
        _arguments(folder, network_path, NETWORK),
        (index_path, scheduler_path, network_path, weights),
    )
    _check_network(description)
    return description


def _part(folder: Path, name: str) -> Path:
    """The folder of a pipeline component: its own subfolder, or the top folder in old pipelines."""
    return folder / name if (folder / name).is_dir() else folder


def _read_json(folder: Path, path: Path) -> dict[str, Any]:
    where = f'`pipeline`={folder}: {path.relative_to(folder)}'
    if not path.is_file():
        raise UserError(f'{where} is missing; give a folder that diffusers wrote with save_pretrained')
    try:
        with open(path, 'rb') as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        content = json.loads(data) if len(data) <= _MAX_JSON_BYTES else None
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where} is not valid JSON; save the pipeline again') from error
    if not isinstance(content, dict):
        raise UserError(f'{where} does not describe a pipeline component; save the pipeline again')
    return content


def _class_of(folder: Path, named: Any, allowed: Sequence[str]) -> str:
    """The class name in an index entry ["diffusers", "Class"]. Raises UserError if the class is not in `allowed`."""
    if not isinstance(named, list) or len(named) != 2 or named[0] != 'diffusers' or named[1] not in allowed:
        raise UserError(
            f'`pipeline`={folder}: its model_index.json asks for {shown(named)}; only these diffusers classes are '
            f'supported: {", ".join(allowed)}'
        )
    return named[1]


def _arguments(folder: Path, path: Path, class_name: str) -> dict[str, Any]:
    content = _read_json(folder, path)
    named = content.get('_class_name', class_name)
    if named != class_name:
        raise UserError(
            f'`pipeline`={folder}: {path.relative_to(folder)} describes {shown(named)}, '
            f'but model_index.json names {class_name}; save the pipeline again'
        )
    arguments = {key: value for key, value in content.items() if not key.startswith('_')}
    for key, value in arguments.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not abs(number) <= _MAX_NUMBER:
                raise UserError(
                    f'`pipeline`={folder}: {key} = {shown(value)} in {path.relative_to(folder)} is outside '
                    f'-{_MAX_NUMBER} to {_MAX_NUMBER}; save the pipeline again'
                )
    return arguments


def _check_network(description: PipelineDescription) -> None:
    arguments, where = description.network_arguments, f'`pipeline`={description.folder}: its unet'
    size, channels = arguments.get('sample_size'), arguments.get('in_channels', 3)
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise UserError(f'{where} does not specify sample_size, the side of its images')
    if sides[0] != sides[1] or sides[0] < 1:
        raise UserError(f'{where} makes {sides[1]}x{sides[0]} images; only square images can be evaluated')
    if channels not in (1, 3):
        raise UserError(
            f'{where} makes images with {shown(channels)} channels; only 1 (grey) or 3 (RGB) can be evaluated'
        )
    if arguments.get('num_class_embeds') is not None or arguments.get('class_embed_type') is not None:
        raise UserError(f'{where} is class-conditional; only unconditional pipelines are supported')
    levels, layers = arguments.get('block_out_channels', []), arguments.get('layers_per_block', 2)
    if not isinstance(levels, list) or len(levels) > _MAX_LEVELS or not isinstance(layers, int) or layers > _MAX_LAYERS:
        raise UserError(f'{where} is refused because it has more levels or layers than any network in use')


class Pipeline:
    """A network and a scheduler, ready to sample."""

    def __init__(self, description: PipelineDescription, net: torch.nn.Module, scheduler: Any, device: torch.device):
        self.description, self.net, self.scheduler, self.device = description, net, scheduler, device

    def generate(self, batches: Sequence[Sequence[int]], num_steps: int) -> Iterator[GeneratedBatch]:
        """Yield the images for each batch of seeds. A seed's generator draws the latents, then the noise of all steps.

        Raises UserError if the scheduler does not accept the number of steps, if sampling fails with the recorded
        arguments, or if an image is not finite.
        """
        where = f'`pipeline`={self.description.folder}'
        for seeds in batches:
            random = StackedRandomGenerator(self.device, seeds)
            try:
                with torch.inference_mode():
                    images = self._sample(random, num_steps)
            except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
                if isinstance(error, UserError | torch.OutOfMemoryError):
                    raise
                raise UserError(f'{where} cannot be sampled with its arguments ({_reason(error)})') from error
            if not images.isfinite().all():
                raise UserError(f'{where} gives images that are not finite for the seeds {seeds[0]} to {seeds[-1]}')
            yield GeneratedBatch(list(seeds), to_uint8(images))

    def _sample(self, random: StackedRandomGenerator, num_steps: int) -> torch.Tensor:
        x = random.randn([len(random.generators), *self.description.shape])
        try:
            self.scheduler.set_timesteps(num_steps)
        except ValueError as error:
            reason = str(error).split('\n')[0]
            raise UserError(
                f"`num_steps`={num_steps} is not accepted by the pipeline's scheduler ({reason})"
            ) from error
        x = x * float(self.scheduler.init_noise_sigma)
        for t in self.scheduler.timesteps:
            output = self.net(self.scheduler.scale_model_input(x, t), t.to(self.device)).sample
            x = self.scheduler.step(output, t, x, generator=random.generators).prev_sample
        return x


def load_pipeline(description: PipelineDescription, device: torch.device | str) -> Pipeline:
    """Build a pipeline and read its weights, in float32.

    Raises UserError if diffusers is not installed or cannot build the pipeline, if the weights do not fit the network,
    or if a weight is not finite.
    """
    try:
        diffusers = importlib.import_module('diffusers')
    except ImportError as error:
        raise UserError('`pipeline` requires diffusers; install it with: pip install diffusers') from error
    where = f'`pipeline`={description.folder}'
    try:
        scheduler = getattr(diffusers, description.scheduler)(**description.scheduler_arguments)
        with torch.device('meta'):
            net = getattr(diffusers, NETWORK)(**description.network_arguments)
    except Exception as error:  # diffusers raises many kinds of exceptions for arguments that do not fit
        raise UserError(f'{where} cannot be built by the installed diffusers ({_reason(error)})') from error
    try:
        net.load_state_dict(_read_weights(description.files[-1]), assign=True)
    except (RuntimeError, safetensors.SafetensorError, OSError) as error:
        raise UserError(f'{where}: its weights do not fit its unet, or are incomplete ({_reason(error)})') from error
    for name, tensor in net.named_parameters():
        if not tensor.isfinite().all():
            raise UserError(f'{where}: {name} contains values that are not finite; use another pipeline')
    net = net.to(device).float().eval().requires_grad_(False)
    return Pipeline(description, net, scheduler, torch.device(device))


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights, keyed by the names that current versions of diffusers use."""
    weights = safetensors.torch.load_file(path)
    return {'.'.join(_OLD_NAMES.get(part, part) for part in name.split('.')): value for name, value in weights.items()}


def _reason(error: Exception) -> str:
    return ' '.join(str(error).split())[:200] or type(error).__name__
