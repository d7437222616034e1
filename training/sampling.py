"""Samplers, which turn noise into images with any denoiser, and random generators with one seed per image.

`edm_sampler` is EDM's sampler; `ablation_sampler` generalizes it to other solvers, discretizations, schedules and
scalings. `generate` returns one uint8 image per seed; `generate_images` yields the images in batches.
Source: Karras et al. 2022, algorithms 1 and 2 and appendix C.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.typed import checked_options, shown
from dnnlib.util import UserError
from torch_utils.distributed import choose_device
from torch_utils.misc import widest_float
from training.denoiser import Denoiser, replayed, require_denoiser
from training.preconditioning import iddpm_sigmas
from training.sampler_options import SamplerOptions

RandnLike = Callable[..., Tensor]

# Seeds are taken modulo this number.
NUM_SEEDS = 1 << 32


class StackedRandomGenerator:
    """One random generator per seed, so that an image's random numbers depend only on its seed.

    seeds: integers; each is taken modulo 2^32. The first dimension of every requested shape must be len(seeds).
    """

    def __init__(self, device: torch.device | str, seeds: Sequence[int]):
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(int(seed) % NUM_SEEDS) for seed in seeds]

    def randn(self, size: Sequence[int], **kwargs: Any) -> Tensor:
        assert size[0] == len(self.generators)
        kwargs.setdefault('device', self.device)
        return torch.stack([torch.randn(list(size[1:]), generator=g, **kwargs) for g in self.generators])

    def randn_like(self, x: Tensor) -> Tensor:
        return self.randn(x.shape, dtype=x.dtype, layout=x.layout, device=x.device)

    def randint(self, high: int, size: Sequence[int], **kwargs: Any) -> Tensor:
        assert size[0] == len(self.generators)
        kwargs.setdefault('device', self.device)
        return torch.stack([torch.randint(high, list(size[1:]), generator=g, **kwargs) for g in self.generators])


def edm_sampler(
    net: Denoiser,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like: RandnLike = torch.randn_like,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
) -> Tensor:
    """Integrate from noise to images with Heun's method; deterministic without churn.

    latents: standard normal [B, C, R, R]. randn_like: draws the churn noise, once per step.
    num_steps: at least 2. sigma_min, sigma_max: clipped to the denoiser's range.
    Returns [B, C, R, R] in float64, or in float32 on a device without float64. Raises UserError if no range of noise
    levels is left after clipping.

    Without churn, images that the denoiser reports as `settled` are finished immediately and removed from the batch. If
    the denoised image stays constant at y, both of Heun's slopes are (x - y) / sigma, so each step ends on the line
    from x to y, and the last step (to sigma = 0) ends at y. The result is therefore what the remaining steps would
    give, up to rounding in float64.

    Without churn, if the denoiser defines `coordinates`, the ODE is solved in that reduced representation; see
    `training.closed_form.coordinates`.
    """
    coordinates = getattr(net, 'coordinates', None) if S_churn == 0 else None
    if coordinates is not None:
        start, schedule = coordinates.of(latents), (num_steps, sigma_min, sigma_max, rho)
        x = edm_sampler(coordinates, start, class_labels, randn_like, *schedule)
        return coordinates.images(x, latents)
    low, high = clipped_range(net, sigma_min, sigma_max)
    sigmas = [*net.round_sigma(rho_schedule(low, high, num_steps, rho)).tolist(), 0.0]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return net(x, x.new_full([], sigma), class_labels).to(x.dtype)

    settled = getattr(net, 'settled', None) if S_churn == 0 else None
    x = latents.to(widest_float(latents.device)) * sigmas[0]
    images, unfinished = torch.empty_like(x), torch.arange(len(x), device=x.device)
    for step in range(num_steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        if S_churn > 0:  # without churn, no noise is added, so none is drawn
            gamma = min(S_churn / num_steps, math.sqrt(2) - 1) if S_min <= sigma <= S_max else 0
            sigma_hat = float(net.round_sigma(torch.tensor(sigma + gamma * sigma, dtype=torch.float64)))
            x = x + math.sqrt(max(sigma_hat**2 - sigma**2, 0)) * S_noise * randn_like(x)
            sigma = sigma_hat
        if settled is None:
            denoised = denoise(x, sigma)
        else:
            done, denoised = settled(x, x.new_full([], sigma), class_labels)
            denoised = denoised.to(x.dtype)
            if bool(done.any()):
                images[unfinished[done]] = denoised[done]
                x, denoised, unfinished = x[~done], denoised[~done], unfinished[~done]
                class_labels = None if class_labels is None else class_labels[~done]
            if not len(x):
                break
        slope = (x - denoised).div_(sigma)
        x_next = (slope * (sigma_next - sigma)).add_(x)
        if step < num_steps - 1:
            # In place, because allocating large tensors costs as much as the arithmetic.
            slope_next = x_next.sub_(denoise(x_next, sigma_next)).div_(sigma_next)
            x_next = slope.mul_(0.5).add_(slope_next.mul_(0.5)).mul_(sigma_next - sigma).add_(x)
        x = x_next
    images[unfinished] = x
    return images


def clipped_range(net: Denoiser, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """Clip a range of noise levels to the denoiser's range. Raises UserError if nothing is left."""
    low, high = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    if low >= high:
        raise UserError(
            f'`sigma_min`={sigma_min:g} to `sigma_max`={sigma_max:g}: the denoiser is defined only from '
            f'{net.sigma_min:g} to {net.sigma_max:g}; give a range that overlaps with these noise levels'
        )
    return low, high


def rho_schedule(sigma_min: float, sigma_max: float, num_steps: int, rho: float) -> Tensor:
    """Noise levels from sigma_max down to sigma_min, float64 [num_steps]. Source: Karras et al. 2022, equation 5."""
    ramp = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


@dataclass(frozen=True)
class Curve:
    """A positive function of time, with its derivative and, if needed, its inverse."""

    at: Callable[[float], float]
    slope: Callable[[float], float]
    inverse: Callable[[float], float] = lambda value: math.nan


def sigma_curve(schedule: str, beta_d: float, beta_min: float) -> Curve:
    """The noise level as a function of time, sigma(t), for the schedule 'vp', 've' or 'linear'."""
    if schedule == 'vp':

        def at(t: float) -> float:
            return math.sqrt(math.expm1(0.5 * beta_d * t**2 + beta_min * t))

        return Curve(
            at=at,
            slope=lambda t: 0.5 * (beta_min + beta_d * t) * (at(t) + 1 / at(t)),
            inverse=lambda s: (math.sqrt(beta_min**2 + 2 * beta_d * math.log(s**2 + 1)) - beta_min) / beta_d,
        )
    if schedule == 've':
        return Curve(at=math.sqrt, slope=lambda t: 0.5 / math.sqrt(t), inverse=lambda s: s**2)
    return Curve(at=lambda t: t, slope=lambda t: 1.0, inverse=lambda s: s)


def scale_curve(scaling: str, sigma: Curve) -> Curve:
    """The signal scale as a function of time, s(t): 1/sqrt(1 + sigma²) for 'vp', 1 for 'none'."""
    if scaling == 'vp':

        def at(t: float) -> float:
            return 1 / math.sqrt(1 + sigma.at(t) ** 2)

        return Curve(at=at, slope=lambda t: -sigma.at(t) * sigma.slope(t) * at(t) ** 3)
    return Curve(at=lambda t: 1.0, slope=lambda t: 0.0)


# Default range of sigma for each discretization; for 'vp', it is the range of the process with which DDPM++ is trained.
_VP_DEFAULT = sigma_curve('vp', beta_d=19.9, beta_min=0.1)
_DEFAULT_SIGMA_RANGE = {'ve': (0.02, 100.0), 'iddpm': (0.002, 81.0), 'edm': (0.002, 80.0)}


def _default_range(discretization: str, epsilon_s: float = 1e-3) -> tuple[float, float]:
    return _DEFAULT_SIGMA_RANGE.get(discretization, (_VP_DEFAULT.at(epsilon_s), _VP_DEFAULT.at(1)))


def ablation_sampler(
    net: Denoiser,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like: RandnLike = torch.randn_like,
    num_steps: int = 18,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7,
    solver: str = 'heun',
    discretization: str = 'edm',
    schedule: str = 'linear',
    scaling: str = 'none',
    epsilon_s: float = 1e-3,
    C_1: float = 0.001,
    C_2: float = 0.008,
    M: int = 1000,
    alpha: float = 1,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
) -> Tensor:
    """The generalized sampler: like `edm_sampler`, but with a choice of solver, discretization, schedule and scaling.

    solver: 'euler' or 'heun'. alpha: position of Heun's second evaluation within the step, in (0, 1].
    discretization: choice of time steps ('vp', 've', 'iddpm' or 'edm').
    schedule: noise schedule sigma(t) ('vp', 've' or 'linear'). scaling: signal scaling s(t) ('vp' or 'none').
    epsilon_s: smallest time for 'vp'. C_1, C_2, M: parameters for 'iddpm'. Other arguments: see `edm_sampler`.
    """
    assert solver in ('euler', 'heun')
    assert discretization in ('vp', 've', 'iddpm', 'edm')
    assert schedule in ('vp', 've', 'linear')
    assert scaling in ('vp', 'none')
    low, high = _default_range(discretization, epsilon_s)
    low, high = clipped_range(net, low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max)

    # The variance-preserving process that has noise level `low` at time epsilon_s and `high` at time 1.
    beta_d = 2 * (math.log(low**2 + 1) / epsilon_s - math.log(high**2 + 1)) / (epsilon_s - 1)
    beta_min = math.log(high**2 + 1) - 0.5 * beta_d

    ramp = np.arange(num_steps) / (num_steps - 1)
    if discretization == 'vp':
        vp = sigma_curve('vp', beta_d, beta_min)
        steps = [vp.at(t) for t in 1 + ramp * (epsilon_s - 1)]
    elif discretization == 've':
        steps = list(high * (low / high) ** ramp)
    elif discretization == 'iddpm':
        levels = iddpm_sigmas(C_1, C_2, M)
        levels = levels[(levels >= low) & (levels <= high)]
        if not len(levels):
            raise UserError(
                f"`sigma_min`={low:g} to `sigma_max`={high:g}: none of iDDPM's noise levels is in this range; widen it"
            )
        steps = list(levels[np.round((len(levels) - 1) * ramp).astype(int)])
    else:
        steps = rho_schedule(low, high, num_steps, rho).tolist()

    sigma = sigma_curve(schedule, beta_d, beta_min)
    scale = scale_curve(scaling, sigma)

    def rounded_time(value: float) -> float:
        return sigma.inverse(float(net.round_sigma(torch.tensor(value, dtype=torch.float64))))

    def slope(x: Tensor, t: float) -> Tensor:
        denoised = net(x / scale.at(t), x.new_full([], sigma.at(t)), class_labels).to(x.dtype)
        decay = sigma.slope(t) / sigma.at(t)
        return (decay + scale.slope(t) / scale.at(t)) * x - decay * scale.at(t) * denoised

    times = [*(rounded_time(value) for value in steps), 0.0]
    x = latents.to(widest_float(latents.device)) * (sigma.at(times[0]) * scale.at(times[0]))
    for step in range(num_steps):
        t, t_next = times[step], times[step + 1]
        if S_churn > 0:  # without churn, no noise is added, so none is drawn
            level = sigma.at(t)
            gamma = min(S_churn / num_steps, math.sqrt(2) - 1) if S_min <= level <= S_max else 0
            t_hat = rounded_time(level + gamma * level)
            added = math.sqrt(max(sigma.at(t_hat) ** 2 - level**2, 0))
            x = scale.at(t_hat) / scale.at(t) * x + added * scale.at(t_hat) * S_noise * randn_like(x)
            t = t_hat
        h = t_next - t
        first = slope(x, t)
        if solver == 'euler' or step == num_steps - 1:
            x = x + h * first
        else:
            second = slope(x + alpha * h * first, t + alpha * h)
            x = x + h * ((1 - 1 / (2 * alpha)) * first + 1 / (2 * alpha) * second)
    return x


def sample(
    options: SamplerOptions, net: Denoiser, latents: Tensor, class_labels: Tensor | None, randn_like: RandnLike
) -> Tensor:
    """Run the sampler chosen by the options; see `edm_sampler`."""
    sampler = edm_sampler if options.name == 'edm_sampler' else ablation_sampler
    return sampler(net, latents, class_labels, randn_like, **options.given())


def noise_range(options: SamplerOptions) -> tuple[float, float]:
    """The lowest and highest noise levels that a sampler uses if the denoiser is defined at all levels."""
    low, high = _default_range(options.discretization or 'edm')
    low, high = options.sigma_min or low, options.sigma_max or high
    highest_churned = min(high, options.S_max)
    if options.S_churn > 0 and options.S_min <= highest_churned:
        high = max(high, highest_churned * (1 + min(options.S_churn / options.num_steps, math.sqrt(2) - 1)))
    return low, high


def generate(
    net: Denoiser,
    seeds: Iterable[int],
    sampler: SamplerOptions | None = None,
    batch_size: int = 64,
    device: torch.device | str = 'cpu',
    class_index: int | Sequence[int] | None = None,
    classes: Mapping[int, int] | Sequence[int] | None = None,
) -> Tensor:
    """Generate one image per seed, in the order of the seeds. Returns uint8 [N, C, R, R] on the CPU.

    class_index: the class of all images, or a list with the class of each image; None draws a class for each image.
    classes: the classes to draw from (not one class per seed); see `generate_images`. None means all classes of the
        denoiser or, if its `class_sizes` show that some have no training images, all that have training images.
    Raises UserError if there are no seeds, if a seed is not an integer from 0 to 2^32 - 1, if the denoiser does not
    have a class, or if there is no such device.
    """
    require_denoiser(net, 'net')
    wanted = integers_of(seeds)
    if not wanted:
        raise UserError(
            f'`seeds`={shown(seeds)} is not a sequence of at least one integer; give, for example, range(32)'
        )
    if batch_size < 1:
        raise UserError(f'`batch_size`={batch_size} must be at least 1')
    chosen: list[Any] = [class_index]
    if class_index is not None and not isinstance(class_index, Integral):
        chosen = integers_of(class_index)
        if len(chosen) != len(wanted):
            raise UserError(
                f'`class_index`={shown(class_index)} must be one class, or a class for each of the {len(wanted)} seeds'
            )
    sizes = getattr(net, 'class_sizes', None) or {}
    for index in chosen:
        check_class(index, net.label_dim, sizes)
    classes = classes.tolist() if isinstance(classes, Tensor) else classes
    check_classes(classes, net.label_dim)
    if classes is None and 0 < len(sizes) < net.label_dim:
        classes = sorted(sizes)
    sampler = checked_options(sampler or SamplerOptions(), SamplerOptions, 'sampler')
    batches, device = seed_batches(wanted, batch_size), choose_device(str(device))
    found = generate_images(net, batches, sampler, device, chosen if len(chosen) > 1 else chosen[0], classes)
    return torch.cat([batch.images.cpu() for batch in found])


def integers_of(values: Any) -> list[int]:
    """The integers in an iterable, which may be NumPy integers or a tensor; empty for anything else, such as a set."""
    try:
        return [] if isinstance(values, Set) else [operator.index(value) for value in values]
    except TypeError:
        return []


def check_class(class_index: int | None, label_dim: int, class_sizes: Mapping[int, int] | None = None) -> None:
    """Raise UserError for a class that the denoiser does not have, or that is missing in `class_sizes`, if given."""
    if class_index is None:
        return
    if not label_dim:
        raise UserError(f'`class_index`={class_index}: the denoiser is unconditional; remove `class_index`')
    if not 0 <= class_index < label_dim:
        raise UserError(f'`class_index`={class_index}: the denoiser has {label_dim} classes, 0 to {label_dim - 1}')
    if class_sizes and class_index not in class_sizes:
        raise UserError(
            f'`class_index`={class_index}: no training image has this class; give one with training images, '
            f'such as {min(class_sizes)}'
        )


def check_classes(classes: Mapping[int, int] | Sequence[int] | None, label_dim: int) -> None:
    """Raise UserError unless `classes` are some of the denoiser's classes, as described in `generate_images`."""
    if classes is None:
        return
    if not label_dim:
        raise UserError('`classes`: the denoiser is unconditional; remove `classes`')
    if not len(classes) or not all(isinstance(c, Integral) and 0 <= c < label_dim for c in classes):
        raise UserError(f'`classes`={classes!r}: give at least one class from 0 to {label_dim - 1}')
    if isinstance(classes, Mapping) and min(classes.values()) < 1:
        raise UserError(f'`classes`={classes!r}: the number of images in each class must be at least 1')


@dataclass(frozen=True)
class GeneratedBatch:
    """The images generated from one batch of seeds.

    images: uint8 [B, C, R, R]. class_labels: int64 [B] or None.
    """

    seeds: list[int]
    images: Tensor
    class_labels: Tensor | None = field(default=None)


def seed_batches(seeds: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Split seeds into batches, and return this rank's batches. The split does not depend on the number of ranks.

    Raises UserError for seeds that are not integers from 0 to 2^32 - 1, because they would give the same images as
    other seeds.
    """
    if outside := [seed for seed in seeds if seed % 1 or not 0 <= seed < NUM_SEEDS]:
        raise UserError(
            f'`seeds`: {outside[0]} is not an integer from 0 to {NUM_SEEDS - 1}; '
            'it would give the same image as such an integer'
        )
    batches = [list(seeds[start : start + batch_size]) for start in range(0, len(seeds), batch_size)]
    return batches[rank::world_size]


def generate_images(
    net: Denoiser,
    batches: Sequence[Sequence[int]],
    sampler: SamplerOptions,
    device: torch.device | str,
    class_index: int | Sequence[int] | None = None,
    classes: Mapping[int, int] | Sequence[int] | None = None,
) -> Iterator[GeneratedBatch]:
    """Yield the images for each batch of seeds.

    class_index: the class of all images, or the class of each image in the order of all batches' seeds; None draws a
        class for each image.
    classes: the classes to draw from. A sequence gives them equal probabilities; a mapping gives each a probability
        proportional to its value; None means all classes of the denoiser.
    Each seed's generator draws the latents, then a class if the denoiser has classes (even if class_index replaces it),
    then the churn noise. Raises UserError if an image is not finite.
    """
    net = replayed(net, device)
    given = iter(class_index) if isinstance(class_index, Sequence) else itertools.repeat(class_index)
    for seeds in batches:
        random = StackedRandomGenerator(device, seeds)
        latents = random.randn([len(seeds), net.img_channels, net.img_resolution, net.img_resolution])
        labels = None
        if net.label_dim:
            labels = draw_classes(random, range(net.label_dim) if classes is None else classes)
            if class_index is not None:
                labels = labels.new_tensor(list(itertools.islice(given, len(seeds))))
        with torch.inference_mode():
            images = sample(sampler, net, latents, labels, random.randn_like)
        if not images.isfinite().all():
            raise UserError(
                f'the images for the seeds {seeds[0]} to {seeds[-1]} are not finite; change the sampler options'
            )
        yield GeneratedBatch(list(seeds), to_uint8(images), labels)


def draw_classes(random: StackedRandomGenerator, classes: Mapping[int, int] | Sequence[int]) -> Tensor:
    """Draw a class for each seed, int64 [N]; see `generate_images`."""
    count = len(random.generators)
    if not isinstance(classes, Mapping):
        drawn = random.randint(len(classes), [count])
    else:
        ends = torch.tensor(list(classes.values()), device=random.device).cumsum(0)
        drawn = torch.searchsorted(ends, random.randint(int(ends[-1]), [count]), right=True)
    return drawn if isinstance(classes, range) else drawn.new_tensor(list(classes))[drawn]


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to 8-bit pixels: x · 127.5 + 128, clipped to [0, 255] and truncated."""
    return (images * 127.5 + 128).clip(0, 255).to(torch.uint8)
