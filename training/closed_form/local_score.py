"""The local score denoisers, with and without translation equivariance.

Each pixel is a posterior mean of its own: a softmax over candidates, by the distance between the k×k window of the
noisy image around the pixel and the candidate's window; the value of a candidate is its centre pixel.
Source: Kamb and Ganguli 2024.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from training.closed_form.rows import Images
from training.closed_form.streamed import Group, PosteriorMeans, Streamed
from training.closed_form.windows import box_sums, padded, squared_differences, window_table

# By level of the 18, at 32×32: the sizes of PSPC-Square's patches where they are within Kamb and Ganguli's 3 to 17.
PUBLISHED = (*[17] * 8, 15, 11, 7, 5, *[3] * 6)


@dataclass(frozen=True)
class Shift:
    """Along one axis: the pixels [start, stop) whose candidates are at distance `offset`, and how windows reach out.

    margin: pixels on both sides of [start, stop) within the image; the rest of the window, `width` on each side, lies
    outside, where both images are zero (or, with wrap, continue from the other end).
    """

    offset: int
    start: int
    stop: int
    margin: int
    width: int
    wrap: bool = False

    def of_noisy(self, image: Tensor, dim: int) -> Tensor:
        return image.narrow(dim, self.start - self.margin, self.stop - self.start + 2 * self.margin)

    def of_training(self, images: Tensor, dim: int) -> Tensor:
        if self.wrap:
            return images.roll(-self.offset, dim)
        return images.narrow(dim, self.start + self.offset - self.margin, self.stop - self.start + 2 * self.margin)

    def centres(self, images: Tensor, dim: int) -> Tensor:
        return images.narrow(dim, self.margin, self.stop - self.start)

    def window_sums(self, values: Tensor, window: int, dim: int) -> Tensor:
        return box_sums(padded(values, self.width, dim, self.wrap), window, dim)


class LocalScoreDenoiser(Streamed):
    """LS: the candidates of a pixel are the windows at its own place in all training images, with zero padding.

    window: odd size k of the window: a number, a table or its file, or None; see `windows.window_table`.
    precision: 'fp32' computes distances in float64 and weights in float32; 'fp64' everything in float64.
    Other arguments: see `Streamed`. Raises UserError for a window that is even or larger than the image.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        window: int | str | Path | Sequence[tuple[float, int]] | None = None,
        precision: str = 'fp32',
    ):
        super().__init__(images, labels, device, precision)
        self.windows = window_table(window, PUBLISHED, self.img_resolution, odd=True)
        self.sigma_min, self.sigma_max = self.windows.low, self.windows.high

    def _shifts(self, window: int) -> Iterator[Shift]:
        """Where candidates are, along each axis."""
        yield Shift(0, 0, self.img_resolution, 0, window // 2)

    def _denoise_level(self, z: Tensor, variance: float, group: Group) -> Tensor:
        window, shape = self.windows.at(variance**0.5 / 127.5), self.image_shape
        noisy = z.unflatten(1, shape)
        means = PosteriorMeans((len(z), *shape[1:]), shape[0], self._weight_dtype, z.device)
        for block in self._blocks(group, self._cached_images):
            images = block.t().contiguous().unflatten(0, shape)  # [C, R, R, n]
            for down in self._shifts(window):
                lower = down.of_training(images, 1)
                for right in self._shifts(window):
                    y = right.of_training(lower, 2)
                    centres = right.centres(down.centres(y, 1), 2).permute(1, 2, 3, 0)
                    values = centres.to(self._weight_dtype).contiguous()  # [h, w, n, C]
                    place = (slice(down.start, down.stop), slice(right.start, right.stop))
                    for index, image in enumerate(noisy):
                        squares = squared_differences(right.of_noisy(down.of_noisy(image, 1), 2), y)
                        sums = right.window_sums(down.window_sums(squares, window, 0), window, 1)
                        means.add(sums.mul_(-0.5 / variance), values, (index, *place))
        return means.over_ranks(self.images.sharded).mean.permute(0, 3, 1, 2).flatten(1)


class EquivariantLocalScoreDenoiser(LocalScoreDenoiser):
    """ELS: the candidates of a pixel are windows at every place of every training image.

    padding: 'circular', where windows continue at the other end of the image, or 'zeros', where a pixel has only the
    candidates of its border type: windows that reach equally far beyond the same borders.
    Other arguments: see `LocalScoreDenoiser`.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        window: int | str | Path | Sequence[tuple[float, int]] | None = None,
        padding: str = 'zeros',
        precision: str = 'fp32',
    ):
        super().__init__(images, labels, device, window, precision)
        if padding not in ('circular', 'zeros'):
            raise UserError(f'`padding`={padding}: give circular or zeros')
        self.padding = padding

    def _shifts(self, window: int) -> Iterator[Shift]:
        size, half = self.img_resolution, window // 2
        if self.padding == 'circular':
            yield from (Shift(offset, 0, size, 0, half, wrap=True) for offset in range(size))
            return
        yield from super()._shifts(window)
        for offset in range(1, size - 2 * half):
            yield Shift(offset, half, size - half - offset, half, 0)
            yield Shift(-offset, half + offset, size - half, half, 0)
