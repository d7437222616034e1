"""Measure the memorization ratio of runs, snapshots, pipelines or any images: parses the options, and reports."""

import contextlib
import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from cli.command import given_arguments, with_options
from dnnlib.download import fetch
from dnnlib.options import options_in, spelling
from dnnlib.util import report_errors
from evaluation.evaluation_options import EvaluationOptions
from evaluation.judging import Extras, Request, judge, table_of_records
from evaluation.metrics import METRICS
from evaluation.model_judge import Evaluation
from evaluation.trajectory import best_of
from torch_utils import distributed
from torch_utils.distributed import print0
from training.sampler_options import SamplerOptions

SAMPLER_ARGUMENTS = tuple(field.name for field in dataclasses.fields(SamplerOptions))
SUBJECTS = ('expdir', 'images', 'network', 'pipeline')
# Options that say something of some of these only.
SAMPLED = ('expdir', 'network', 'pipeline')
ONLY_FOR = {
    **dict.fromkeys(('log', 'seeds', 'batch_size', 'num_steps'), SAMPLED),
    **dict.fromkeys(('class_index', 'precision', *SAMPLER_ARGUMENTS[1:]), ('expdir', 'network')),
    **dict.fromkeys(('save_images', 'subdirs'), ('expdir',)),
    **dict.fromkeys(('cache_dir', 'sha256', 'download_only'), ('network',)),
    'float_range': ('images',),
    'resize': ('images',),
    'gallery': ('images', 'network', 'pipeline'),
    'features': ('images', 'network', 'pipeline'),
}


@click.command()
@report_errors
@with_options(EvaluationOptions)
def main(options: EvaluationOptions) -> None:
    """Measure the memorization ratio: the share of generated images that are copies of training images.

    An image is a copy if its distance to the nearest training image is less than a third of its distance to the second
    nearest. For a run, every snapshot except the one at 0 kimg is evaluated, newest first, and the highest ratio is
    reported at the end. The same command resumes an interrupted evaluation. Network pickles of EDM count as snapshots;
    nothing in them is executed.

    \b
    # All snapshots of a run, with 10,000 images each
    torchrun --standalone --nproc_per_node=8 mem_ratio.py --expdir=runs/00000-… \\
        --knn-ref=datasets/cifar10/cifar10-1000.zip

    \b
    # Images from any other source
    python mem_ratio.py --images=samples/ --knn-ref=datasets/cifar10/cifar10-train.zip

    \b
    # One network from elsewhere, with metrics in addition to the ratio
    python mem_ratio.py --network=https://… --knn-ref=datasets/cifar10/cifar10-train.zip --metrics=all
    """
    given = given_arguments()
    check_options(options, given)
    request = configure(options, given)
    device = distributed.choose_device(options.device)
    chatter = contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext()
    with distributed.process_group(device):
        if options.network is not None:
            network = distributed.on_main(partial(fetch, options.network, options.cache_dir, options.sha256))
            request = dataclasses.replace(request, network=network)
        if options.download_only:
            print0(str(request.network))
            return
        with chatter:
            records = judge(request, device)
        if options.as_json:
            print0('\n'.join(json.dumps(record) for record in records))
        else:
            report(options, records)


def check_options(options: EvaluationOptions, given: set[str]) -> None:
    """Raise click.UsageError if options do not go together. given: arguments that the user gave."""
    subjects = [name for name in SUBJECTS if getattr(options, name)]
    if len(subjects) != 1:
        raise click.UsageError(
            'give either --expdir, a run of train.py, or one of --images, a folder or archive of images, '
            '--network, a snapshot, and --pipeline, a pipeline of diffusers'
        )
    (subject,) = subjects
    for field, _ in options_in(EvaluationOptions):
        if field.name in given and subject not in ONLY_FOR.get(field.name, SUBJECTS):
            raise click.UsageError(f'--{spelling(field)} has no effect with --{subject}; remove it')
    if options.knn_ref is None and subject != 'expdir' and not options.download_only:
        raise click.UsageError(f'--{subject} needs --knn-ref, the training set to compare with')
    if options.log is not None and options.log.suffix == '.jsonl':
        raise click.UsageError(f'--log={options.log}: the records go next to the log as .jsonl; name the log .log')
    if not options.metrics and (options.features or options.test_ref):
        raise click.UsageError('--features and --test-ref are for metrics; choose some with --metrics')
    if options.features and (not 2 <= len(options.features) <= 3 or len(options.images) > 1):
        raise click.UsageError(
            '--features=GEN.npy,REF.npy[,TEST.npy] is for one set of images; give two or three files'
        )


def configure(options: EvaluationOptions, given: set[str]) -> Request:
    """Turn the options into a request; a URL of --network stands for its file."""
    expdir, log = options.expdir, options.log
    has_test = options.test_ref is not None or len(options.features or []) > 2
    metrics = options.metrics or []
    if metrics == ['all']:
        metrics = [name for name, metric in METRICS.items() if has_test or not metric.needs_test]
    return Request(
        evaluation=Evaluation(options.seeds, options.batch_size, options.save_images, options.subdirs),
        sampler=options.sampler,
        images=options.images,
        expdir=expdir,
        network=Path(options.network) if options.network is not None else None,
        pipeline=options.pipeline,
        knn_ref=options.knn_ref,
        log=expdir / 'mem_traj.log' if log is None and expdir is not None else log,
        class_index=options.class_index,
        precision=options.precision,
        num_steps=options.sampler.num_steps if 'num_steps' in given else None,
        resize=options.resize,
        float_range=options.float_range,
        extras=Extras(metrics, options.test_ref, options.features or [], options.table, options.gallery),
    )


def report(options: EvaluationOptions, records: list[dict[str, Any]]) -> None:
    """Print what a reader wants to know."""
    if options.expdir is not None:
        best = records[best_of(records)]
        print0(
            f'Highest memorization ratio: {100 * best["ratio"]:.2f} % (95 % interval {100 * best["ratio_low"]:.2f} to '
            f'{100 * best["ratio_high"]:.2f} %), {best["snapshot"]}, {best["epochs"]:.6g} epochs'
        )
        if 'metrics' in best:
            print0(json.dumps(best['metrics']))
        print0(f'Gallery: {options.expdir / "mem_gallery.png"}')
        return
    for record in records:
        print0(json.dumps(record))
    if len(records) > 1:
        print0(table_of_records(records))
        return
    (record,) = records
    print0(
        f'Memorization ratio: {100 * record["ratio"]:.2f} % (95 % interval {100 * record["ratio_low"]:.2f} to '
        f'{100 * record["ratio_high"]:.2f} %) of {record["num_images"]} images'
    )


if __name__ == '__main__':
    main()
