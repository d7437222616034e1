"""Entry script: generate one image per seed with a closed-form denoiser fitted to a training set."""

from dataclasses import dataclass
from pathlib import Path

import click

from cli.command import RankedCommand, with_options
from dnnlib.options import REQUIRED, group, option, seed_list
from dnnlib.util import report_errors
from training.closed_form import DENOISERS
from training.sampler_options import SamplerOptions, class_prior_option, device_option


@dataclass(frozen=True, kw_only=True)
class GenerateOptimOptions:
    """The options of this script."""

    # fmt: off
    data: str = option(REQUIRED, 'Training set. An .npy file of pixels stays on disk unless `sharded` is given.', unit='ZIP|DIR|NPY', alias='network')
    denoiser: str = option('optimal', f'Closed-form denoiser: {", ".join(DENOISERS)}. Parameters are given as in local:window=5.', unit='NAME')
    outdir: Path = option(REQUIRED, 'Folder for the images, or one file for all images.', unit='DIR|NPZ|NPY')
    seeds: list[int] = option('0-63', 'Seeds, such as 1,2,5-10; one image is generated for each.', unit='LIST', parse=seed_list)
    subdirs: bool = option(False, 'Use a subfolder for every thousand images.', switch=True)
    conditional: bool = option(False, 'For each seed, draw a class and use only the training images of that class; by default, labels are ignored.', name='cond', unit='BOOL')
    class_index: int | None = option(None, 'Generate all images with this class.', name='class', unit='INT', least=0)
    class_prior: str = class_prior_option()
    batch_size: int = option(512, 'Batch size on each rank.', name='batch', unit='INT', least=1)
    grid: Path | None = option(None, 'Also save a contact sheet of the first images.', unit='PNG')
    save_images: bool = option(True, 'Save a PNG for each seed.', switch=True)
    sharded: bool = option(False, 'Let each rank decode and hold only its share of the training set, for sets that do not fit on one device.', name='shard', switch=True)
    precision: str | None = option(None, 'Precision of the optimum: fp32 has relative errors of at most 1e-5; fp64 is slow. [default: fp32]', choices=('fp32', 'fp64'))
    device: str = device_option()
    # fmt: on
    sampler: SamplerOptions = group(SamplerOptions)


@click.command(cls=RankedCommand)
@report_errors
@with_options(GenerateOptimOptions)
def main(options: GenerateOptimOptions) -> None:
    """Generate images with a closed-form denoiser fitted to a training set. The default is the optimum, which copies training images.

    For each generated image, DIR/nearest.csv (or the arrays in the .npz file) lists the two nearest training images and the
    squared pixel distances to them. Run the same command again to resume an interrupted run. The images depend neither on
    --batch nor on the number of ranks.

    \b
    # 64 samples from the optimum for the handwritten digits, and a contact sheet of them
    python generate_optim.py --data=digits --outdir=optimum --grid=optimum/grid.png

    \b
    # A patch denoiser (5×5 pixels), and a hybrid: the optimum above noise level 4, and a network below
    python generate_optim.py --data=train.zip --outdir=patches --denoiser=patch:window=5
    python generate_optim.py --data=train.zip --outdir=hybrid --denoiser='hybrid:optimal>4>network-snapshot-000080.safetensors'

    \b
    # 50,000 images
    torchrun --standalone --nproc_per_node=1 generate_optim.py --outdir=fid-tmp-optim --seeds=0-49999 --subdirs \\
        --network=datasets/cifar10/cifar10-train.zip

    \b
    # A training set that does not fit on one device: distributed over eight devices, or read from disk at every step
    torchrun --standalone --nproc_per_node=8 generate_optim.py --outdir=optimum --shard --data=imagenet64.zip
    python generate_optim.py --outdir=optimum --data=imagenet64.npy
    """
    from evaluation.generated_file import Output
    from evaluation.generation import generate_and_compare
    from evaluation.generators import ClosedFormGenerator, Sampling
    from torch_utils import distributed

    device = distributed.choose_device(options.device)
    sampling = Sampling.of(options)
    output = Output(
        options.outdir, options.seeds, options.batch_size, options.subdirs, options.save_images, options.grid
    )
    with distributed.process_group(device):
        copies, exact = generate_and_compare(output, ClosedFormGenerator(options.denoiser, sampling, device))
        count = len(output.seeds)
        distributed.print0(
            f'{count} images in {output.outdir}: {copies} ({100 * copies / count:.4g} %) are copies: less than a '
            f'third as far from one training image as from any other; {exact} of the copies are exact'
        )


if __name__ == '__main__':
    main()
