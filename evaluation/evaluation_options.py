"""The options of an evaluation, without torch: the command line of mem_ratio.py and the [evaluate] table of a study."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.options import group, number_pair, option, seed_list, word_list
from training.sampler_options import SamplerOptions

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
    denoiser: str | None = option(None, 'Evaluate a closed-form denoiser of `data`, such as optimal.', unit='NAME')
    data: str | None = option(None, 'Training set of `denoiser`.', unit='ZIP|DIR|NPZ|NPY')
    training_set: str | None = option(None, 'Training set to compare with. [default: the training set of `expdir` or `denoiser`]', name='knn-ref', unit='ZIP|DIR|NPZ|NPY')
    log: Path | None = option(None, 'Log file; the records go next to it as .jsonl. [default: mem_traj.log in `expdir`, else none]', unit='FILE')
    seeds: list[int] = option('0-9999', 'One image for each seed, such as 1,2,5-10.', unit='LIST', parse=seed_list)
    class_index: int | None = option(None, 'Class of all images. [default: drawn from the seed]', name='class', unit='INT', least=0)
    batch_size: int = option(64, 'Images at a time, on each rank.', name='batch', unit='INT', least=1)
    save_images: bool = option(False, 'Save the images, and a table of their nearest training images, in `expdir`.', switch=True)
    subdirs: bool = option(False, 'With `save_images`, put a thousand images in a folder.', switch=True)
    gallery: Path | None = option(None, 'Save a picture of images next to their nearest training images here.', unit='PNG')
    table: Path | None = option(None, 'Save a row for each image: its nearest two training images, and flags.', unit='CSV')
    metrics: list[str] | None = option(None, 'Also compute these metrics of docs/metrics.md, or all; for a run, for its best snapshot.', unit='LIST', parse=word_list)
    test_set: str | None = option(None, 'Held-out set that some metrics compare with.', name='test-ref', unit='ZIP|DIR|NPZ|NPY')
    features: list[str] | None = option(None, 'Compute metrics in features instead of pixels: .npy files, float [N, d], in the order of the images.', unit='GEN,REF[,TEST]', parse=word_list)
    resize: str | None = option(None, 'Resize `images` of another size to the size of `training_set`, by this filter.', choices=FILTERS)
    float_range: tuple[float, float] | None = option(None, 'Pixel range of floating-point `images`, such as -1,1.', unit='LOW,HIGH', parse=number_pair)
    as_json: bool = option(False, 'Print records alone on stdout, one line of JSON each.', name='json', switch=True)
    cache_dir: Path | None = option(None, "Folder for downloads. [default: the user's cache folder]", unit='DIR')
    sha256: str | None = option(None, 'SHA-256 that the file of `network` must have.', unit='HEX')
    download_only: bool = option(False, 'Download the file of `network`, print where it is, and stop.', switch=True)
    device: str = option('auto', 'Device to compute on.', unit='auto|cuda|mps|cpu')
    precision: str | None = option(None, 'Arithmetic of the networks. [default: as in the training]', choices=PRECISIONS)
    # fmt: on
    sampler: SamplerOptions = group(SamplerOptions)
