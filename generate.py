"""Generate images with a network snapshot: parses the options, and writes one PNG per seed."""

from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from dnnlib.cli import Seeds, device_option, download_options, precision_option, sampler_keywords, sampler_options
from dnnlib.download import fetch
from dnnlib.util import report_errors
from evaluation.generators import check_class
from evaluation.pictures import save_contact_sheet, save_images
from torch_utils import distributed
from torch_utils.misc import configure_backends
from training.sampling import SamplerOptions, generate_images, seed_batches
from training.snapshot import load_network

# A contact sheet shows this many images at most, in the order of the seeds.
MAX_GRID_IMAGES = 1024


@click.command()
@click.option(
    '--network',
    metavar='FILE|URL',
    type=str,
    required=True,
    help='Snapshot, or network pickle of EDM, to generate with.',
)
@click.option('--outdir', metavar='DIR', type=str, help='Where to save the images. Required but for --download-only.')
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
    '--grid', metavar='PNG', type=str, help=f'Also save a contact sheet of the first {MAX_GRID_IMAGES} images.'
)
@download_options('--network')
@device_option
@precision_option('Arithmetic of the network. [default: that of the training]')
@sampler_options
@report_errors
def main(**options: Any) -> None:
    """Generate images with a network snapshot.

    An image depends on its seed, and within rounding on --batch, but not on the number of ranks.

    \b
    # 64 images and a contact sheet of them
    python generate.py --network=runs/00000-digits/network-snapshot-000179.safetensors --outdir=out --grid=out/grid.png

    \b
    # 50,000 images on 8 GPUs
    torchrun --standalone --nproc_per_node=8 generate.py --network=… --outdir=fid-tmp --seeds=0-49999 --subdirs
    """
    sampler = SamplerOptions(**sampler_keywords(options))
    if options['outdir'] is None and not options['download_only']:
        raise click.UsageError('--outdir is missing: where to save the images')
    device = distributed.choose_device(options['device'])
    with distributed.process_group(device):
        network = distributed.on_main(lambda: fetch(options['network'], options['cache_dir'], options['sha256']))
        if options['download_only']:
            distributed.print0(str(network))
            return
        outdir, seeds = Path(options['outdir']), options['seeds']
        net = load_network(network, device, options['precision'])
        configure_backends(net.precision)
        check_class(options['class_index'], net.label_dim)
        batches = seed_batches(seeds, options['batch_size'], distributed.rank(), distributed.world_size())
        shown = set(seeds[:MAX_GRID_IMAGES]) if options['grid'] else set()
        sheet: dict[int, torch.Tensor] = {}
        total = sum(len(batch) for batch in batches)
        with tqdm(total=total, unit='img', desc='generate', disable=None if distributed.is_main() else True) as bar:
            for batch in generate_images(net, batches, sampler, device, options['class_index']):
                save_images(batch.images, batch.seeds, outdir, options['subdirs'])
                images = batch.images.cpu()
                sheet.update({seed: image for seed, image in zip(batch.seeds, images, strict=True) if seed in shown})
                bar.update(len(batch.seeds))
        if options['grid']:
            gathered = {seed: image for part in distributed.gather(sheet) for seed, image in part.items()}
            images = torch.stack([gathered[seed] for seed in seeds[:MAX_GRID_IMAGES]])
            distributed.on_main(lambda: save_contact_sheet(Path(options['grid']), images))
        distributed.barrier()
        distributed.print0(f'{len(seeds)} images in {outdir}')


if __name__ == '__main__':
    main()
