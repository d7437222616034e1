"""The options of an evaluation, without torch: the command line of mem_ratio.py and the [evaluate] table of a study."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnnlib.download_options import DownloadOptions
from dnnlib.options import group, number_pair, option, options_in, seed_list, word_list
from dnnlib.util import ArgumentError
from evaluation.metrics import requested
from training.sampler_options import SamplerOptions, class_prior_option

FILTERS = ('lanczos', 'box', 'bicubic')
PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp16')


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to evaluate, what to compare it with, and what to measure and write."""

    # fmt: off
    expdir: Path | None = option(None, 'Evaluate all snapshots of a run folder of train.py or of EDM.', unit='DIR')
    images: tuple[str, ...] = option((), 'Evaluate images from any source; repeat the option for several sets.', unit='DIR|ZIP|NPZ|NPY')
    network: str | None = option(None, 'Evaluate one snapshot, or network pickle of EDM.', unit='FILE|URL')
    pipeline: Path | None = option(None, 'Evaluate an unconditional pipeline saved by diffusers.', unit='DIR')
    denoiser: str | None = option(None, 'Evaluate a closed-form denoiser of `data`, such as optimal, local:window=5 or hybrid:optimal>4>FILE.', unit='NAME')
    data: str | None = option(None, 'Training set of `denoiser`.', unit='ZIP|DIR|NPZ|NPY')
    training_set: str | None = option(None, 'Training set to compare with. [default: the training set of `expdir` or `denoiser`]', name='knn-ref', unit='ZIP|DIR|NPZ|NPY')
    xflip: bool | None = option(None, 'Compare with mirrored training images as well. [default: as in the training]', unit='BOOL')
    log: Path | None = option(None, 'Log file; the records go next to it as .jsonl. [default: mem_traj.log in `expdir`, else none]', unit='FILE')
    seeds: list[int] = option('0-9999', 'One image for each seed, such as 1,2,5-10.', unit='LIST', parse=seed_list)
    race: bool = option(False, 'Let the snapshots race on the first seeds, and give only the best one all of them; a quarter of the images.', unit='BOOL')
    class_index: int | None = option(None, 'Class of all images. [default: drawn from the seed]', name='class', unit='INT', least=0)
    class_prior: str = class_prior_option()
    batch_size: int = option(64, 'Images at a time, on each rank.', name='batch', unit='INT', least=1)
    save_images: bool = option(False, 'Save the images, and a table of their nearest training images, in `expdir`.', switch=True)
    subdirs: bool = option(False, 'With `save_images`, put a thousand images in a folder.', switch=True)
    gallery: Path | None = option(None, 'Save a picture of images next to their nearest training images here.', unit='PNG')
    table: Path | None = option(None, 'Save a row for each image: its nearest two training images, and flags.', unit='CSV')
    metrics: list[str] | None = option(None, 'Also compute these metrics of docs/metrics.md, or all; for a run, for its best snapshot.', unit='LIST', parse=word_list)
    test_set: str | None = option(None, 'Held-out set that some metrics compare with.', name='test-ref', unit='ZIP|DIR|NPZ|NPY')
    features: list[str] | None = option(None, 'Compute metrics in features instead of pixels: .npy files, float [N, d], in the order of the images.', unit='GEN,REF[,TEST]', parse=word_list)
    extractor: str | None = option(None, 'Compute metrics in the features of pixels, torchscript:FILE.pt or torch-fidelity:NAME[:WEIGHTS].', unit='NAME')
    preprocess: str | None = option(None, 'Preprocessing for torchscript: inception, imagenet, sscd, clip, none, or spelled out.', unit='NAME')
    resize: str | None = option(None, 'Resize `images` of another size to the size of `training_set`, by this filter.', choices=FILTERS)
    channels: str = option('auto', 'Compare as grey (1) or RGB (3); auto takes RGB if `images` or `training_set` have colour.', choices=('auto', '1', '3'))
    float_range: tuple[float, float] | None = option(None, 'Pixel range of floating-point `images`, such as -1,1.', unit='LOW,HIGH', parse=number_pair)
    as_json: bool = option(False, 'Print records alone on stdout, one line of JSON each.', name='json', switch=True)
    download: DownloadOptions = group(DownloadOptions)
    device: str = option('auto', 'Device to compute on.', unit='auto|cuda|mps|cpu')
    precision: str | None = option(None, 'Arithmetic of the networks. [default: as in the training]', choices=PRECISIONS)
    # fmt: on
    sampler: SamplerOptions = group(SamplerOptions)


SAMPLER_ARGUMENTS = tuple(field.name for field in dataclasses.fields(SamplerOptions))
GENERATORS = ('expdir', 'network', 'pipeline', 'denoiser')  # as in `evaluation.generators`
SUBJECTS = ('images', *GENERATORS)
# Options that have an effect only with some of these.
NETWORKS = ('expdir', 'network')
ONLY_FOR = {
    **dict.fromkeys(('log', 'seeds', 'batch_size', 'num_steps'), GENERATORS),
    'class_prior': NETWORKS,
    **dict.fromkeys(('class_index', *SAMPLER_ARGUMENTS[1:]), (*NETWORKS, 'denoiser')),
    **dict.fromkeys(('save_images', 'subdirs', 'race'), ('expdir',)),
    **dict.fromkeys(('cache_dir', 'sha256', 'download_only'), ('network',)),
    **dict.fromkeys(('float_range', 'resize', 'channels'), ('images',)),
    **dict.fromkeys(('gallery', 'features'), tuple(subject for subject in SUBJECTS if subject != 'expdir')),
    'precision': NETWORKS,
    'data': ('denoiser',),
}


def check_options(options: EvaluationOptions, given: set[str]) -> None:
    """Raise UserError if options do not go together. given: names of the arguments that the user gave."""
    subjects = [name for name in SUBJECTS if getattr(options, name)]
    if len(subjects) != 1:
        raise ArgumentError(
            'give either `expdir`, a run of train.py, or one of `images`, a folder or archive of images, `network`, a '
            'snapshot, `pipeline`, a pipeline of diffusers, and `denoiser`, a closed form'
        )
    (subject,) = subjects
    for field, _ in options_in(EvaluationOptions):
        if field.name in given and subject not in ONLY_FOR.get(field.name, SUBJECTS):
            raise ArgumentError(f'`{field.name}` has no effect with `{subject}`; remove it')
    if options.training_set is None and subject not in ('expdir', 'denoiser') and not options.download.download_only:
        raise ArgumentError(f'`{subject}` needs `training_set`, the training set to compare with')
    if options.log is not None and options.log.suffix == '.jsonl':
        raise ArgumentError(f'`log`={options.log}: the records go next to the log as .jsonl; name the log .log')
    if not options.metrics and (options.features or options.extractor or options.test_set):
        raise ArgumentError('`features`, `extractor` and `test_set` are for metrics; choose some with `metrics`')
    if options.features and options.extractor:
        raise ArgumentError('`features` were extracted before; remove them, or `extractor`')
    if options.preprocess and not options.extractor:
        raise ArgumentError('`preprocess` has no effect without `extractor`; remove it')
    if options.features and (not 2 <= len(options.features) <= 3 or len(options.images) > 1):
        raise ArgumentError('`features`=GEN.npy,REF.npy[,TEST.npy] is for one set of images; give two or three files')
    requested_metrics(options)


def requested_metrics(options: EvaluationOptions) -> Sequence[str]:
    """Names of the metrics to compute. Raises UserError for an unknown one, and for one whose test set is missing."""
    features = options.features or []
    has_test = options.test_set is not None or len(features) > 2
    return requested(options.metrics or [], has_test, has_features=bool(features or options.extractor))
