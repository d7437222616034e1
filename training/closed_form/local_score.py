"""Local score denoisers, with and without translation equivariance.

Each pixel is denoised separately. The result is a weighted mean of the centre pixels of k×k candidate windows in the
training images. The weights are a softmax of the negative squared distances between the candidates and the window
around the noisy pixel.
Source: Kamb and Ganguli 2024.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from dnnlib.util import UserError
from training.closed_form.streamed import Group, PosteriorMeans, Streamed
from training.closed_form.windows import Window, closeness, window_matrix, window_sums, window_table, with_norms

# Window sizes for 32×32 images at EDM's 18 noise levels: PSPC-Square's patch sizes, clipped to Kamb and Ganguli's range
# of 3 to 17.
PUBLISHED = (*[17] * 8, 15, 11, 7, 5, *[3] * 6)


@dataclass(frozen=True)
class Shift:
    """A shift along one axis: for start <= i < stop, the candidate for noisy pixel i is the training pixel i + offset.

    margin: number of pixels by which windows extend beyond start and stop. sums: matrix that sums over windows; see
    `window_matrix`. wrap: whether positions wrap around to the other end of the image; otherwise, windows treat
    pixels outside the image as zeros.
    """

    offset: int
    start: int
    stop: int
    margin: int
    sums: Tensor
    wrap: bool = False

    def of_noisy(self, image: Tensor, dim: int) -> Tensor:
        return image.narrow(dim, self.start - self.margin, self.stop - self.start + 2 * self.margin)

    def of_training(self, images: Tensor, dim: int) -> Tensor:
        if self.wrap:
            return images.roll(-self.offset, dim)
        return images.narrow(dim, self.start + self.offset - self.margin, self.stop - self.start + 2 * self.margin)

    def centres(self, images: Tensor, dim: int) -> Tensor:
        return images.narrow(dim, self.margin, self.stop - self.start)


@dataclass(eq=False, repr=False, kw_only=True)
class LocalScoreDenoiser(Streamed):
    """LS: a pixel's candidates are the windows at its position in all training images, which are padded with zeros.

    window: odd window size k, as a number, a table, a table file or None; see `windows.window_table`.
    precision: 'fp32' computes distances in float64 and weights in float32; 'fp64' computes everything in float64.
    Other arguments: see `Streamed`. Raises UserError for a window that is even or larger than the image.
    """

    window: Window = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.windows = window_table(self.window, PUBLISHED, self.img_resolution, odd=True)
        self.sigma_min, self.sigma_max = self.windows.low, self.windows.high

    def _shifts(self, window: int) -> Iterator[Shift]:
        """The shifts along one axis, which are the same for both axes."""
        size = self.img_resolution
        yield Shift(0, 0, size, 0, window_matrix(size, size, -(window // 2), window).to(self.device))

    def _denoise_level(self, z: Tensor, variance: float, group: Group) -> Tensor:
        window, shape = self.windows.at(variance**0.5 / 127.5), self.image_shape
        noisy = z.unflatten(1, shape)
        shifts, by_products = list(self._shifts(window)), self._by_products(z, variance)
        means = PosteriorMeans((len(z), *shape[1:]), shape[0], self._weight_dtype, z.device)
        for columns in self._columns(group, self._cached_images):
            images = with_norms(columns.unflatten(0, shape))  # [C + 1, R, R, n]
            for down, right in itertools.product(shifts, shifts):
                y = right.of_training(down.of_training(images, 1), 2)
                values = right.centres(down.centres(y[:-1], 1), 2).to(self._weight_dtype)  # [C, h, w, n]
                place = (slice(down.start, down.stop), slice(right.start, right.stop))
                for index, image in enumerate(noisy):
                    close = closeness(right.of_noisy(down.of_noisy(image, 1), 2), y, by_products[index])
                    logits = window_sums(close, down.sums, right.sums).div_(variance)
                    means.add(logits, values, (index, *place))
        return means.over_ranks(self.rows.sharded).mean.permute(0, 3, 1, 2).flatten(1)


@dataclass(eq=False, repr=False, kw_only=True)
class EquivariantLocalScoreDenoiser(LocalScoreDenoiser):
    """ELS: a pixel's candidates are the windows at every position in every training image.

    padding: with 'circular', windows wrap around to the other end of the image. With 'zeros', images are padded with
    zeros, and a candidate must extend beyond the same borders as the pixel's own window, by the same distance.
    Other arguments: see `LocalScoreDenoiser`.
    """

    padding: str = 'zeros'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding not in ('circular', 'zeros'):
            raise UserError(f'`padding`={self.padding} is unknown; give circular or zeros')

    def _shifts(self, window: int) -> Iterator[Shift]:
        size, half = self.img_resolution, window // 2
        if self.padding == 'circular':
            sums = window_matrix(size, size, -half, window, wrap=True).to(self.device)
            yield from (Shift(offset, 0, size, 0, sums, wrap=True) for offset in range(size))
            return
        yield from super()._shifts(window)
        for offset in range(1, size - 2 * half):
            count = size - 2 * half - offset
            sums = window_matrix(count, count + 2 * half, 0, window).to(self.device)
            yield Shift(offset, half, half + count, half, sums)
            yield Shift(-offset, half + offset, size - half, half, sums)
