"""The optimal denoiser by its definition in naive float64, and image sets on which to test it."""

import torch
from torch import Tensor

# Values of FLOAT64_PIXELS that make the denoiser compute its sums in float64 or with int8 digits.
WAYS = {'float64': 1 << 60, 'digits': 0}
SIGMAS = [80.0, 20.0, 8.0, 3.0, 1.0, 0.3, 0.05, 0.002]


def naive(images: Tensor, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
    """Weights [B, N] and denoised images [B, C, R, R] by the definition, both float64."""
    y = images.to(torch.float64) / 127.5 - 1
    variance = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1) ** 2
    weights = torch.softmax(-squared_distances(x, images) / (2 * variance), dim=1)
    return weights, torch.einsum('bn,nchw->bchw', weights, y)


def squared_distances(x: Tensor, images: Tensor) -> Tensor:
    """Squared distances between noisy images x and training images, for pixels in [-1, 1], float64 [B, N]."""
    y = images.to(torch.float64) / 127.5 - 1
    return torch.stack([(y - one).square().sum(dim=(1, 2, 3)) for one in x.to(torch.float64)])


def relative_error(found: Tensor, expected: Tensor) -> float:
    error = (found.to(torch.float64) - expected).flatten(1).norm(dim=1)
    return float((error / expected.flatten(1).norm(dim=1)).max())


def smooth_images(count: int, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    """Random uint8 images with most of their variance at low frequencies, like photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn([count, channels, 4, 4], generator=generator) * 60
    fine = torch.randn([count, channels, size, size], generator=generator) * 12
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode='bilinear')
    return (smooth + fine + 120).clamp(0, 255).to(torch.uint8)


def noisy(images: Tensor, sigma: float, count: int = 4, seed: int = 1) -> Tensor:
    """Noisy training images, float64 [count, C, R, R]."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(images), [count], generator=generator)
    noise = torch.randn([count, *images.shape[1:]], generator=generator, dtype=torch.float64)
    return images[index].to(torch.float64) / 127.5 - 1 + sigma * noise


def naive_pixels(images: Tensor) -> Tensor:
    return images.to(torch.float64) / 127.5 - 1


def hard_sets() -> dict[str, Tensor]:
    """Image sets, most of which cause large rounding errors or have many images with (nearly) equal weights."""
    near = smooth_images(1).repeat(100, 1, 1, 1)
    near.view(100, -1)[torch.arange(100), torch.arange(100)] ^= 1
    halves = torch.full([64, 3, 16, 16], 255, dtype=torch.uint8)
    halves[:, :, 8:] = torch.arange(64, dtype=torch.uint8)[:, None, None, None]
    return {
        'smooth': smooth_images(2300),
        'sorted': smooth_images(1500)[smooth_images(1500).flatten(1).double().mean(dim=1).argsort()],
        'bright': (smooth_images(700) // 4 + 191).to(torch.uint8),
        'copies': smooth_images(5).repeat(300, 1, 1, 1),
        'near ties': torch.cat([near, smooth_images(300, seed=3)]),
        'two halves': halves,
        'one': smooth_images(1),
    }
