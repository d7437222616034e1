"""The options of diagnose.py (no torch): one dataclass per command."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.download_options import DownloadOptions
from dnnlib.options import REQUIRED, group, option, seed_list, word_list
from training.sampler_options import SamplerOptions, class_prior_option, device_option, precision_option

SOURCES = ('train', 'test', 'trajectory', 'generated')
# Kinds of image pairs whose similarities `agreement` measures.
SAME_SEED, DIFFERENT_SEEDS = 'A and B at the same seed', 'A and B at different seeds'
NEAREST = 'A and its nearest training image', 'B and its nearest training image'
TRAINING = "training images of A and the nearest of B's"


def level_list(text: str) -> int | list[float]:
    """Parse a number of levels ('18') or a list of levels ('0.1,1.0'); a single level needs a decimal point."""
    try:
        levels = int(text) if text.strip().isdecimal() else [float(part) for part in text.split(',')]
    except ValueError:
        raise ValueError(
            f'{text!r} is neither a number of levels (such as 18) nor a list of levels (such as 0.1,1.0)'
        ) from None
    if isinstance(levels, int) and levels < 2:
        raise ValueError(f'{levels} levels are too few; give at least 2, or one level with a decimal point')
    return levels


def source_list(text: str) -> list[str]:
    """Parse a comma-separated list of names from `SOURCES`."""
    words = word_list(text)
    if unknown := [word for word in words if word not in SOURCES]:
        raise ValueError(f'{unknown[0]!r} is not one of {", ".join(SOURCES)}')
    return words


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where results are computed and written."""

    # fmt: off
    outdir: Path | None = option(None, 'Folder for the results. [default: the run folder if there is one, otherwise the current folder]', unit='DIR')
    plot: bool = option(False, 'Draw the figures as PNG and SVG.', switch=True)
    device: str = device_option()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """The held-out set, and the images to measure in both sets."""

    # fmt: off
    test: str | None = option(None, 'Held-out set.', unit='ZIP|DIR')
    allow_overlap: bool = option(False, 'Continue even if the held-out set shares images with the training set.', switch=True)
    num: int | None = option(None, 'Number of images to measure: the first ones of each set. [default: 1000, or all images of a smaller set]', unit='INT', least=2)
    seed: int = option(0, 'Seed of the noise.', unit='INT', least=0)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class DenoisingOptions:
    """How networks are evaluated."""

    # fmt: off
    class_index: int | None = option(None, 'Denoise all images with this class. [default: the class of each image]', name='class', unit='INT', least=0)
    no_labels: bool = option(False, 'Denoise without class labels.', switch=True)
    batch_size: int = option(64, 'Batch size on each rank.', name='batch', unit='INT', least=2)
    precision: str | None = precision_option()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class LevelsOptions:
    # fmt: off
    network: tuple[str, ...] = option((), 'Snapshot, run folder (its newest snapshot), or EDM network pickle; repeat the option to measure several.', unit='FILE|DIR|URL')
    expdir: Path | None = option(None, 'Run folder; every snapshot in it is measured.', unit='DIR')
    denoiser: tuple[str, ...] = option((), 'Closed form fitted to the training set, such as optimal or local:window=5; repeat the option for several. If networks are given, each is compared with the closed forms.', unit='NAME')
    data: str | None = option(None, 'Training set. [default: the training set of `expdir`]', unit='ZIP|DIR')
    sources: list[str] | None = option(None, f'Sources of noisy images: {",".join(SOURCES)}. [default: all available ones]', name='from', unit='LIST', parse=source_list)
    levels: int | list[float] = option('18', "Number of noise levels in EDM's schedule, or a list of noise levels, such as 0.1,1.0.", unit='INT|LIST', parse=level_list)
    # fmt: on
    sets: SetOptions = group(SetOptions)
    denoising: DenoisingOptions = group(DenoisingOptions)
    download: DownloadOptions = group(DownloadOptions)
    output: OutputOptions = group(OutputOptions)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    # fmt: off
    network: str = option(REQUIRED, 'Snapshot or EDM network pickle.', unit='FILE|URL')
    data: str = option(REQUIRED, 'Training set.', unit='ZIP|DIR')
    denoiser: str = option('local', 'Closed form that uses windows: local, equivariant or patch, with optional parameters.', unit='NAME')
    levels: int | list[float] = option('18', "Number of noise levels in EDM's schedule, or a list of noise levels, such as 0.1,1.0.", unit='INT|LIST', parse=level_list)
    num: int = option(64, 'Number of sampling trajectories to follow.', unit='INT', least=2)
    seed: int = option(0, 'Seed of the noise.', unit='INT', least=0)
    # fmt: on
    denoising: DenoisingOptions = group(DenoisingOptions)
    output: OutputOptions = group(OutputOptions)


@dataclass(frozen=True, kw_only=True)
class GeometryOptions:
    # fmt: off
    data: str = option(REQUIRED, 'Training set.', unit='ZIP|DIR')
    levels: int | list[float] = option('18', "Number of noise levels in EDM's schedule, or a list of noise levels, such as 0.1,1.0.", unit='INT|LIST', parse=level_list)
    # fmt: on
    sets: SetOptions = group(SetOptions)
    output: OutputOptions = group(OutputOptions)


@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    # fmt: off
    network: tuple[str, ...] = option((), 'Snapshot or EDM network pickle; give the option twice for two networks.', unit='FILE|DIR|URL')
    expdir: tuple[Path, ...] = option((), 'Run folder; its last snapshot is used. Give the option twice for two runs.', unit='DIR')
    denoiser: str | None = option(None, 'Closed form to use as the second generator, fitted to the training set, or to the second one if there are two.', unit='NAME')
    data: tuple[str, ...] = option((), 'Training set of the first network; if the second network has another one, repeat the option. [default: the training sets of `expdir`]', unit='ZIP|DIR')
    test: str | None = option(None, 'Held-out set; the similarity of its images to their nearest training images serves as a baseline.', unit='ZIP|DIR')
    seeds: list[int] = option('0-999', 'Seeds, such as 1,2,5-10; each network generates one image per seed.', unit='LIST', parse=seed_list)
    features: list[str] | None = option(None, 'Also compare image features, given as two .npy files (one per generator), float [N, d], in the order of the seeds.', unit='A,B', parse=word_list)
    threshold: float = option(0.6, 'Cosine above which two images count as the same.', unit='FLOAT')
    class_index: int | None = option(None, 'Generate all images with this class. [default: drawn from the seed]', name='class', unit='INT', least=0)
    class_prior: str = class_prior_option()
    batch_size: int = option(64, 'Batch size on each rank.', name='batch', unit='INT', least=1)
    precision: str | None = precision_option()
    # fmt: on
    download: DownloadOptions = group(DownloadOptions)
    output: OutputOptions = group(OutputOptions)
    sampler: SamplerOptions = group(SamplerOptions)


@dataclass(frozen=True, kw_only=True)
class ClocksOptions:
    # fmt: off
    expdir: tuple[Path, ...] = option(REQUIRED, 'Run folder; repeat the option to compare runs.', unit='DIR')
    levels: list[float] = option('0.1,0.3,1.0,3.0', 'Noise levels over which errors are averaged.', unit='LIST', parse=level_list)
    # fmt: on
    sets: SetOptions = group(SetOptions)
    denoising: DenoisingOptions = group(DenoisingOptions)
    output: OutputOptions = group(OutputOptions)
