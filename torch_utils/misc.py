"""Arithmetic settings, memory checks, and derived random seeds for torch."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import TypeVar

import psutil
import torch
from torch import nn

from dnnlib.util import UserError

T = TypeVar('T')

# Number of float64 multiplications per second from which a GPU counts as fast in float64. An H100 reaches 3e13. By
# their specifications, an A100 reaches 1e13, and GPUs without fast float64 reach at most 1e12.
FAST_FLOAT64 = 2e12


def configure_backends(precision: str, deterministic: bool = False, benchmark: bool = True) -> None:
    """Set torch's global arithmetic options.

    precision: 'tf32' allows float32 matrix products to round inputs to 10 mantissa bits; any other value forbids it.
    deterministic: use only deterministic kernels. benchmark: let cuDNN time its kernels and choose the fastest.
    """
    allow_tf32 = precision == 'tf32'
    torch.set_float32_matmul_precision('high' if allow_tf32 else 'highest')
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = benchmark and not deterministic
    _use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # must be set before cuBLAS is first used


@contextlib.contextmanager
def backends_restored(device: torch.device) -> Iterator[None]:
    """Restore the global random states and the options of `configure_backends` at the end of the block.

    device: the device that the block uses. The state of a GPU is restored if CUDA is in use.
    """
    cudnn = torch.backends.cudnn
    matmul, tf32, benchmark = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    in_use = device.type == 'cuda' or torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count() if in_use else 0)):
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(matmul)
            cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
            _use_deterministic_algorithms(deterministic, warn_only)


def _use_deterministic_algorithms(mode: bool, warn_only: bool = False) -> None:
    """Set the mode only if it changes, because the setter imports torch's compiler, which takes about a second."""
    now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if now != (mode, warn_only):
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def derived_seed(*parts: int) -> int:
    """Hash integers to a seed in [0, 2^63); different integers give independent streams of random numbers."""
    text = ','.join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'little') >> 1


def seed_everything(*parts: int) -> None:
    """Seed the global random generators of all devices with `derived_seed(*parts)`."""
    torch.manual_seed(derived_seed(*parts))


def widest_float(device: torch.device | str) -> torch.dtype:
    """float64, or float32 on a device without float64, such as an Apple GPU."""
    try:
        return torch.empty(0, dtype=torch.float64, device=device).dtype
    except TypeError:
        return torch.float32


def for_device(sizes: dict[str, T], device: torch.device) -> T:
    """The entry for the type of a device; the entry 'cpu' if there is none."""
    return sizes.get(device.type, sizes['cpu'])


@functools.cache
def float64_is_fast(device: torch.device) -> bool:
    """Measure, once per GPU, whether its float64 matrix products reach `FAST_FLOAT64`.

    They do on GPUs made for scientific computing, such as the H100. On most other GPUs, float64 products are 32 to 64
    times slower than float32 products.
    """
    matrix = torch.ones([2048, 2048], dtype=torch.float64, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    rates = []
    for _ in range(4):  # the first product includes the start of cuBLAS
        start.record(torch.cuda.current_stream(device))
        matrix @ matrix
        end.record(torch.cuda.current_stream(device))
        end.synchronize()
        rates.append(2048**3 / (start.elapsed_time(end) / 1000))
    return max(rates) > FAST_FLOAT64


def layout(device: torch.device | str, precision: str = 'fp32', training: bool = False) -> torch.memory_format:
    """The memory format for convolutional networks; docs/performance.md has the measurements.

    It is contiguous with CUDA. On other devices, it is channels_last, except for evaluation in float32.
    """
    contiguous = torch.device(device).type == 'cuda' or (precision != 'bf16' and not training)
    return torch.contiguous_format if contiguous else torch.channels_last


def place(module: nn.Module, device: torch.device | str, precision: str = 'fp32', training: bool = False) -> nn.Module:
    """Move a module to a device, in the memory format given by `layout`."""
    return module.to(device).to(memory_format=layout(device, precision, training))  # type: ignore[call-overload]


def require_memory(needed: int, device: torch.device, what: str, remedy: str = '') -> None:
    """Raise UserError if `needed` bytes do not fit in the device's memory.

    what: subject of the message, in the plural.
    """
    if needed > (free := free_bytes(device)):
        raise UserError(f'{what} need {needed:,} bytes on {device}, but only {free:,} are free for this rank{remedy}')


def free_bytes(device: torch.device) -> int:
    """The device's free memory in bytes. On a CPU, it is divided equally among the ranks on this machine."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
