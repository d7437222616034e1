"""Generate images with the optimal denoiser of a training set: parses the options, and writes one PNG per seed."""

from pathlib import Path
from typing import Any

import click

from dataset_utils import open_source
from dnnlib.cli import Seeds, device_option, sampler_keywords, sampler_options
from dnnlib.util import report_errors
from evaluation.optimal_images import MAX_GRID_IMAGES, OptimalRun, generate_optimal_images
from torch_utils import distributed
from training.sampling import SamplerOptions


@click.command()
@click.option(
    '--data',
    '--network',
    'data',
    metavar='ZIP|DIR|NPY',
    type=str,
    required=True,
    help='Training set whose optimum generates the images. An .npy of pixels stays on disk without --shard.',
)
@click.option('--outdir', metavar='DIR', type=str, required=True, help='Where to save the images.')
@click.option(
    '--seeds',
    metavar='LIST',
    type=Seeds(),
    default='0-63',
    show_default=True,
    help='One image for each seed, such as 1,2,5-10.',
)
@click.option('--subdirs', is_flag=True, help='Put a thousand images in a folder.')
@click.option(
    '--cond',
    'conditional',
    metavar='BOOL',
    type=bool,
    default=False,
    show_default=True,
    help='The optimum within a class, drawn from the seed; else labels are ignored.',
)
@click.option('--class', 'class_index', metavar='INT', type=click.IntRange(min=0), help='Class of all images.')
@click.option(
    '--batch',
    'batch_size',
    metavar='INT',
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help='Images at a time, on each rank.',
)
@click.option(
    '--grid', metavar='PNG', type=str, help=f'Also save a contact sheet of the first {MAX_GRID_IMAGES} images.'
)
@click.option('--save-images/--no-save-images', default=True, show_default=True, help='Save a PNG for each seed.')
@click.option(
    '--shard',
    is_flag=True,
    help='Spread the training set over the ranks, where one device cannot hold it: each decodes and holds its share.',
)
@click.option(
    '--precision',
    metavar='fp32|fp64',
    type=click.Choice(['fp32', 'fp64']),
    default='fp32',
    show_default=True,
    help='fp32 is exact to 1e-5 of a denoised image; fp64 is slow.',
)
@device_option
@sampler_options
@report_errors
def main(**options: Any) -> None:
    """Generate images with the closed-form optimum of denoising score matching, which replays its training set.

    DIR/nearest.csv tells the training image that each one is nearest to, their squared pixel distance, and that to the
    next. The same command again goes on where it was interrupted. Images depend on neither --batch nor the number of
    ranks.

    \b
    # 64 images of the optimum on handwritten digits, and a contact sheet of them
    python generate_optim.py --data=digits --outdir=optimum --grid=optimum/grid.png

    \b
    # 50,000 images
    torchrun --standalone --nproc_per_node=1 generate_optim.py --outdir=fid-tmp-optim --seeds=0-49999 --subdirs \\
        --network=datasets/cifar10/cifar10-train.zip

    \b
    # A training set that no device can hold: spread over eight, or read from disk at every step
    torchrun --standalone --nproc_per_node=8 generate_optim.py --outdir=optimum --shard --data=imagenet64.zip
    python generate_optim.py --outdir=optimum --data=imagenet64.npy
    """
    path = options['data']
    run = configure(**options)
    device = distributed.choose_device(options['device'])
    with distributed.process_group(device):
        result = generate_optimal_images(open_source(path, '--data'), run, device)
        distributed.print0(
            f'{result.num_images} images in {run.outdir}: {result.num_copies} '
            f'({100 * result.num_copies / result.num_images:.4g} %) are copies of a training image, less than a third as far '
            f'from it as from any other; {result.num_exact} of them equal it pixel for pixel'
        )


def configure(**options: Any) -> OptimalRun:
    """What the options ask for."""
    sampler = SamplerOptions(**sampler_keywords(options))
    return OptimalRun(
        outdir=Path(options['outdir']),
        seeds=options['seeds'],
        batch_size=options['batch_size'],
        sampler=sampler,
        conditional=options['conditional'] or options['class_index'] is not None,
        class_index=options['class_index'],
        subdirs=options['subdirs'],
        save_images=options['save_images'],
        grid=Path(options['grid']) if options['grid'] else None,
        shard=options['shard'],
        float64=options['precision'] == 'fp64',
    )


if __name__ == '__main__':
    main()
