"""Entry script: train a denoiser on a data set (see `training.training_run`)."""

import shlex
from pathlib import Path

import click

from cli.command import RankedCommand, with_options
from dnnlib.util import report_errors
from training.training_options import RunOptions


class TrainCommand(RankedCommand):
    """The command that trains. Running it again starts another run, unless --nosubdir or --resume is given."""

    resumes = False


@click.command(cls=TrainCommand)
@click.pass_context
@report_errors
@with_options(RunOptions)
def main(ctx: click.Context, options: RunOptions) -> None:
    """Train a denoiser on a data set.

    Training states, statistics, and snapshots of the averaged weights are saved in a numbered folder in --outdir. Ctrl-C
    saves the training state; --resume=FOLDER then resumes the run, with bit-identical results.

    \b
    # The built-in digits on a laptop
    python train.py --outdir=runs --data=digits --preset=digits --epochs=100 --warmup=10 --snapshots=2

    \b
    # The paper's basic run on one machine with 8 GPUs
    torchrun --standalone --nproc_per_node=8 train.py --outdir=runs \\
        --data=datasets/cifar10/cifar10-1000.zip --preset=paper
    """
    from torch_utils import distributed
    from training.training_run import train_in_folder

    device = distributed.choose_device(options.device)
    with distributed.process_group(device):
        run_dir, stopped_by = train_in_folder(options, device)
        if run_dir is not None:
            distributed.print0(next_commands(run_dir, stopped_by, distributed.world_size()))
    if stopped_by:
        ctx.exit(128 + stopped_by)


def next_commands(run_dir: Path, stopped_by: int, world_size: int) -> str:
    """Return the last lines of the output: how to resume a run that stopped, or what to do after a run that finished."""
    from training.snapshot import newest_snapshot

    python = 'python' if world_size == 1 else f'torchrun --standalone --nproc_per_node={world_size}'
    run = shlex.quote(str(run_dir))
    if stopped_by:
        return f'Resume: {python} train.py --resume={run}'
    return (
        f'Last snapshot: {newest_snapshot(run_dir)}\nNext:\n'
        f'  {python} mem_ratio.py --expdir={run}  # the share of copies, for each snapshot; faster with --seeds=0-511\n'
        f'  {python} generate.py --network={run} --outdir={run}/images --grid={run}/images.png'
    )


if __name__ == '__main__':
    main()
