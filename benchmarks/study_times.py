"""Estimate how long the paper's studies take on GPUs, based on the number of arithmetic operations of their networks.

python -m benchmarks.study_times
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from dnnlib.options import build
from dnnlib.util import report_errors
from studies.points import Point, make_point
from studies.study_file import load_study
from studies.validation import parse_options
from training.config import TrainingConfig, resolve
from training.dataset import DatasetInfo
from training.snapshot import NetworkConfig
from training.training_options import RunOptions

DENOISER_CALLS = 35  # per image, with the 18 steps of the Heun sampler
PASSES = 3  # in a training step: one forward pass, and a backward pass that takes about as long as two


@click.command()
@click.argument('files', metavar='STUDY.toml', nargs=-1, type=click.Path(path_type=Path))
@click.option('--tflops', metavar='LIST', default='156,67', show_default=True, help='Peak speeds in TFLOP/s.')
@click.option('--used', metavar='SHARE', default=0.4, show_default=True, help='Share of the peak speed reached.')
@report_errors
def main(files: Sequence[Path], tflops: str, used: float) -> None:
    """Estimate how long studies take. The default peaks are for eight A100 and one H100, in fp32 without tensor cores."""
    peaks = [float(peak) for peak in tflops.split(',')]
    print('study                    points  images, 1e9   EFLOP  ' + '  '.join(f'{p:.0f} TFLOP/s' for p in peaks))
    for path in files or sorted(Path('scripts/studies').glob('*.toml')):
        study = load_study(path)
        if study.sources or study.document['train'].get('preset') != 'paper':
            kinds = 'uses its own sources' if study.sources else 'not from the paper'
            print(f'{study.name:24} {kinds}')
            continue
        points = [
            make_point(study, Path('x'), combination, size, repeat)
            for combination in study.combinations
            for size in combination.sizes.values
            for repeat in range(study.repeats.count)
        ]
        costs = [cost(point) for point in points]
        images, operations = (sum(column) for column in zip(*costs, strict=True))
        hours = (operations / (peak * 1e12 * used) / 3600 for peak in peaks)
        print(
            f'{study.name:24} {len(points):6}  {images / 1e9:11.2f}  {operations / 1e18:6.0f}  '
            + '  '.join(f'{h:8.0f} h' for h in hours)
        )


def cost(point: Point) -> tuple[int, float]:
    """Return a point's number of images seen in training, and its floating-point operations, including evaluation."""
    commands = point.commands()
    data = parse_options('data', commands['data'], point.name)
    train = parse_options('train', commands['train'], point.name)
    config = resolve(build(RunOptions, train.given_values), dataset_of(point, data.values))
    forward = operations_of(config)
    images = config.schedule.total_images
    seeds = len(parse_options('evaluate', commands['evaluate'], point.name).values['seeds'])
    generated = sum(place > 0 for place in config.snapshots) * seeds
    return images, forward * (PASSES * images + DENOISER_CALLS * generated)


def dataset_of(point: Point, options: dict) -> DatasetInfo:
    """Describe a point's training set, based on the options of its selection; no images are read."""
    selection = point.combination.settings.data['selection']
    classes = {'unique-labels': point.size, 'random-labels': options.get('num_classes')}.get(selection, 10)
    width = (options.get('resolution') or (32, 32))[0]
    return DatasetInfo('data', 'data', point.size, width, 3, classes or 10)


def operations_of(config: TrainingConfig) -> float:
    """Floating-point operations of one image's forward pass; a multiply-add counts as two."""
    return operations(config.network.class_name, json.dumps(config.network.arguments))


@functools.cache
def operations(class_name: str, arguments: str) -> float:
    network = NetworkConfig(class_name, json.loads(arguments))
    channels, size = (network.arguments[name] for name in ('img_channels', 'img_resolution'))
    labels = torch.zeros([1], dtype=torch.int64, device='meta') if network.arguments['label_dim'] else None
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net = network.build('meta').eval()
        net(torch.zeros([1, channels, size, size], device='meta'), torch.ones([1], device='meta'), labels)
    return float(counter.get_total_flops())


if __name__ == '__main__':
    main()
