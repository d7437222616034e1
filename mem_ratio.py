"""Entry script: measure the memorization ratio of runs, snapshots, pipelines or any images."""

import contextlib
import dataclasses
import json
import sys
from typing import Any

import click

from cli.command import RankedCommand, given_arguments, with_options
from dnnlib.util import counted, report_errors, with_option_names
from evaluation.evaluation_options import EvaluationOptions, check_options, requested_metrics
from evaluation.metrics import left_out
from evaluation.printing import distance_text, is_far, measured_lines, ratio_text, summary


@click.command(cls=RankedCommand)
@report_errors
@with_options(EvaluationOptions)
def main(options: EvaluationOptions) -> None:
    """Measure the memorization ratio: the share of generated images that are copies of training images.

    An image is a copy if its distance to the nearest training image is less than a third of its distance to the second
    nearest. For a run, every snapshot except the one at 0 kimg is evaluated, newest first, and the highest ratio is
    reported at the end. Run the same command again to resume an interrupted evaluation. EDM network pickles are treated as
    snapshots; no code in them is executed.

    \b
    # All snapshots of a run, with 10,000 images each
    torchrun --standalone --nproc_per_node=8 mem_ratio.py --expdir=runs/00000-… \\
        --knn-ref=datasets/cifar10/cifar10-1000.zip

    \b
    # Images from any other source
    python mem_ratio.py --images=samples/ --knn-ref=datasets/cifar10/cifar10-train.zip

    \b
    # A network from another source, with metrics in addition to the ratio
    python mem_ratio.py --network=https://… --knn-ref=datasets/cifar10/cifar10-train.zip --metrics=all
    """
    from evaluation.evaluate import evaluate
    from evaluation.evaluation_cost import evaluation_lines
    from evaluation.generators import fetched
    from torch_utils import distributed
    from training.config import as_lines

    given = given_arguments()
    check_options(options, given)
    pipeline_steps = options.sampler.num_steps if 'num_steps' in given else None
    device = distributed.choose_device(options.device)
    chatter = contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext()
    with distributed.process_group(device):
        if options.network is not None:
            options = dataclasses.replace(options, network=str(fetched(options.network, options.download)))
        if options.download.download_only:
            distributed.print0(options.network)
            return
        if options.dry_run:
            distributed.print0(as_lines(evaluation_lines(options, device, pipeline_steps)))
            distributed.print0('Dry run; stopping here.')
            return
        with chatter:
            records = evaluate(options, device, pipeline_steps)
        text = '\n'.join(map(json.dumps, records)) if options.as_json else with_option_names(report(options, records))
        distributed.print0(text)


def report(options: EvaluationOptions, records: list[dict[str, Any]]) -> str:
    """Format the ratio and the metrics as text."""
    from evaluation.evaluate import gallery_path
    from evaluation.records import best_record

    note = left_out(options.metrics or [], requested_metrics(options))
    notes = [note] * bool(note)
    if options.expdir is None:
        return '\n'.join([summary(records), *notes])
    best = best_record(records)
    lines = [
        f'Highest memorization ratio: {ratio_text(best)}, {best["snapshot"]}, {counted(best["epochs"], "epoch", digits=6)}',
        *[f'Mean distance: {distance_text(best)}'] * is_far(best),
        *measured_lines([best]),
        *notes,
        f'Gallery: {gallery_path(options)}',
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
