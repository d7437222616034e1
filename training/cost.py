"""Estimates the cost of a training run.

Memory and disk space are computed from the network's shapes; time is measured on a few steps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import counted, format_time, significant
from torch_utils.cuda_graphs import WARM_UP
from torch_utils.misc import backends_restored, configure_backends, free_bytes
from training.config import TrainingConfig
from training.dataset import Dataset
from training.snapshot import NetworkConfig
from training.trainer import Trainer

SECONDS_MEASURED = 5.0


@dataclass(frozen=True)
class Cost:
    """The cost of training, or of generating images.

    images: number of images to train on or to generate. calls: number of training steps or denoiser evaluations.
    seconds: duration, None if unknown. memory: bytes on each device. disk: bytes that remain on disk.
    """

    images: int
    calls: int
    seconds: float | None
    memory: int
    disk: int


def weight_bytes(config: TrainingConfig) -> int:
    """Bytes on each device for the weights, their average, gradients and optimizer state."""
    moments = {'Adam': 2, 'SGD': 1}[config.options.optimizer]
    return 4 * config.network.build('meta').num_parameters * (3 + moments)


def activation_bytes(network: NetworkConfig, precision: str = 'fp32', count: int = 1) -> int:
    """Bytes that autograd keeps for the backward pass of `count` images, counted on the meta device.

    They include the copies of the weights in lower precision.
    """
    net = network.build('meta').train().requires_grad_(True)
    net.set_precision(precision)
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.zeros([count, net.img_channels, net.img_resolution, net.img_resolution], device='meta')
    labels = torch.zeros([count, net.label_dim], device='meta') if net.label_dim else None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(x, torch.ones([count], device='meta'), labels)
        size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    del result
    return size


def measured_rate(run: Callable[[int], object], most: int, device: torch.device, seconds: float) -> float:
    """Time `run(count)` for count = 1, 2, 4, …, `most`; returns the highest rate, in images per second.

    On a GPU, only the runs that replay a recording are timed (see `Replay`).
    The measurement ends early if the next run is expected to exceed the limit of `seconds`.
    """
    count, rate, end = 1, 0.0, time.monotonic() + seconds
    while True:
        if device.type == 'cuda':
            for _ in range(WARM_UP + 1):
                run(count)
            torch.cuda.synchronize(device)
        start = time.monotonic()
        run(count)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        now = time.monotonic()
        rate = max(rate, count / (now - start))
        if count == most or now + 2 * count / rate > end:
            return rate
        count = min(2 * count, most)


def images_per_second(config: TrainingConfig, device: torch.device, seconds: float | None = None) -> float:
    """This rank's training speed in images per second, measured on up to `batch_gpu` random images at a time."""
    info = config.dataset
    shape = [config.batch_gpu, info.channels, info.resolution, info.resolution]
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=device) if config.label_dim else None
    with backends_restored(device):
        # cuDNN would need longer to choose its fastest kernels than the measurement may take.
        configure_backends(config.precision, config.options.deterministic, benchmark=False)
        trainer = Trainer(config, Dataset('noise', pixels, labels, ''), device)

        def run(count: int) -> None:
            trainer.accumulate(pixels[:count], None if labels is None else labels[:count])

        return measured_rate(run, config.batch_gpu, device, SECONDS_MEASURED if seconds is None else seconds)


def cost_of(config: TrainingConfig, rate: float | None, keep_best: bool = False, images_seen: int = 0) -> Cost:
    """The cost of a training run; its memory does not include temporary workspaces of libraries.

    rate: images per second over all ranks, None if unknown. keep_best: whether only the best snapshot is kept.
    images_seen: number of images already trained on, which are not counted.
    """
    images = max(0, config.schedule.total_images - images_seen)
    weights = weight_bytes(config)
    parameters = config.network.build('meta').num_parameters
    pixels = config.dataset.size * config.dataset.channels * config.dataset.resolution**2 * config.options.cache
    states = min(config.options.keep_states, len(config.states))
    return Cost(
        images=images,
        calls=-(-images // config.schedule.batch_size),
        seconds=None if rate is None else images / rate,
        memory=weights + activation_bytes(config.network, config.precision, config.batch_gpu) + pixels,
        disk=4 * parameters * (1 if keep_best else len(config.snapshots)) + states * (weights - 4 * parameters),
    )


def cost_lines(config: TrainingConfig, device: torch.device, images_seen: int = 0) -> dict[str, str]:
    """A training run's time, memory and disk usage in words, keyed by 'Time', 'Memory' and 'Disk'.

    If the run needs more memory than is free, the key 'Warning' is added.
    images_seen: number of images already trained on; the time of a resumed run does not include them.
    """
    free = free_bytes(device)  # before the measurement, because torch keeps the memory that it uses
    rate = images_per_second(config, device) * config.world_size
    cost = cost_of(config, rate, images_seen=images_seen)
    weights = weight_bytes(config)
    image = activation_bytes(config.network, config.precision, config.batch_gpu) / config.batch_gpu
    assert cost.seconds is not None
    remaining = f' for the remaining {counted(cost.images, "image")}' * (images_seen > 0)
    time = f'about {format_time(cost.seconds)}{remaining} at {significant(rate)} images/s (a short measurement)'
    lines = {
        'Time': time if cost.images else 'none, because the run has already reached this length',
        'Memory': f'about {in_gb(cost.memory)} on each device: {in_gb(weights)} for weights and optimizer, '
        f'{in_gb(image)} for each of the {config.batch_gpu} images in a forward pass, and the training set',
        'Disk': f'about {in_gb(cost.disk)}: {counted(len(config.snapshots), "snapshot", "d")} '
        f'and the newest {counted(config.options.keep_states, "training state", "d")}',
    }
    if cost.memory > free:
        lines['Warning'] = f'only {in_gb(free)} of memory is free for each rank; lower `batch_gpu`'
    return lines


def in_gb(size: float) -> str:
    return f'{significant(size / 1e9)} GB' if size >= 1e8 else f'{significant(size / 1e6)} MB'
