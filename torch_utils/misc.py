"""Settings of torch's arithmetic, memory, and seeds that depend on what the random numbers are for."""

import hashlib
import os

import psutil
import torch
from torch import nn

from dnnlib.util import UserError


def configure_backends(precision: str, deterministic: bool = False, benchmark: bool = True) -> None:
    """Set torch's global options of arithmetic.

    precision: 'tf32' lets float32 products round their inputs to 10 bits on devices that can; others forbid it.
    deterministic: use only deterministic kernels. benchmark: let cuDNN time its kernels first.
    """
    allow_tf32 = precision == 'tf32'
    torch.set_float32_matmul_precision('high' if allow_tf32 else 'highest')
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = benchmark and not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS needs it before its first use


def derived_seed(*parts: int) -> int:
    """A seed in [0, 2^63) by a hash of the parts, so that no two uses share a stream of random numbers."""
    text = ','.join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'little') >> 1


def seed_everything(*parts: int) -> None:
    """Seed the global generators of all devices with `derived_seed` of the parts."""
    torch.manual_seed(derived_seed(*parts))


def widest_float(device: torch.device | str) -> torch.dtype:
    """float64, or float32 on a device that has no float64, such as Apple's GPUs."""
    try:
        return torch.empty(0, dtype=torch.float64, device=device).dtype
    except TypeError:
        return torch.float32


def place(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a module to a device, with channels_last convolutions, which are faster on CPUs and GPUs alike."""
    return module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def require_memory(needed: int, device: torch.device, what: str, remedy: str = '') -> None:
    """Raise UserError if something does not fit in the memory of the device."""
    if needed > (free := free_bytes(device)):
        raise UserError(f'{what} need {needed:,} bytes on {device}, which has {free:,} free for this rank{remedy}')


def free_bytes(device: torch.device) -> int:
    """Free memory of the device; for the host's memory, an equal share for each rank on it."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
