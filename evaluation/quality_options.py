"""Options of fid.py and of feature extraction (no torch): one dataclass per command."""

from dataclasses import dataclass, fields
from pathlib import Path

from dnnlib.options import REQUIRED, group, option
from dnnlib.util import ArgumentError
from training.sampler_options import SamplerOptions, class_prior_option, device_option


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """How features are computed."""

    # fmt: off
    extractor: str = option('pixels', 'Feature extractor: pixels, torchscript:FILE.pt, or torch-fidelity:NAME[:WEIGHTS].', unit='NAME')
    preprocess: str | None = option(None, 'Preprocessing for a torchscript extractor: inception, imagenet, sscd, clip, none, or a list of settings such as size=224,filter=bicubic,crop=224,mean=0.5/0.5/0.5,deviation=0.5/0.5/0.5.', unit='NAME')
    batch_size: int = option(64, 'Batch size on each rank.', name='batch', unit='INT', least=1)
    cache_dir: Path | None = option(None, "Folder for downloads and cached features. [default: the user's cache folder]", unit='DIR')
    device: str = device_option()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class CalcOptions:
    """The images to measure, and the reference."""

    # fmt: off
    images: str | None = option(None, 'Images to measure.', unit='DIR|ZIP|NPZ|NPY')
    network: str | None = option(None, 'Sample a snapshot, a run folder (its newest snapshot), or an EDM network pickle, and measure the images without writing them.', unit='FILE|DIR|URL')
    denoiser: str | None = option(None, 'Sample a closed-form denoiser fitted to `data`, such as gaussian.', unit='NAME')
    data: str | None = option(None, 'Training set for `denoiser`.', unit='ZIP|DIR|NPZ|NPY')
    ref: str = option(REQUIRED, 'Reference: images, or statistics from fid.py ref or EDM. The kernel distance needs images.', unit='NPZ|ZIP|DIR|NPY')
    num: int = option(50000, 'Number of images to use; if `images` has fewer, all of them.', unit='INT', least=2)
    seed: int = option(0, 'Seed for drawing a subset of `images`, or the first seed to sample from.', unit='INT', least=0, most=2**31)
    infinity: bool = option(False, 'Also extrapolate the Fréchet distance to infinitely many images.', switch=True)
    class_index: int | None = option(None, 'Sample all images with this class. [default: drawn from the seed]', name='class', unit='INT', least=0)
    class_prior: str = class_prior_option()
    sha256: str | None = option(None, 'Expected SHA-256 of the file given by `network`.', unit='HEX')
    as_json: bool = option(False, 'Print only the record on stdout, as one line of JSON.', name='json', switch=True)
    # fmt: on
    extraction: ExtractionOptions = group(ExtractionOptions)
    sampler: SamplerOptions = group(SamplerOptions)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """The images whose features to extract, and the file to write."""

    # fmt: off
    source: str = option(REQUIRED, 'Images.', unit='ZIP|DIR|NPZ|NPY')
    dest: Path = option(REQUIRED, 'File for the features, float32 [N, d].', unit='NPY')
    # fmt: on
    extraction: ExtractionOptions = group(ExtractionOptions)


@dataclass(frozen=True, kw_only=True)
class RefOptions:
    """The images whose statistics are computed, and the file to write."""

    # fmt: off
    data: str = option(REQUIRED, 'Images to describe.', unit='ZIP|DIR|NPZ|NPY')
    dest: Path = option(REQUIRED, 'File for the statistics.', unit='NPZ')
    # fmt: on
    extraction: ExtractionOptions = group(ExtractionOptions)


def check_calc(options: CalcOptions, given: set[str]) -> None:
    """Raise ArgumentError if options are incompatible. given: names of the arguments that the user gave."""
    if [options.images, options.network, options.denoiser].count(None) != 2:
        raise ArgumentError('give exactly one of `images`, `network` (a snapshot) and `denoiser` (a closed form)')
    if (options.data is None) != (options.denoiser is None):
        raise ArgumentError('`denoiser` requires `data` (its training set); `data` is used only with `denoiser`')
    sampling = ['class_index', 'class_prior', 'sha256', *(f.name for f in fields(SamplerOptions))]
    sampling = [name for name in sampling if name in given]
    if sampling and options.images is not None:
        raise ArgumentError(f'`{sampling[0]}` has no effect with `images`; remove it')
    if options.sha256 and options.network is None:
        raise ArgumentError('`sha256` has no effect with `denoiser`; remove it')
