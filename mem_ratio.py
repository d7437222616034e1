"""Measure the memorization ratio of runs, snapshots, pipelines or any images: parses the options, and reports."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dnnlib.cli import (
    SAMPLER_KEYWORDS,
    FloatPair,
    Seeds,
    Words,
    device_option,
    download_options,
    precision_option,
    sampler_keywords,
    sampler_options,
)
from dnnlib.download import fetch
from dnnlib.util import report_errors
from evaluation.given_images import FILTERS
from evaluation.judging import Extras, Request, judge, table_of_records
from evaluation.metrics import METRICS
from evaluation.model_judge import Evaluation
from evaluation.trajectory import best_of
from torch_utils import distributed
from torch_utils.distributed import print0
from training.sampling import SamplerOptions

SUBJECTS = ('expdir', 'images', 'network', 'pipeline')
# Options that say something of some of these only.
SAMPLED = ('expdir', 'network', 'pipeline')
ONLY_FOR = {
    **dict.fromkeys(('log', 'seeds', 'batch_size', 'num_steps'), SAMPLED),
    **dict.fromkeys(('class_index', 'precision', *SAMPLER_KEYWORDS[1:]), ('expdir', 'network')),
    **dict.fromkeys(('save_images', 'subdirs'), ('expdir',)),
    **dict.fromkeys(('cache_dir', 'sha256', 'download_only'), ('network',)),
    'float_range': ('images',),
    'resize': ('images',),
    'gallery': ('images', 'network', 'pipeline'),
    'features': ('images', 'network', 'pipeline'),
}


@click.command()
@click.option('--expdir', metavar='DIR', type=str, help='Judge all snapshots of a run folder of train.py or of EDM.')
@click.option(
    '--images',
    metavar='DIR|ZIP|NPZ|NPY',
    type=str,
    multiple=True,
    help='Judge images, whatever made them; given several times, each.',
)
@click.option('--network', metavar='FILE|URL', type=str, help='Judge one snapshot, or network pickle of EDM.')
@click.option('--pipeline', metavar='DIR', type=str, help='Judge an unconditional pipeline that diffusers saved.')
@click.option(
    '--knn-ref', metavar='ZIP|DIR|NPZ|NPY', type=str, help='Training set to compare with. [default: that of --expdir]'
)
@click.option(
    '--log',
    metavar='FILE',
    type=str,
    help='Log file; records go beside it as .jsonl. [default: mem_traj.log in --expdir, else none]',
)
@click.option(
    '--seeds',
    metavar='LIST',
    type=Seeds(),
    default='0-9999',
    show_default=True,
    help='One image for each seed, such as 1,2,5-10.',
)
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
    '--save-images', is_flag=True, help='Save the images, and a table of their nearest training images, in --expdir.'
)
@click.option('--subdirs', is_flag=True, help='With --save-images, put a thousand images in a folder.')
@click.option('--gallery', metavar='PNG', type=str, help='Save a gallery of the first images here.')
@click.option('--table', metavar='CSV', type=str, help='Save a row for each image: its nearest two, and flags.')
@click.option(
    '--metrics',
    metavar='LIST',
    type=Words(),
    help=f'Also compute these of {",".join(METRICS)}, or all; of a run, for its best snapshot.',
)
@click.option('--test-ref', metavar='ZIP|DIR|NPZ|NPY', type=str, help='Held-out set that some metrics compare with.')
@click.option(
    '--features',
    metavar='GEN,REF[,TEST]',
    type=Words(),
    help='Compute metrics in features instead of pixels: .npy files, float [N, d], in the order of the images.',
)
@click.option(
    '--resize',
    metavar='|'.join(FILTERS),
    type=click.Choice(list(FILTERS)),
    help='Bring --images of another size to that of --knn-ref, by this filter.',
)
@click.option(
    '--float-range', metavar='LOW,HIGH', type=FloatPair(), help='What black and white are in --images of floats: -1,1.'
)
@click.option('--json', 'as_json', is_flag=True, help='Print records alone on stdout, one line of JSON each.')
@download_options('--network')
@device_option
@precision_option('Arithmetic of the networks. [default: that of the training]')
@sampler_options
@click.pass_context
@report_errors
def main(context: click.Context, **options: Any) -> None:
    """Measure the memorization ratio: the share of generated images that are copies of training images.

    A copy is closer to its nearest training image than a third of the distance to the second nearest. Of a run, every
    snapshot but that at 0 kimg is evaluated, newest first; the highest ratio is reported at the end. Running the same
    command again goes on where it stopped. Network pickles of EDM are snapshots too; nothing in them is executed.

    \b
    # All snapshots of a run, with 10,000 images each
    torchrun --standalone --nproc_per_node=8 mem_ratio.py --expdir=runs/00000-…
    --knn-ref=datasets/cifar10/cifar10-1000.zip

    \b
    # Images that anything else made
    python mem_ratio.py --images=samples/ --knn-ref=datasets/cifar10/cifar10-train.zip

    \b
    # One network from elsewhere, with metrics beside the ratio
    python mem_ratio.py --network=https://… --knn-ref=datasets/cifar10/cifar10-train.zip --metrics=all
    """
    check_options(context, options)
    request = configure(context, options)
    device = distributed.choose_device(options['device'])
    chatter = contextlib.redirect_stdout(sys.stderr) if options['as_json'] else contextlib.nullcontext()
    with distributed.process_group(device):
        if options['network'] is not None:
            network = distributed.on_main(lambda: fetch(options['network'], options['cache_dir'], options['sha256']))
            request = dataclasses.replace(request, network=network)
        if options['download_only']:
            print0(str(request.network))
            return
        with chatter:
            records = judge(request, device)
        if options['as_json']:
            print0('\n'.join(json.dumps(record) for record in records))
        else:
            report(options, records)


def check_options(context: click.Context, options: dict[str, Any]) -> None:
    """Raise click.UsageError where options do not go together."""
    subjects = [name for name in SUBJECTS if options[name]]
    if len(subjects) != 1:
        raise click.UsageError(
            'give either --expdir, a run of train.py, or one of --images, a folder or archive of images, '
            '--network, a snapshot, and --pipeline, a pipeline of diffusers'
        )
    (subject,) = subjects
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
        if given and subject not in ONLY_FOR.get(str(parameter.name), SUBJECTS):
            raise click.UsageError(f'{parameter.opts[0]} says nothing of --{subject}; leave it out')
    if options['knn_ref'] is None and subject != 'expdir' and not options['download_only']:
        raise click.UsageError(f'--{subject} needs --knn-ref, the training set to compare with')
    if options['log'] is not None and options['log'].endswith('.jsonl'):
        raise click.UsageError(f'--log={options["log"]}: the records go beside the log as .jsonl; name the log .log')
    if not options['metrics'] and (options['features'] or options['test_ref']):
        raise click.UsageError('--features and --test-ref are for metrics; choose some with --metrics')
    if options['features'] and (not 2 <= len(options['features']) <= 3 or len(options['images']) > 1):
        raise click.UsageError(
            '--features=GEN.npy,REF.npy[,TEST.npy] is for one set of images; give two or three files'
        )


def configure(context: click.Context, options: dict[str, Any]) -> Request:
    """What the options ask for; a URL of --network stands for its file. Raises click.UsageError."""
    sampler = SamplerOptions(**sampler_keywords(options))
    steps_given = context.get_parameter_source('num_steps') == ParameterSource.COMMANDLINE
    expdir, network, pipeline, log, table, gallery = (
        Path(options[name]) if options[name] is not None else None
        for name in ('expdir', 'network', 'pipeline', 'log', 'table', 'gallery')
    )
    has_test = options['test_ref'] is not None or len(options['features'] or []) > 2
    metrics = options['metrics'] or []
    if metrics == ['all']:
        metrics = [name for name, metric in METRICS.items() if has_test or not metric.needs_test]
    return Request(
        evaluation=Evaluation(options['seeds'], options['batch_size'], options['save_images'], options['subdirs']),
        sampler=sampler,
        images=options['images'],
        expdir=expdir,
        network=network,
        pipeline=pipeline,
        knn_ref=options['knn_ref'],
        log=expdir / 'mem_traj.log' if log is None and expdir is not None else log,
        class_index=options['class_index'],
        precision=options['precision'],
        num_steps=sampler.num_steps if steps_given else None,
        resize=options['resize'],
        float_range=options['float_range'],
        extras=Extras(metrics, options['test_ref'], options['features'] or [], table, gallery),
    )


def report(options: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Print what a reader wants to know."""
    if options['expdir'] is not None:
        best = records[best_of(records)]
        print0(
            f'Highest memorization ratio: {100 * best["ratio"]:.2f} % (95 % interval {100 * best["ratio_low"]:.2f} to '
            f'{100 * best["ratio_high"]:.2f} %), {best["snapshot"]}, {best["epochs"]:.6g} epochs'
        )
        if 'metrics' in best:
            print0(json.dumps(best['metrics']))
        print0(f'Gallery: {Path(options["expdir"]) / "mem_gallery.png"}')
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
