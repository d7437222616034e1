"""Measure the memorization ratio of every snapshot of a run, or of any images: parses the options, and reports."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from dataset_utils import open_source
from dnnlib.cli import Seeds, device_option, precision_option, sampler_keywords, sampler_options
from dnnlib.util import UserError, report_errors
from evaluation.memorization import TrainingImages
from evaluation.trajectory import GALLERY_SIZE, Evaluation, evaluate_run, write_gallery
from torch_utils import distributed
from torch_utils.distributed import print0
from training.config import read_options
from training.dataset import load_dataset
from training.sampling import SamplerOptions


@click.command()
@click.option(
    '--expdir', metavar='DIR', type=str, help='Run folder of train.py or of EDM, all of whose snapshots are evaluated.'
)
@click.option('--images', metavar='DIR|ZIP|NPZ', type=str, help='Images to judge instead, whatever made them.')
@click.option(
    '--knn-ref', metavar='ZIP|DIR', type=str, help='Training set to compare with. [default: that of --expdir]'
)
@click.option(
    '--log',
    metavar='FILE',
    type=str,
    help='Log file; records go beside it as .jsonl. [default: mem_traj.log in --expdir]',
)
@click.option(
    '--seeds',
    metavar='LIST',
    type=Seeds(),
    default='0-9999',
    show_default=True,
    help='One image for each seed, such as 1,2,5-10.',
)
@click.option(
    '--class',
    'class_index',
    metavar='INT',
    type=click.IntRange(min=0),
    help='Class of all images. [default: drawn from the seed]',
)
@click.option(
    '--batch',
    'batch_size',
    metavar='INT',
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help='Images at a time, on each rank.',
)
@click.option(
    '--save-images', is_flag=True, help='Save the images, and a table of their nearest training images, in --expdir.'
)
@click.option('--subdirs', is_flag=True, help='With --save-images, put a thousand images in a folder.')
@click.option('--gallery', metavar='PNG', type=str, help='With --images, save a gallery here.')
@device_option
@precision_option('Arithmetic of the networks. [default: that of the training]')
@sampler_options
@report_errors
def main(**options: Any) -> None:
    """Measure the memorization ratio: the share of generated images that are copies of training images.

    A copy is closer to its nearest training image than a third of the distance to the second nearest. Every snapshot
    but that at 0 kimg is evaluated, newest first; the highest ratio is reported at the end. Running the same command
    again goes on where it stopped. Network pickles of EDM are snapshots too; nothing in them is executed.

    \b
    # All snapshots of a run, with 10,000 images each
    torchrun --standalone --nproc_per_node=8 mem_ratio.py --expdir=runs/00000-…
    --knn-ref=datasets/cifar10/cifar10-1000.zip

    \b
    # Images that anything else made
    python mem_ratio.py --images=samples/ --knn-ref=datasets/cifar10/cifar10-train.zip
    """
    sampler = SamplerOptions(**sampler_keywords(options))
    if (options['expdir'] is None) == (options['images'] is None):
        raise click.UsageError('give either --expdir, a run of train.py, or --images, a folder or archive of images')
    device = distributed.choose_device(options['device'])
    with distributed.process_group(device):
        if options['images'] is not None:
            judge_images(options, device)
        else:
            judge_run(options, sampler, device)


def judge_run(options: dict[str, Any], sampler: SamplerOptions, device: torch.device) -> None:
    run_dir = Path(options['expdir'])
    if not run_dir.is_dir():
        raise UserError(f'--expdir={run_dir}: no such folder; give the run folder that train.py made')
    log_path = Path(options['log'] or run_dir / 'mem_traj.log')
    if log_path.suffix == '.jsonl':
        raise click.UsageError(f'--log={log_path}: the records go beside the log as .jsonl; name the log .log')
    reference = load_dataset(options['knn_ref'] or training_set_of(run_dir), option='--knn-ref')
    evaluation = Evaluation(
        seeds=options['seeds'],
        batch_size=options['batch_size'],
        sampler=sampler,
        class_index=options['class_index'],
        precision=options['precision'],
        save_images=options['save_images'],
        subdirs=options['subdirs'],
    )
    best = evaluate_run(run_dir, reference, evaluation, log_path, device)
    print0(
        f'Highest memorization ratio: {100 * best["ratio"]:.2f} % (95 % interval {100 * best["ratio_low"]:.2f} to '
        f'{100 * best["ratio_high"]:.2f} %), {best["snapshot"]}, {best["epochs"]:.6g} epochs'
    )
    print0(f'Gallery: {run_dir / "mem_gallery.png"}')


def training_set_of(run_dir: Path) -> str:
    """The path of the training set that train.py was given. Raises UserError where the run is not one of train.py's."""
    try:
        return read_options(run_dir)['data']
    except (UserError, KeyError) as error:
        problem = str(error).split(';')[0]
        raise UserError(f'{problem}; give --knn-ref, the training set to compare with') from error


def judge_images(options: dict[str, Any], device: torch.device) -> None:
    if options['knn_ref'] is None:
        raise click.UsageError('--images needs --knn-ref, the training set to compare with')
    reference = load_dataset(options['knn_ref'], option='--knn-ref')
    images = read_images(options['images'])
    if images.shape[1:] != reference.images.shape[1:]:
        raise UserError(
            f'--images={options["images"]}: its images are {describe_shape(images)}, those of '
            f'--knn-ref={options["knn_ref"]} {describe_shape(reference.images)}; both must be the same'
        )
    training = TrainingImages(reference.images, device, name=f'--knn-ref={options["knn_ref"]}')
    result = training.summarize(*training.nearest_two(images))
    record = {
        'images': Path(options['images']).name,
        'num_images': len(images),
        'num_memorized': result.num_memorized,
        'ratio': result.ratio,
        'ratio_low': result.interval[0],
        'ratio_high': result.interval[1],
        'mean_distance': result.mean_distance,
        'num_duplicates': result.num_duplicates,
        'dataset': reference.name,
        'dataset_sha256': reference.sha256,
        'dataset_size': len(reference.images),
    }
    if options['gallery'] is not None:
        gallery = Path(options['gallery'])
        distributed.on_main(lambda: write_gallery(gallery, images[:GALLERY_SIZE], reference, training))
    print0(json.dumps(record))
    print0(
        f'Memorization ratio: {100 * result.ratio:.2f} % (95 % interval {100 * result.interval[0]:.2f} to '
        f'{100 * result.interval[1]:.2f} %) of {len(images)} images'
    )


def read_images(path: str) -> torch.Tensor:
    """Images of a folder, an archive or an .npz ('images' or 'arr_0', uint8 NHWC or NCHW) as uint8 [N, C, H, W]."""
    if not path.lower().endswith('.npz'):
        pixels = open_source(path, '--images').load(progress=distributed.is_main())
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    try:
        with np.load(path, allow_pickle=False) as data:
            name = next((name for name in ('images', 'arr_0') if name in data), None)
            if name is None:
                raise UserError(f'--images={path}: it has no array named images or arr_0')
            array = data[name]
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own for a broken file
        raise UserError(f'--images={path}: not a readable .npz ({error})') from error
    if array.dtype != np.uint8 or array.ndim != 4 or not len(array) or not {1, 3} & {array.shape[1], array.shape[3]}:
        raise UserError(
            f'--images={path}: {name} is {array.dtype} {list(array.shape)}, and must be uint8 [N, H, W, C] or '
            f'[N, C, H, W] with 1 or 3 channels'
        )
    if array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def describe_shape(images: torch.Tensor) -> str:
    _, channels, height, width = images.shape
    return f'{width}x{height} of {channels} channel{"s" * (channels > 1)}'


if __name__ == '__main__':
    main()
