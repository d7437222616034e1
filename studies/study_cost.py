"""Estimates what a study will cost: points, steps, images, time, memory and disk space."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from dnnlib.options import build
from dnnlib.util import counted, format_time
from evaluation.effective_memorization import next_size
from evaluation.evaluation_cost import denoiser_rate, sampling_cost
from evaluation.evaluation_options import EvaluationOptions
from studies.commands import Resources
from studies.points import DONE, STOPPED, Point, make_point
from studies.results import collect
from studies.study import Combination, Study
from studies.time_left import study_seconds_left
from studies.validation import Validator, parse_options
from torch_utils.distributed import choose_device
from torch_utils.misc import backends_restored, configure_backends, place
from training.config import TrainingConfig, as_lines, resolve
from training.cost import Cost, cost_of, images_per_second, in_gb
from training.dataset import DatasetInfo
from training.snapshot import NetworkConfig
from training.training_options import RunOptions
from training.training_run import with_threads

# How long each speed is measured, in seconds. Each network has a training speed and a sampling speed.
SECONDS_MEASURED = 2.0


class Costs:
    """The costs of a study's points.

    sources: a folder whose subfolder `sources` contains the study's own data sets. device: the device on which speeds
    are measured. It is None if the points need a GPU and this machine has none; times are then unknown.
    """

    def __init__(self, study: Study, sources: Path, validator: Validator, resources: Resources):
        self.study, self.sources, self.validator = study, sources, validator
        self.world_size = resources.world_size
        lacks_gpu = resources.gpus_per_node > 0 and not torch.cuda.is_available()
        self.device = None if lacks_gpu else choose_device('auto')
        self.rates: dict[str, float] = {}

    def of_point(self, combination: Combination, size: int) -> tuple[list[Cost], Cost]:
        """The costs of a point's training runs and of its evaluation. Raises UserError if the point cannot run."""
        commands = make_point(self.study, self.sources, combination, size, 0).commands()
        plan, shape = self.validator.planned(self.study, self.sources, combination, size)
        count, num_classes = sum(len(indices) for _, indices in plan.parts), max(plan.labels or [-1]) + 1
        info = DatasetInfo('the training set', 'data', count, shape[0], shape[2], num_classes)
        parsed = parse_options('evaluate', commands['evaluate'], combination.name)
        options: EvaluationOptions = build(EvaluationOptions, parsed.values)
        num_pixels, config = math.prod(shape), None
        trainings = []
        for command in (words for step, words in commands.items() if step.startswith('train')):
            config = self.config(command, info)
            key = f'train {config.network} {config.precision} {config.batch_gpu}'
            rate = self.rate(key, partial(images_per_second, config))
            cost = cost_of(config, rate, options.keep_best)
            trainings.append(dataclasses.replace(cost, disk=cost.disk + count * num_pixels))
        num_snapshots, rate = 1, None
        if config is not None:
            num_snapshots = sum(place > 0 for place in config.snapshots)
            precision = options.precision or config.precision
            key = f'sample {config.network} {precision} {options.batch_size}'
            rate = self.rate(key, partial(sampled_rate, config.network, precision, options.batch_size))
        return trainings, sampling_cost(options, num_snapshots, num_pixels, count, rate)

    def config(self, command: list[str], info: DatasetInfo) -> TrainingConfig:
        parsed = parse_options('train', command, self.study.name)
        options: RunOptions = build(RunOptions, parsed.given_values)
        return with_threads(resolve(options, info, self.world_size), options.threads, None)

    def rate(self, name: str, measure: Callable[[torch.device, float], float]) -> float | None:
        """Images per second over all ranks; None if there is no device to measure it on.

        name: identifies the measurement; `measure(device, seconds)` is called only once for each name.
        """
        if self.device is None:
            return None
        if name not in self.rates:
            self.rates[name] = measure(self.device, SECONDS_MEASURED) * self.world_size
        return self.rates[name]


def sampled_rate(
    network: NetworkConfig, precision: str, batch_size: int, device: torch.device, seconds: float
) -> float:
    """How many images per second this rank denoises with an untrained network, `batch_size` at a time."""
    net = network.build().eval().requires_grad_(False)
    net.set_precision(precision)
    place(net, device, precision)
    with backends_restored(device):
        configure_backends(precision, benchmark=False)
        return denoiser_rate(net, batch_size, device, seconds)


def largest_sizes(combination: Combination, study: Study) -> list[int]:
    """A combination's sizes; for a search, the sizes that it measures if only the largest size is not memorized."""
    if combination.sizes.search is None:
        return list(combination.sizes.values)
    (low, high), sizes = combination.sizes.search, combination.sizes
    ratios: dict[int, float] = {}
    while (size := next_size(ratios, low, high, sizes.tolerance, sizes.step or 1, study.threshold)) is not None:
        ratios[size] = float(size < high)
    return sorted(ratios)


def planned_points(study: Study, root: Path) -> Iterator[Point]:
    for combination in study.combinations:
        for size in largest_sizes(combination, study):
            for repeat in range(study.repeats.count):
                yield make_point(study, root, combination, size, repeat)


def study_cost(
    study: Study, root: Path, sources: Path, validator: Validator, resources: Resources, jobs: int | None
) -> str:
    """The total cost of a study's unfinished points, as lines of text.

    root: the study's folder. sources: as in `Costs`. jobs: number of points that run at a time; None if unknown.
    """
    points = list(planned_points(study, root))
    left = [point for point in points if point.status().state != DONE]
    costs = Costs(study, sources, validator, resources)
    combinations = {(point.combination.name, point.size): point.combination for point in left}
    of_size = {key: costs.of_point(combination, key[1]) for key, combination in combinations.items()}
    of_points = [of_size[point.combination.name, point.size] for point in left]
    trainings = [cost for own, _ in of_points for cost in own]
    evaluations = [cost for _, cost in of_points]
    every = [*trainings, *evaluations]
    at_most = 'at most ' * any(combination.sizes.search is not None for combination in study.combinations)
    seconds = [sum(cost.seconds or 0 for cost in (*own, evaluation)) for own, evaluation in of_points]
    done = len(points) - len(left)
    in_full = '; interrupted points count in full' * any(point.status().state == STOPPED for point in left)
    known = None if at_most else study_seconds_left(collect(study, root), jobs)
    if known is not None:
        time = (
            f'about {format_time(known)} with {counted(jobs or 1, "point")} at a time, estimated from finished points'
        )
    elif costs.device is None:
        time = 'unknown, because this machine has no GPU; estimated once a point is finished'
    else:
        together = max([sum(seconds) / (jobs or 1), *seconds], default=0.0)
        time = f'about {format_time(together)} with {counted(jobs or 1, "point")} at a time'
        time += f' (short measurements on {costs.device.type})'
    return as_lines(
        {
            'Points': f'{at_most}{len(points)}'
            + f', of which {done} are done; the remaining ones need:' * bool(done)
            + in_full,
            'Training': f'{at_most}{sum(c.images for c in trainings):,} images in '
            f'{counted(sum(c.calls for c in trainings), "step")}',
            'Evaluation': f'{at_most}{sum(c.images for c in evaluations):,} images, '
            f'{sum(c.calls for c in evaluations):,} evaluations of the denoiser',
            'Time': time,
            'Memory': f'about {in_gb(max((c.memory for c in every), default=0))} per device, in addition to libraries',
            'Disk': f'about {in_gb(sum(c.disk for c in every))}',
            **({'Not counted': f'time of {", ".join(uncounted)}'} if (uncounted := uncounted_parts(study)) else {}),
        }
    )


def uncounted_parts(study: Study) -> list[str]:
    forms = any(combination.settings.denoiser is not None for combination in study.combinations)
    return [f'[diagnose.{name}]' for name in study.diagnose] + ['closed forms'] * forms
