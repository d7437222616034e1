"""Entry script: generate one image per seed with a network snapshot."""

from dataclasses import dataclass
from pathlib import Path

import click

from cli.command import RankedCommand, with_options
from dnnlib.download_options import DownloadOptions
from dnnlib.options import REQUIRED, group, option, seed_list
from dnnlib.util import counted, report_errors
from training.sampler_options import SamplerOptions, class_prior_option, device_option, precision_option


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of this script."""

    # fmt: off
    network: str = option(REQUIRED, 'Snapshot, run folder (its newest snapshot is used), or EDM network pickle.', unit='FILE|DIR|URL')
    outdir: Path | None = option(None, 'Folder for the images, or one file for all images. Required, except with `download_only`.', unit='DIR|NPZ|NPY')
    seeds: list[int] = option('0-63', 'Seeds, such as 1,2,5-10; one image is generated for each.', unit='LIST', parse=seed_list)
    subdirs: bool = option(False, 'Use a subfolder for every thousand images.', switch=True)
    class_index: int | None = option(None, 'Generate all images with this class. [default: drawn from the seed]', name='class', unit='INT', least=0)
    class_prior: str = class_prior_option()
    batch_size: int = option(64, 'Batch size on each rank.', name='batch', unit='INT', least=1)
    grid: Path | None = option(None, 'Also save a contact sheet of the first images.', unit='PNG')
    download: DownloadOptions = group(DownloadOptions)
    device: str = device_option()
    precision: str | None = precision_option()
    # fmt: on
    sampler: SamplerOptions = group(SamplerOptions)


@click.command(cls=RankedCommand)
@report_errors
@with_options(GenerateOptions)
def main(options: GenerateOptions) -> None:
    """Generate images with a network snapshot.

    Each image is determined by its seed. The number of ranks has no effect, and --batch affects only rounding errors.
    Run the same command again to resume an interrupted run. An output folder that contains images made by another network
    or with other settings is refused.

    \b
    # 64 images and a contact sheet of them
    python generate.py --network=runs/00000-digits --outdir=out --grid=out/grid.png

    \b
    # The same images in a single file, for file systems that limit the number of files
    python generate.py --network=runs/00000-digits --outdir=samples.npz

    \b
    # 50,000 images on 8 GPUs
    torchrun --standalone --nproc_per_node=8 generate.py --network=… --outdir=fid-tmp --seeds=0-49999 --subdirs
    """
    if options.outdir is None and not options.download.download_only:
        raise click.UsageError('--outdir is missing; give the folder for the images')
    from evaluation.generated_file import Output
    from evaluation.generation import generate
    from evaluation.generators import Sampling, SnapshotGenerator, fetched
    from torch_utils import distributed

    device = distributed.choose_device(options.device)
    with distributed.process_group(device):
        network = fetched(options.network, options.download)
        if options.download.download_only:
            distributed.print0(str(network))
            return
        assert options.outdir is not None
        generator = SnapshotGenerator(network, Sampling.of(options), device)
        output = Output(options.outdir, options.seeds, options.batch_size, options.subdirs, grid=options.grid)
        generate(output, generator)
        distributed.print0(f'{counted(len(output.seeds), "image", "d")} in {output.outdir}')


if __name__ == '__main__':
    main()
