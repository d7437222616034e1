"""Estimates the cost of an evaluation before it starts: number of images, time, memory and disk space."""

import math

import torch

from dataset_utils import Source, open_source
from dataset_utils.sources.base import require_square, words_of
from dnnlib.util import counted, format_time
from evaluation.evaluate import check_folders, log_path, require_floats, training_set_path
from evaluation.evaluation_options import EvaluationOptions
from evaluation.generators import Generator, PipelineGenerator, Sampling, make_generators
from evaluation.given_images import is_float, open_images
from evaluation.race import LEAST, SHARE
from evaluation.records import read_records
from torch_utils import distributed
from torch_utils.misc import widest_float
from training.cost import SECONDS_MEASURED, Cost, in_gb, measured_rate
from training.dataset import count_labels, labels_of, require_shape
from training.denoiser import Denoiser, as_denoiser, replayed
from training.sampler_options import SamplerOptions
from training.sampling import sample

BYTES_OF_ROW = 8 * 6  # seed, class, two neighbours and their two distances


def evaluations_per_image(sampler: SamplerOptions) -> int:
    """The number of times that a sampler calls the denoiser per image; closed forms may need fewer calls."""
    calls = []

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        calls.append(sigma)
        return torch.zeros_like(x)

    sample(sampler, as_denoiser(denoise, 1, 1, 0, math.inf), torch.zeros([1, 1, 1, 1]), None, torch.randn_like)
    return len(calls)


def denoiser_rate(denoiser: Denoiser, most: int, device: torch.device, seconds: float) -> float:
    """Measure how many images per second a denoiser evaluates on this rank, `most` at a time."""
    shape = [denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution]
    denoiser = replayed(denoiser, device)
    x = torch.randn([most, *shape], device=device, dtype=widest_float(device))
    labels = torch.zeros([most], dtype=torch.int64, device=device) if denoiser.label_dim else None
    with torch.inference_mode():
        return measured_rate(
            lambda count: denoiser(x[:count], x.new_ones([]), None if labels is None else labels[:count]),
            *(most, device, seconds),
        )


def sampling_cost(
    options: EvaluationOptions, num_generators: int, num_pixels: int, size: int, rate: float | None
) -> Cost:
    """Estimate the cost of evaluating `num_generators` generators.

    num_pixels: number of values in an image. size: number of training images. rate: number of images that all ranks
    together denoise per second, or None if unknown.
    """
    seeds, saved = len(options.seeds), options.save_images * num_generators
    images = num_generators * seeds
    if options.race:
        images = min(images, round(max(SHARE * num_generators, LEAST) * seeds))
    calls = images * evaluations_per_image(options.sampler)
    return Cost(
        images=images,
        calls=calls,
        seconds=None if rate is None else calls / rate,
        memory=2 * num_pixels * (size + seeds),
        disk=seeds * (num_pixels + BYTES_OF_ROW) + saved * seeds * num_pixels,
    )


def evaluation_lines(options: EvaluationOptions, device: torch.device, pipeline_steps: int | None) -> dict[str, str]:
    """Perform all checks that need no generated images; describe the planned work and its cost, as texts by title.

    Raises UserError, like `evaluate`, for files and folders that cannot be used.
    """
    generators = make_generators(options, Sampling.of(options, num_steps=pipeline_steps), device)
    check_folders(options)
    source = open_source(training_set_path(options), 'training_set')
    require_square(source.where, source.shape)
    height, width, channels = source.shape
    for generator in generators:
        generator.draw_unknown_classes_from(count_labels(labels_of(source)))
        require_shape((channels, height, width), generator.shape, source.where, f'{generator.where} makes')
    held_out = [] if options.test_set is None else [open_images(options.test_set, 'test_set', options.float_range)]
    lines = {'Training set': f'{source.name}: {len(source):,} images, {words_of(source.shape)}'}
    if not generators:
        given = [open_images(path, 'images', options.float_range) for path in options.images]
        require_floats(options, [is_float(images) for images in (*given, *held_out)])
        counts = list(map(len, given))
        memory = 2 * math.prod(source.shape) * (len(source) + max(counts))
        lines['Images'] = f'{counted(sum(counts), "given image")}; none are generated'
        return lines | {'Memory': memory_text(memory)}
    return lines | generation_lines(options, generators, source, device)


def generation_lines(
    options: EvaluationOptions, generators: list[Generator], source: Source, device: torch.device
) -> dict[str, str]:
    """Describe the cost of generating and comparing images, as texts by title."""
    rate, origin = stored_rate(options, generators[0]), 'at the speed of an earlier evaluation'
    if rate is None and not isinstance(generators[0], PipelineGenerator):
        rate = denoiser_rate(generators[0].denoiser(), options.batch_size, device, SECONDS_MEASURED)
        rate, origin = rate * distributed.world_size(), 'at the speed measured in a short test'
    cost = sampling_cost(options, len(generators), math.prod(source.shape), len(source), rate)
    at_most = 'at most ' * (options.race or options.denoiser is not None)
    images = (
        f'{at_most}{cost.images:,}, for {counted(len(generators), "generator")} with {len(options.seeds):,} seeds each'
    )
    if isinstance(generators[0], PipelineGenerator):
        return {'Images': images, 'Memory': memory_text(cost.memory)}
    return {
        'Images': images,
        'Evaluations': f'{at_most}{cost.calls:,} of the denoiser, {evaluations_per_image(options.sampler)} per image',
        'Time': f'about {format_time(cost.seconds or 0)} ({origin})',
        'Memory': memory_text(cost.memory),
        'Disk': f'about {in_gb(cost.disk)}' if log_path(options) is not None else 'none',
    }


def memory_text(size: int) -> str:
    return f'about {in_gb(size)} on each rank for images and the training set, in addition to networks and libraries'


def stored_rate(options: EvaluationOptions, generator: Generator) -> float | None:
    """The number of images denoised per second in an earlier evaluation; None if it is unknown.

    It is computed from the log's newest record with the generator's sampler and precision.
    """
    log = log_path(options)
    records = [] if log is None else read_records(log.with_suffix('.jsonl'))
    for record in reversed(records):
        same = record.get('sampler') == generator.sampler and record.get('precision') == generator.precision
        if same and record.get('seconds'):
            return evaluations_per_image(options.sampler) * record['num_images'] / record['seconds']
    return None
