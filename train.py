"""Train a denoiser on a data set: parses the options, and calls `training.training_run`."""

import click

from cli.command import given_arguments, with_options
from dnnlib.util import report_errors
from training.training_options import RunOptions


@click.command()
@click.pass_context
@report_errors
@with_options(RunOptions)
def main(ctx: click.Context, options: RunOptions) -> None:
    """Train a denoiser on a data set.

    Snapshots of the averaged weights, training states and statistics go to a numbered folder in --outdir. Ctrl-C saves
    the training state; the same command with --nosubdir, or --resume, resumes the training bit for bit.

    \b
    # The built-in digits on a laptop
    python train.py --outdir=runs --data=digits --preset=digits --epochs=100 --snapshots=2

    \b
    # The paper's basic run on one machine with 8 GPUs
    torchrun --standalone --nproc_per_node=8 train.py --outdir=runs \\
        --data=datasets/cifar10/cifar10-1000.zip --preset=paper
    """
    from torch_utils import distributed
    from training.training_run import train_in_folder

    device = distributed.choose_device(options.device)
    with distributed.process_group(device):
        stopped_by = train_in_folder(options, given_arguments(), device)
    if stopped_by:
        ctx.exit(128 + stopped_by)


if __name__ == '__main__':
    main()
