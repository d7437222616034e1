"""The options of an evaluation, on the command line of mem_ratio.py and in a study's [evaluate] table (no torch)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnnlib.download_options import DownloadOptions
from dnnlib.options import group, number_pair, option, options_in, seed_list, word_list
from dnnlib.util import ArgumentError
from evaluation.metrics import requested
from training.sampler_options import SamplerOptions, class_prior_option, device_option, precision_option

FILTERS = ('lanczos', 'box', 'bicubic')


@dataclass(frozen=True)
class CopyRule:
    """A rule from `evaluation.copy_rules`. threshold: in (0, 1), used only by the cosine rule."""

    name: str
    threshold: float = 0

    def __str__(self) -> str:
        return f'{self.name}:{self.threshold:g}' if self.name == 'cosine' else self.name


def copy_rule(text: str) -> CopyRule:
    """Parse 'relative', 'adaptive', or a cosine rule such as 'cosine:0.6'."""
    name, _, value = text.partition(':')
    if text in ('relative', 'adaptive'):
        return CopyRule(text)
    try:
        if name == 'cosine' and 0 < float(value) < 1:
            return CopyRule(name, float(value))
    except ValueError:
        pass
    raise ValueError(f'{text!r} is not relative, adaptive, or cosine with a threshold in (0, 1) such as cosine:0.6')


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to evaluate, what to compare it with, and what to measure and write."""

    # fmt: off
    expdir: Path | None = option(None, 'Evaluate all snapshots in a run folder of train.py or EDM.', unit='DIR')
    images: tuple[str, ...] = option((), 'Evaluate images from any source; repeat the option to evaluate several sets.', unit='DIR|ZIP|NPZ|NPY')
    network: str | None = option(None, 'Evaluate one network: a snapshot, an EDM network pickle, or a run folder (its newest snapshot).', unit='FILE|DIR|URL')
    pipeline: Path | None = option(None, 'Evaluate an unconditional pipeline saved by diffusers.', unit='DIR')
    denoiser: str | None = option(None, 'Evaluate a closed-form denoiser fitted to `data`, such as optimal, local:window=5 or hybrid:optimal>4>FILE.', unit='NAME')
    data: str | None = option(None, 'Training set for `denoiser`.', unit='ZIP|DIR|NPZ|NPY')
    training_set: str | None = option(None, 'Training set to compare with. [default: the training set of `expdir` or `denoiser`]', name='knn-ref', unit='ZIP|DIR|NPZ|NPY')
    xflip: bool | None = option(None, 'Also compare with mirrored training images. [default: as in training]', unit='BOOL')
    log: Path | None = option(None, 'Log file; records are written next to it, in a .jsonl file of the same name. [default: mem_traj.log in `expdir`, else none]', unit='FILE')
    seeds: list[int] = option('0-9999', 'Seeds, such as 1,2,5-10; one image is generated for each.', unit='LIST', parse=seed_list)
    race: bool = option(False, 'Stop evaluating snapshots with low ratios early, and evaluate only the best one on all seeds; this needs about a quarter of the images if there are 8 or more snapshots, and half if there are 4.', unit='BOOL')
    class_index: int | None = option(None, 'Generate all images with this class. [default: drawn from the seed]', name='class', unit='INT', least=0)
    class_prior: str = class_prior_option()
    batch_size: int = option(64, 'Batch size on each rank.', name='batch', unit='INT', least=1)
    save_images: bool = option(False, 'Save the images and a table of their nearest training images in `expdir`.', switch=True)
    subdirs: bool = option(False, 'With `save_images`, use a subfolder for every thousand images.', switch=True)
    keep_best: bool = option(False, 'At the end, delete all evaluated snapshots in `expdir` except the best one.', switch=True)
    gallery: Path | None = option(None, 'Save a picture that shows images next to their nearest training images; of several sets, it shows the first.', unit='PNG')
    table: Path | None = option(None, 'Save a table with one row per image: its two nearest training images, and whether it is a copy.', unit='CSV')
    metrics: list[str] | None = option(None, 'Also compute these metrics, or all; docs/metrics.md defines them.', unit='LIST', parse=word_list)
    test_set: str | None = option(None, 'Held-out set, which some metrics need.', name='test-ref', unit='ZIP|DIR|NPZ|NPY')
    metrics_for: str = option('best', 'For a run: compute `metrics` for the best snapshot only, or for every snapshot as it is sampled.', choices=('best', 'all'))
    space: str = option('pixels', 'Space in which `copy_rule` compares images: pixels, or features (requires `extractor` or `features`).', choices=('pixels', 'features'))
    copy_rule: CopyRule = option('relative', 'Also count copies in `space` by this rule: relative (d1 < d2 / 3), cosine:T (cosine above T), or adaptive.', unit='RULE', parse=copy_rule)
    copied: Path | None = option(None, 'Save a table with one row per copied training image: how often it is copied, and by which images. A table of classes and a gallery are written next to it. [default: mem_copied.csv next to the log]', unit='CSV')
    features: list[str] | None = option(None, 'Compute metrics on features instead of pixels. The features are given as .npy files, float [N, d], in the order of the images.', unit='GEN,REF[,TEST]', parse=word_list)
    extractor: str | None = option(None, 'Compute metrics on features from this extractor: pixels, torchscript:FILE.pt or torch-fidelity:NAME[:WEIGHTS].', unit='NAME')
    preprocess: str | None = option(None, 'Preprocessing for a torchscript extractor: inception, imagenet, sscd, clip, none, or a list of settings.', unit='NAME')
    resize: str | None = option(None, 'Resize `images` to the size of `training_set` with this filter.', choices=FILTERS)
    channels: str = option('auto', 'Compare images as grey (1) or RGB (3); auto uses RGB if `images` or `training_set` contain colour.', choices=('auto', '1', '3'))
    float_range: tuple[float, float] | None = option(None, 'Pixel range of floating-point `images`, such as -1,1.', unit='LOW,HIGH', parse=number_pair)
    as_json: bool = option(False, 'Print only records on stdout, each as one line of JSON.', name='json', switch=True)
    download: DownloadOptions = group(DownloadOptions)
    device: str = device_option()
    precision: str | None = precision_option()
    dry_run: bool = option(False, 'Check files and options, print the estimated cost of the evaluation, and stop.', switch=True, short='n')
    # fmt: on
    sampler: SamplerOptions = group(SamplerOptions)


SAMPLER_ARGUMENTS = tuple(field.name for field in dataclasses.fields(SamplerOptions))
GENERATORS = ('expdir', 'network', 'pipeline', 'denoiser')  # as in `evaluation.generators`
SUBJECTS = ('images', *GENERATORS)
NETWORKS = ('expdir', 'network')
# For each option, the members of SUBJECTS with which it has an effect. Unlisted options have an effect with all.
ONLY_FOR = {
    **dict.fromkeys(('log', 'seeds', 'batch_size', 'num_steps'), GENERATORS),
    'class_prior': NETWORKS,
    **dict.fromkeys(('class_index', *SAMPLER_ARGUMENTS[1:]), (*NETWORKS, 'denoiser')),
    **dict.fromkeys(('save_images', 'subdirs', 'race', 'metrics_for', 'keep_best'), ('expdir',)),
    **dict.fromkeys(('sha256', 'download_only'), ('network',)),
    **dict.fromkeys(('float_range', 'resize', 'channels'), ('images',)),
    **dict.fromkeys(('gallery', 'features'), tuple(subject for subject in SUBJECTS if subject != 'expdir')),
    'precision': NETWORKS,
    'data': ('denoiser',),
}


def check_options(options: EvaluationOptions, given: set[str]) -> None:
    """Raise UserError if options are incompatible. given: names of the arguments that the user gave."""
    subjects = [name for name in SUBJECTS if getattr(options, name)]
    if len(subjects) != 1:
        raise ArgumentError(
            'give exactly one of `expdir` (a run of train.py), `images` (a folder or archive of images), `network` (a '
            'snapshot), `pipeline` (a diffusers pipeline) and `denoiser` (a closed form)'
        )
    (subject,) = subjects
    for field, _ in options_in(EvaluationOptions):
        if field.name in given and subject not in ONLY_FOR.get(field.name, SUBJECTS):
            raise ArgumentError(f'`{field.name}` has no effect with `{subject}`; remove it')
    if options.training_set is None and subject not in ('expdir', 'denoiser') and not options.download.download_only:
        raise ArgumentError(f'`{subject}` requires `training_set`, the training set to compare with')
    rule, in_features = other_rule(options), bool(options.features or options.extractor)
    if not (options.metrics or rule) and (in_features or options.test_set or options.metrics_for == 'all'):
        raise ArgumentError(
            '`features`, `extractor`, `test_set` and `metrics_for`=all require `metrics`, `space`=features, or a '
            '`copy_rule` other than relative'
        )
    if options.race and options.metrics_for == 'all':
        raise ArgumentError(
            '`race` samples a different number of images for each snapshot, so metrics of different snapshots cannot be '
            'compared; remove `metrics_for`'
        )
    if options.space == 'features' and not in_features:
        raise ArgumentError('`space`=features requires `extractor` or `features`')
    if options.copy_rule.name == 'cosine' and options.space != 'features':
        raise ArgumentError('`copy_rule`=cosine compares features; add `space`=features')
    if options.copy_rule.name == 'cosine' and not has_test(options):
        raise ArgumentError(
            '`copy_rule`=cosine requires `test_set` or, with `features`, a third file: the share of held-out images '
            'counted as copies shows whether the threshold is meaningful'
        )
    if options.features and options.extractor:
        raise ArgumentError('`features` are already extracted; remove `features` or `extractor`')
    if options.preprocess and not options.extractor:
        raise ArgumentError('`preprocess` has no effect without `extractor`; remove it')
    if options.features and (not 2 <= len(options.features) <= 3 or len(options.images) > 1):
        raise ArgumentError('`features`=GEN.npy,REF.npy[,TEST.npy] takes two or three files, and one set of images')
    requested_metrics(options)


def requested_metrics(options: EvaluationOptions) -> Sequence[str]:
    """The names of the metrics to compute. Raises UserError if one is unknown or needs a held-out set that is missing."""
    return requested(options.metrics or [], has_test(options), bool(options.features or options.extractor))


def has_test(options: EvaluationOptions) -> bool:
    """Whether metrics have held-out images; with `features`, they need the features of these images."""
    return len(options.features) > 2 if options.features else options.test_set is not None


def other_rule(options: EvaluationOptions) -> CopyRule | None:
    """The copy rule, or None if it is the ratio's own rule (d1 < d2 / 3 in pixels)."""
    is_default = options.space == 'pixels' and options.copy_rule.name == 'relative'
    return None if is_default else options.copy_rule
