"""Measure the memorization ratio of runs, snapshots, pipelines or any images: parses the options, and reports."""

import contextlib
import dataclasses
import json
import sys
from functools import partial
from typing import Any

import click

from cli.command import given_arguments, with_options
from dnnlib.download import fetch
from dnnlib.options import options_in, spelling
from dnnlib.util import report_errors
from evaluation.evaluate import evaluate
from evaluation.evaluation_options import EvaluationOptions
from evaluation.generators import GENERATORS
from evaluation.printing import ratio_text, summary, table_of_metrics
from evaluation.records import best_record
from torch_utils import distributed
from torch_utils.distributed import print0
from training.sampler_options import SamplerOptions

SAMPLER_ARGUMENTS = tuple(field.name for field in dataclasses.fields(SamplerOptions))
SUBJECTS = ('images', *GENERATORS)
# Options that have an effect with some of these only.
NETWORKS = ('expdir', 'network')
ONLY_FOR = {
    **dict.fromkeys(('log', 'seeds', 'batch_size', 'num_steps'), tuple(GENERATORS)),
    **dict.fromkeys(('class_index', *SAMPLER_ARGUMENTS[1:]), (*NETWORKS, 'denoiser')),
    **dict.fromkeys(('save_images', 'subdirs'), ('expdir',)),
    **dict.fromkeys(('cache_dir', 'sha256', 'download_only'), ('network',)),
    **dict.fromkeys(('float_range', 'resize'), ('images',)),
    **dict.fromkeys(('gallery', 'features'), tuple(subject for subject in SUBJECTS if subject != 'expdir')),
    'precision': NETWORKS,
    'data': ('denoiser',),
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
    pipeline_steps = options.sampler.num_steps if 'num_steps' in given else None
    device = distributed.choose_device(options.device)
    chatter = contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext()
    with distributed.process_group(device):
        if options.network is not None:
            network = distributed.on_main(partial(fetch, options.network, options.cache_dir, options.sha256))
            options = dataclasses.replace(options, network=str(network))
        if options.download_only:
            print0(options.network)
            return
        with chatter:
            records = evaluate(options, device, pipeline_steps)
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
            '--network, a snapshot, --pipeline, a pipeline of diffusers, and --denoiser, a closed form'
        )
    (subject,) = subjects
    for field, _ in options_in(EvaluationOptions):
        if field.name in given and subject not in ONLY_FOR.get(field.name, SUBJECTS):
            raise click.UsageError(f'--{spelling(field)} has no effect with --{subject}; remove it')
    if options.training_set is None and subject not in ('expdir', 'denoiser') and not options.download_only:
        raise click.UsageError(f'--{subject} needs --knn-ref, the training set to compare with')
    if options.log is not None and options.log.suffix == '.jsonl':
        raise click.UsageError(f'--log={options.log}: the records go next to the log as .jsonl; name the log .log')
    if not options.metrics and (options.features or options.test_set):
        raise click.UsageError('--features and --test-ref are for metrics; choose some with --metrics')
    if options.features and (not 2 <= len(options.features) <= 3 or len(options.images) > 1):
        raise click.UsageError(
            '--features=GEN.npy,REF.npy[,TEST.npy] is for one set of images; give two or three files'
        )


def report(options: EvaluationOptions, records: list[dict[str, Any]]) -> None:
    """Print the ratio, and the metrics."""
    if options.expdir is None:
        print0(summary(records))
        return
    best = best_record(records)
    print0(f'Highest memorization ratio: {ratio_text(best)}, {best["snapshot"]}, {best["epochs"]:.6g} epochs')
    if 'metrics' in best:
        print0(table_of_metrics([best]))
    print0(f'Gallery: {options.expdir / "mem_gallery.png"}')


if __name__ == '__main__':
    main()
