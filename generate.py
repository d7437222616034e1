"""Generate images with a network snapshot: parses the options, and writes one PNG per seed."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from tqdm import tqdm

from cli.command import with_options
from dnnlib.download import fetch
from dnnlib.options import REQUIRED, group, option, seed_list
from dnnlib.util import report_errors
from evaluation.generators import check_class
from evaluation.pictures import save_contact_sheet, save_images
from torch_utils import distributed
from torch_utils.misc import configure_backends
from training.sampler_options import SamplerOptions
from training.sampling import generate_images, seed_batches
from training.snapshot import load_network

# A contact sheet shows this many images at most, in the order of the seeds.
MAX_GRID_IMAGES = 1024


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of this script."""

    # fmt: off
    network: str = option(REQUIRED, 'Snapshot, or network pickle of EDM, to generate with.', unit='FILE|URL')
    outdir: Path | None = option(None, 'Folder for the images; only `download_only` works without it.', unit='DIR')
    seeds: list[int] = option('0-63', 'One image for each seed, such as 1,2,5-10.', unit='LIST', parse=seed_list)
    subdirs: bool = option(False, 'Put a thousand images in a folder.', switch=True)
    class_index: int | None = option(None, 'Class of all images. [default: drawn from the seed]', name='class', unit='INT', least=0)
    batch_size: int = option(64, 'Images at a time, on each rank.', name='batch', unit='INT', least=1)
    grid: Path | None = option(None, f'Also save a contact sheet of the first {MAX_GRID_IMAGES} images.', unit='PNG')
    cache_dir: Path | None = option(None, "Folder for downloads. [default: the user's cache folder]", unit='DIR')
    sha256: str | None = option(None, 'SHA-256 that the file of `network` must have.', unit='HEX')
    download_only: bool = option(False, 'Download the file of `network`, print where it is, and stop.', switch=True)
    device: str = option('auto', 'Device to compute on.', unit='auto|cuda|mps|cpu')
    precision: str | None = option(None, 'Arithmetic of the network. [default: as in the training]', choices=('fp32', 'tf32', 'bf16', 'fp16'))
    # fmt: on
    sampler: SamplerOptions = group(SamplerOptions)


@click.command()
@report_errors
@with_options(GenerateOptions)
def main(options: GenerateOptions) -> None:
    """Generate images with a network snapshot.

    An image depends on its seed and, within rounding, on --batch, but not on the number of ranks.

    \b
    # 64 images and a contact sheet of them
    python generate.py --network=runs/00000-digits/network-snapshot-000179.safetensors --outdir=out --grid=out/grid.png

    \b
    # 50,000 images on 8 GPUs
    torchrun --standalone --nproc_per_node=8 generate.py --network=… --outdir=fid-tmp --seeds=0-49999 --subdirs
    """
    if options.outdir is None and not options.download_only:
        raise click.UsageError('--outdir is missing: where to save the images')
    device = distributed.choose_device(options.device)
    with distributed.process_group(device):
        network = distributed.on_main(lambda: fetch(options.network, options.cache_dir, options.sha256))
        if options.download_only:
            distributed.print0(str(network))
            return
        outdir, seeds = options.outdir, options.seeds
        assert outdir is not None
        net = load_network(network, device, options.precision)
        configure_backends(net.precision)
        check_class(options.class_index, net.label_dim)
        batches = seed_batches(seeds, options.batch_size, distributed.rank(), distributed.world_size())
        shown = set(seeds[:MAX_GRID_IMAGES]) if options.grid else set()
        sheet: dict[int, torch.Tensor] = {}
        total = sum(len(batch) for batch in batches)
        with tqdm(total=total, unit='img', desc='generate', disable=None if distributed.is_main() else True) as bar:
            for batch in generate_images(net, batches, options.sampler, device, options.class_index):
                save_images(batch.images, batch.seeds, outdir, options.subdirs)
                images = batch.images.cpu()
                sheet.update({seed: image for seed, image in zip(batch.seeds, images, strict=True) if seed in shown})
                bar.update(len(batch.seeds))
        if options.grid:
            gathered = {seed: image for part in distributed.gather(sheet) for seed, image in part.items()}
            images = torch.stack([gathered[seed] for seed in seeds[:MAX_GRID_IMAGES]])
            distributed.on_main(partial(save_contact_sheet, options.grid, images))
        distributed.barrier()
        distributed.print0(f'{len(seeds)} images in {outdir}')


if __name__ == '__main__':
    main()
