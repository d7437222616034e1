"""EDM's augmentation: random flips and affine maps of the training images, with labels that describe each change.

Source: Karras et al. 2020 (arXiv 2006.06676), appendix B, with the probabilities and labels of Karras et al. 2022,
table 6.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Low-pass filter of the sym6 wavelet (Daubechies, "Ten Lectures on Wavelets"); its taps sum to sqrt(2).
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
AUGMENT_LABELS = 9


@dataclass(frozen=True)
class AugmentPipe:
    """Augments images (float [B, C, R, R]). A call returns the augmented images and their labels (float32 [B, 9]).

    p: base probability. Each transformation is applied to each image with probability min(1, multiplier · p);
    otherwise the transformation's labels are 0.
    xflip, yflip, scale, rotate_frac, aniso, translate_frac: the multipliers; 0 (the default) disables a transformation.
    scale_std, aniso_std: standard deviations of scaling and stretching, in octaves.
    aniso_rotate_prob: probability that an image is stretched in a random direction instead of along x.
    translate_std: standard deviation of the shift, as a fraction of the image size.
    Random numbers come from the global generator of the images' device.
    """

    p: float = 1.0
    xflip: float = 0
    yflip: float = 0
    scale: float = 0
    rotate_frac: float = 0
    aniso: float = 0
    translate_frac: float = 0
    scale_std: float = 0.2
    aniso_std: float = 0.2
    aniso_rotate_prob: float = 0.5
    translate_std: float = 0.125

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        B, device = len(images), images.device

        def enabled(multiplier: float) -> Tensor:
            return torch.rand([B], device=device) < multiplier * self.p

        def normal(multiplier: float) -> Tensor:
            z = torch.randn([B], device=device)
            return torch.where(enabled(multiplier), z, 0)

        flip_x = torch.where(enabled(self.xflip), torch.randint(2, [B], device=device), 0)
        flip_y = torch.where(enabled(self.yflip), torch.randint(2, [B], device=device), 0)
        images = torch.where(flip_x[:, None, None, None] == 1, images.flip(3), images)
        images = torch.where(flip_y[:, None, None, None] == 1, images.flip(2), images)

        z_scale = normal(self.scale)
        angle = torch.where(enabled(self.rotate_frac), (torch.rand([B], device=device) * 2 - 1) * math.pi, 0)
        z_aniso = normal(self.aniso)
        direction = (torch.rand([B], device=device) * 2 - 1) * math.pi
        direction = torch.where(torch.rand([B], device=device) < self.aniso_rotate_prob, direction, 0)
        on = enabled(self.translate_frac)
        z_x, z_y = (torch.where(on, torch.randn([B], device=device), 0) for _ in range(2))

        if any([self.scale, self.rotate_frac, self.aniso, self.translate_frac]):
            stretch = (self.aniso_std * z_aniso).exp2()
            size = (self.scale_std * z_scale).exp2()
            shift = self.translate_std * images.shape[3]
            forward = (
                translation(z_x * shift, z_y * shift)
                @ rotation(direction)
                @ scaling(stretch, 1 / stretch)
                @ rotation(-direction)
                @ rotation(angle)
                @ scaling(size, size)
            )
            images = transform(images, forward)
        labels = [
            flip_x,
            flip_y,
            z_scale,
            angle.cos() - 1,
            angle.sin(),
            z_aniso * direction.cos(),
            z_aniso * direction.sin(),
            z_x,
            z_y,
        ]
        return images, torch.stack([label.to(torch.float32) for label in labels], dim=1)


def matrices(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Build matrices [B, 3, 3] from 3×3 entries; each entry is a number or a tensor [B]."""
    full = [[entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row] for row in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in full], dim=-2).to(torch.float32)


def translation(x: Tensor, y: Tensor) -> Tensor:
    return matrices([[1, 0, x], [0, 1, y], [0, 0, 1]], like=x)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    return matrices([[x, 0, 0], [0, y, 0], [0, 0, 1]], like=x)


def rotation(angle: Tensor) -> Tensor:
    return matrices([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]], like=angle)


def transform(images: Tensor, forward: Tensor) -> Tensor:
    """Apply affine maps to images, with little blur and aliasing.

    images: float [B, C, R, R]. forward: affine maps [B, 3, 3]. They act on points (x, y, 1), in pixels from the image
    centre.
    The wavelet is orthogonal, so downsampling undoes upsampling, and the identity map leaves images unchanged.
    Images are padded by reflection, always by the largest possible margin. A smaller margin would depend on the maps,
    and the CPU would have to wait until the device has computed them.
    """
    B, _, R, _ = images.shape
    margin = R - 1
    taps = wavelet(images.device, images.dtype)
    # The filter's delay: pixel n is at position 2 n + center in the upsampled image.
    center = sum(index * tap for index, tap in enumerate(SYM6)) / math.sqrt(2)
    padded = F.pad(images, [margin] * 4, mode='reflect')
    fine = upsample_by_2(padded, taps)

    side = 2 * (R - 1) + len(SYM6)
    position = (torch.arange(side, device=images.device, dtype=torch.float32) - center) / 2 - (R - 1) / 2
    y, x = torch.meshgrid(position, position, indexing='ij')
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)  # [side², 3]
    sources = points @ torch.linalg.inv_ex(forward).inverse[:, :2].mT  # [B, side², 2]
    among_fine = 2 * (sources + (R - 1) / 2 + margin) + center
    grid = (among_fine * 2 / (fine.shape[3] - 1) - 1).reshape(B, side, side, 2)
    moved = F.grid_sample(fine, grid.to(fine.dtype), mode='bilinear', padding_mode='zeros', align_corners=True)
    return downsample_by_2(moved, taps)


@functools.cache
def wavelet(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The filter taps, normalized to a sum of 1; cached because the CPU waits whenever they are copied to a device."""
    return torch.tensor(SYM6, device=device, dtype=dtype) / math.sqrt(2)


def upsample_by_2(images: Tensor, taps: Tensor) -> Tensor:
    """Insert zeros between pixels, then filter, along both axes: [B, C, H, W] -> [B, C, 2 (H - 1) + len(taps), …]."""
    C, length = images.shape[1], len(taps)
    along_x = (2 * taps).expand(C, 1, 1, length)
    images = F.conv_transpose2d(images, along_x, stride=(1, 2), groups=C)
    return F.conv_transpose2d(images, along_x.mT, stride=(2, 1), groups=C)


def downsample_by_2(images: Tensor, taps: Tensor) -> Tensor:
    """The adjoint of `upsample_by_2`, up to a constant factor."""
    C, length = images.shape[1], len(taps)
    along_x = taps.expand(C, 1, 1, length)
    images = F.conv2d(images, along_x, stride=(1, 2), groups=C)
    return F.conv2d(images, along_x.mT, stride=(2, 1), groups=C)
