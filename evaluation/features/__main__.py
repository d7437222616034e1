"""The command `python -m evaluation.features`, which extracts features from images."""

import click

from cli.command import with_options
from dnnlib.util import report_errors
from evaluation.quality_options import ExtractOptions


@click.group()
def main() -> None:
    """Extract image features.

    \b
    python -m evaluation.features extract --source=digits --dest=digits.npy
    """


@main.command()
@report_errors
@with_options(ExtractOptions)
def extract(options: ExtractOptions) -> None:
    """Write image features as .npy, float32 [N, d], in the order of the images.

    A TorchScript file contains code that runs when it is loaded, so use only files that you trust.

    \b
    python -m evaluation.features extract --source=cifar10-train.zip --dest=train.npy \\
        --extractor=torchscript:net.pt --preprocess=imagenet
    """
    from evaluation.quality import write_features
    from torch_utils import distributed

    device = distributed.choose_device(options.extraction.device)
    with distributed.process_group(device):
        count, dimension = write_features(options, device)
        distributed.print0(f'Wrote {dimension} features for each of {count} images to {options.dest}')


if __name__ == '__main__':
    main(prog_name='python -m evaluation.features')
