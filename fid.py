"""Entry script: measure Fréchet and kernel distances between images and a reference, and write reference statistics."""

import contextlib
import json
import sys

import click

from cli.command import RankedGroup, given_arguments, with_options
from dnnlib.util import counted, report_errors
from evaluation.quality_options import CalcOptions, RefOptions, check_calc


@click.group(cls=RankedGroup)
def main() -> None:
    """Measure the Fréchet distance and the kernel distance between images and a reference.

    With Inception features, these distances are the FID and the KID. Statistics files have the format of EDM's fid.py.
    Results do not depend on the number of ranks. With torchrun, put -- before the script's name.

    \b
    # The Fréchet distance in pixel space between the digits and samples from the Gaussian denoiser fitted to them
    python fid.py calc --denoiser=gaussian --data=digits --ref=digits --num=200 --steps=5
    """


@main.command()
@report_errors
@with_options(CalcOptions)
def calc(options: CalcOptions) -> None:
    """Compare images, or samples from a network, with reference statistics or images.

    The Fréchet distance depends strongly on the number of images: distances for different numbers of images cannot be
    compared. A TorchScript file contains code that runs when it is loaded, so use only files that you trust.

    \b
    # FID of 50,000 images against statistics published for EDM
    torchrun --standalone --nproc_per_node=8 -- fid.py calc --images=fid-tmp --ref=cifar10-32x32.npz \\
        --extractor=torch-fidelity:inception-v3-compat

    \b
    # Samples from a snapshot (not written to disk), compared with the snapshot's training set
    python fid.py calc --network=runs/00000-…/network-snapshot-002000.safetensors --ref=cifar10-1000.zip --num=1000 \\
        --extractor=torchscript:dinov2.pt --preprocess=imagenet
    """
    from evaluation.quality import calculate, report
    from torch_utils import distributed

    check_calc(options, given_arguments())
    device = distributed.choose_device(options.extraction.device)
    chatter = contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext()
    with distributed.process_group(device):
        with chatter:
            record = calculate(options, device)
        distributed.print0(json.dumps(record) if options.as_json else report(record))


@main.command()
@report_errors
@with_options(RefOptions)
def ref(options: RefOptions) -> None:
    """Write the mean and covariance of image features to a file that fid.py calc and EDM's fid.py can read.

    \b
    python fid.py ref --data=digits --dest=digits.npz
    """
    from evaluation.quality import write_reference
    from torch_utils import distributed

    device = distributed.choose_device(options.extraction.device)
    with distributed.process_group(device):
        count = write_reference(options, device)
        distributed.print0(f'Statistics of {counted(count, "image", "d")} written to {options.dest}')


if __name__ == '__main__':
    main()
