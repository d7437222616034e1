"""The cost of a training before it starts: memory and disk from the shapes of its network, time from a few steps."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import format_time
from training.config import TrainingConfig
from training.dataset import Dataset
from training.snapshot import STATES_KEPT, NetworkConfig
from training.trainer import Trainer

SECONDS_MEASURED = 5.0


@dataclass(frozen=True)
class Memory:
    """Bytes on each device. weights: of weights, average, gradients and optimizer. image: of the activations that the
    backward pass needs, for each image of a forward pass."""

    weights: int
    image: int


def training_memory(config: TrainingConfig) -> Memory:
    """The memory of a training, from the tensors that autograd keeps; workspaces of libraries come on top."""
    moments = {'Adam': 2, 'SGD': 1}[config.options.optimizer]
    parameters = sum(p.numel() for p in config.network.build('meta').parameters())
    return Memory(4 * parameters * (3 + moments), activation_bytes(config.network, config.precision))


def activation_bytes(network: NetworkConfig, precision: str = 'fp32') -> int:
    """Bytes that autograd keeps for the backward pass of one image, counted without computing anything."""
    net = network.build('meta').train().requires_grad_(True)
    net.set_precision(precision)
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.zeros([1, net.img_channels, net.img_resolution, net.img_resolution], device='meta')
    labels = torch.zeros([1, net.label_dim], device='meta') if net.label_dim else None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(x, torch.ones([1], device='meta'), labels)
        size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    del result
    return size


def images_per_second(config: TrainingConfig, device: torch.device) -> float:
    """Images that this rank trains on in a second, measured with images of noise in steps of at most `batch_gpu`.

    Steps begin with one image, and double while a step is expected to take less than half of the time left.
    """
    info, batch, rate = config.dataset, 1, 0.0
    shape = [config.batch_gpu, info.channels, info.resolution, info.resolution]
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=device) if config.label_dim else None
    trainer = Trainer(config, Dataset('noise', pixels, labels, ''), device)
    end = time.monotonic() + SECONDS_MEASURED
    while True:
        start = time.monotonic()
        trainer.accumulate(pixels[:batch], None if labels is None else labels[:batch])
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        now = time.monotonic()
        rate = max(rate, batch / (now - start))
        if batch == config.batch_gpu or now + 2 * batch / rate > end:
            return rate
        batch = min(2 * batch, config.batch_gpu)


def cost_lines(config: TrainingConfig, device: torch.device) -> dict[str, str]:
    """Time, memory and disk of a training in words, by name."""
    rate = images_per_second(config, device) * config.world_size
    memory, count = training_memory(config), config.batch_gpu
    parameters = sum(p.numel() for p in config.network.build('meta').parameters())
    seconds = config.schedule.total_images / rate
    disk = 4 * parameters * (len(config.snapshots) + STATES_KEPT * (memory.weights // (4 * parameters) - 1))
    pixels = config.dataset.size * config.dataset.channels * config.dataset.resolution**2 * config.options.cache
    total = memory.weights + count * memory.image + pixels
    return {
        'Time': f'about {format_time(seconds)} at {rate:,.3g} images/s (a short measurement)',
        'Memory': f'about {in_gb(total)} on each device: {in_gb(memory.weights)} of weights and optimizer, '
        f'{count} images of a forward pass of {in_gb(memory.image)}, training set {in_gb(pixels)}',
        'Disk': f'about {in_gb(disk)}: {len(config.snapshots)} snapshots, the newest {STATES_KEPT} training states',
    }


def in_gb(size: float) -> str:
    return f'{size / 1e9:.3g} GB' if size >= 1e8 else f'{size / 1e6:.3g} MB'
