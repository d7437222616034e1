"""The training options: defaults, ranges, presets, and which options can change when a run resumes.

Python code passes `TrainingOptions` to `training.training_run.train`. `RunOptions` adds files and the device; its fields
are the options of train.py and of the [train] table of a study. `training.config.resolve` turns options into a configuration.
This module does not import torch.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dnnlib.options import integer_list, option, options_in
from dnnlib.util import UserError
from training.architectures import ARCHITECTURES
from training.sampler_options import PRECISIONS, device_option
from training.schedule import EMA_MODES, WARMUP_EPOCHS

# Options that a preset sets; options given explicitly take precedence.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's basic run on CIFAR-10.
    'paper': {
        'arch': 'ddpmpp', 'precond': 'vp', 'duration': 2000, 'batch': 512, 'lr': 2e-4, 'ema': 0.5, 'dropout': 0.13,
        'augment': 0, 'xflip': False, 'window_size': 0, 'num_blocks': 2, 'num_channels': 128, 'attn_resolutions': [16],
        'embed': 'positional', 'weight_decay': 0, 'ema_mode': 'mode2', 'seed': 1024,
    },
    # A small network for the built-in 8x8 digits; training takes a minute or two on two CPU cores.
    'digits': {
        'arch': 'ddpmpp', 'precond': 'vp', 'batch': 64, 'lr': 2e-3, 'ema': 5, 'dropout': 0, 'augment': 0, 'xflip':
        False, 'window_size': 0, 'num_blocks': 1, 'num_channels': 16, 'attn_resolutions': [4], 'embed': 'positional',
        'weight_decay': 0, 'ema_mode': 'mode1', 'seed': 1024,
    },
}  # fmt: skip
# The paper's network adapted to 64x64 images: four resolutions, with EDM's width multipliers for images of this size.
PRESETS['paper-64'] = PRESETS['paper'] | {'cres': [1, 2, 2, 2]}
# The paper's basic run on one GPU, which processes each batch in parts of 64 images. Compared with the preset `paper`,
# only the random numbers differ.
PRESETS['paper-1gpu'] = PRESETS['paper'] | {'batch_gpu': 64}

# Options that can change when a run resumes: its length, its files, and where and how it runs.
CHANGEABLE = {
    'outdir', 'desc', 'nosubdir', 'resume', 'dry_run', 'duration', 'epochs', 'snapshots', 'tick', 'snap', 'dump', 'keep_states',
    'device', 'workers', 'cache', 'bench', 'data', 'test_data', 'test_images', 'allow_overlap',
    'samples', 'threads',
}  # fmt: skip
# Options that apply only to a run with a folder.
FOR_FOLDERS = (
    'tick', 'snap', 'dump', 'keep_states', 'snapshots', 'samples', 'test_data', 'test_images', 'allow_overlap',
)  # fmt: skip
# Options that apply only to images that are read from files.
FOR_FILES = ('cache', 'workers')

K = TypeVar('K', bound=type)


def snapshot_plan(text: str) -> int | str:
    """Parse a number of snapshots: '20' for even spacing, or 'log:20' for logarithmic spacing."""
    number = text.removeprefix('log:')
    if not (number.isdecimal() and int(number)):
        raise ValueError(f'{text!r} is not a number of snapshots; give one such as 20 or log:20')
    return text if text.startswith('log:') else int(number)


def thread_count(text: str) -> int | str:
    """Parse a number of threads, or 'auto'."""
    if text != 'auto' and not (text.isdecimal() and int(text)):
        raise ValueError(f'{text!r} is not a number of threads; give a number such as 4, or auto')
    return text if text == 'auto' else int(text)


def with_preset(kind: K) -> K:
    """Class decorator that takes the values of options that are not given from the preset, and fills the field `given`.

    `dataclasses.replace` passes all values and the old `given`; the options that it changes count as given.
    """
    plain_init = kind.__init__  # type: ignore[misc]

    @functools.wraps(plain_init)
    def init(self: Any, given: Mapping[str, Any] | None = None, **values: Any) -> None:
        if given is not None:
            before = kind(**given)
            values = {name: v for name, v in values.items() if name in given or v != getattr(before, name)}
        plain_init(self, **PRESETS.get(str(values.get('preset')), {}) | values, given=values)

    kind.__init__ = init  # type: ignore[misc]
    return kind


@with_preset
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train: network, length, optimizer, data and arithmetic.

    An option that is not given has the preset's value, or else its default.
    given: the options that were given, by name.
    """

    # fmt: off
    preset: str | None = option(None, 'Start from the options of this preset.', choices=tuple(PRESETS))
    cond: bool = option(False, 'Train a class-conditional network.', unit='BOOL')
    arch: str = option('ddpmpp', 'Network architecture.', choices=ARCHITECTURES)
    precond: str = option('edm', 'Preconditioning and loss.', choices=('vp', 've', 'edm'))

    duration: float = option(200, 'Training length in millions of images, for a training set of 50,000 images; it scales with the size of the training set, so 1 means 20 epochs.', unit='MIMG', above=0)
    epochs: int | None = option(None, 'Training length in epochs (passes over the training set), instead of `duration`.', unit='INT', least=1)
    batch: int = option(512, 'Images per step, over all ranks.', unit='INT', least=1)
    batch_gpu: int | None = option(None, "Largest number of images per forward pass. [default: a rank's share of `batch`]", unit='INT', least=1)
    lr: float = option(10e-4, 'Learning rate.', unit='FLOAT', least=0)
    warmup: int = option(WARMUP_EPOCHS, 'Number of epochs over which the learning rate rises linearly.', unit='EPOCHS', least=0)
    ema: float = option(0.5, 'Half-life of the weight average in millions of images, for a training set of 50,000 images; it scales like `duration`.', unit='MIMG', least=0)
    ema_mode: str = option('mode2', 'Rule for the weight average; see docs/training.md.', name='ema_mode', choices=EMA_MODES)
    final_ema: float = option(0.99929, 'EMA decay per step after warm-up, for mode4.', unit='FLOAT', least=0, most=1)
    optimizer: str = option('Adam', 'Optimizer.', choices=('Adam', 'SGD'))
    momentum: float = option(0.9, 'Momentum of SGD.', unit='FLOAT', least=0)
    weight_decay: float = option(0, 'L2 term in the gradient.', unit='FLOAT', least=0)

    num_blocks: int = option(4, 'Residual blocks per resolution.', unit='INT', least=1)
    num_channels: int = option(128, 'Base width, in channels.', unit='INT', least=4)
    cbase: int | None = option(None, 'Alias of `num_channels`, as in EDM.', unit='INT', least=4)
    cres: list[int] | None = option(None, 'Width at each resolution, as a multiple of the base width. [default: depends on `arch`]', unit='LIST', parse=integer_list)
    attn_resolutions: list[int] = option('16', 'Resolutions with self-attention.', unit='LIST', parse=integer_list)
    embed: str = option('positional', 'Embedding of the noise level.', choices=('positional', 'fourier'))
    skip_connections: list[int] | None = option(None, 'A 0 (off) or 1 (on) for each skip connection, from the highest resolution down. [default: all 1]', unit='LIST', parse=integer_list)
    dropout: float = option(0.13, 'Dropout probability.', unit='FLOAT', least=0, below=1)

    augment: float = option(0.12, 'Augmentation probability.', unit='FLOAT', least=0, most=1)
    xflip: bool = option(False, 'Also train on mirrored images.', unit='BOOL')
    window_size: float = option(0.5, 'Window within which the image order is reshuffled during training, as a fraction of the training set; 0 keeps the order fixed.', unit='FLOAT', least=0, most=1)
    cache: bool = option(True, 'Keep all images in memory, and on the GPU if they fit there.', unit='BOOL')
    workers: int = option(1, 'Number of threads that decode images if they are not kept in memory (`cache`).', unit='INT', least=1)

    precision: str | None = option(None, 'Floating-point precision of the network. [default: fp32]', choices=PRECISIONS)
    fp16: bool = option(False, 'Alias of `precision`=fp16, as in EDM.', unit='BOOL')
    ls: float = option(1, 'Loss scaling.', unit='FLOAT', above=0)
    compile: bool = option(False, 'Compile the network.', unit='BOOL')
    deterministic: bool = option(False, 'Make results bit-identical from run to run on GPUs too; this turns `bench` off.', unit='BOOL')
    bench: bool = option(True, 'Let cuDNN benchmark its kernels and choose the fastest.', unit='BOOL')

    tick: int | None = option(None, 'Interval between status lines (ticks). [default: 50, or a twentieth of a run that is shorter than 1000]', unit='KIMG', least=1)
    snap: int = option(50, 'Interval between snapshots; without `tick`, a tick counts as 50 KIMG.', unit='TICKS', least=1)
    dump: int | None = option(None, 'Interval between training states. [default: one with every snapshot]', unit='TICKS', least=1)
    keep_states: int = option(2, 'Number of training states to keep (the newest ones); a run can resume from any of them.', unit='INT', least=1)
    snapshots: int | str | None = option(None, 'Number of snapshots to save at even intervals, instead of `snap`; log:N spaces N snapshots logarithmically.', unit='INT|log:INT', parse=snapshot_plan)
    samples: int = option(36, 'Number of images on the contact sheet that is saved with each snapshot; 0 saves none.', unit='INT', least=0)
    seed: int | None = option(None, 'Seed of all randomness. [default: random]', unit='INT', least=0, most=2**31 - 1)
    test_data: str | None = option(None, 'Held-out set; the losses on held-out images and on training images are reported by noise level at every tick.', unit='ZIP|DIR')
    test_images: int = option(256, 'Number of images from each set (training and held-out) on which the losses for `test_data` are computed.', unit='INT', least=1)
    allow_overlap: bool = option(False, 'Continue even if `test_data` shares images with the training set.', switch=True)
    transfer: str | None = option(None, 'Start from the weights of a snapshot or an EDM network pickle.', unit='FILE')
    # fmt: on
    given: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Store whole numbers as floats if the option is a float, so that a resumed run writes the same bytes."""
        for field in dataclasses.fields(self):
            if field.type in (float, float | None) and isinstance(getattr(self, field.name), int):
                object.__setattr__(self, field.name, float(getattr(self, field.name)))


T = TypeVar('T', bound=TrainingOptions)


@with_preset
@dataclass(frozen=True, kw_only=True)
class RunOptions(TrainingOptions):
    """All options of train.py: the training options, and options such as files and the device."""

    # fmt: off
    outdir: str = option('', 'Folder for the run. [required without `resume`]', unit='DIR', required_unless='resume')
    data: str = option('', 'Training set. [required without `resume`]', unit='ZIP|DIR', required_unless='resume')
    device: str = device_option()
    threads: int | str = option('auto', 'CPU threads per rank. auto: for a resumed run, the same number as before; for a new run, OMP_NUM_THREADS if it is set, otherwise one thread for a small network and all cores for a large one.', unit='auto|INT', parse=thread_count)
    desc: str | None = option(None, "Text to append to the run folder's name.", unit='STR')
    nosubdir: bool = option(False, 'Save in `outdir` itself instead of a numbered subfolder; if a run was stopped there, resume it.', switch=True)
    resume: str | None = option(None, 'Resume a run from the newest training state in its folder, or from the given training state; no other option is needed.', unit='DIR|FILE')
    dry_run: bool = option(False, 'Print what would be done, and stop.', switch=True, short='n')
    # fmt: on


def resumed_options(options: T, saved: RunOptions) -> T:
    """The options with which a run was started, updated by the options given now.

    Raises UserError if a given option differs from the saved one but is not in `CHANGEABLE`.
    """
    values = {field.name: getattr(saved, field.name) for field, _ in options_in(type(options))}
    for name in options.given:
        if name in CHANGEABLE:
            values[name] = getattr(options, name)
        elif getattr(options, name) != values[name]:
            raise UserError(
                f'`{name}`={getattr(options, name)} differs from {values[name]}, with which the run was started; remove '
                f'the option and resume, or start a new run in another folder'
            )
    # A duration given now replaces a saved number of epochs.
    if 'duration' in options.given:
        values['epochs'] = options.epochs
    if options.given.keys() & {'tick', 'snap'}:
        values['snapshots'] = options.snapshots
    values |= {name: getattr(options, name) for name in ('nosubdir', 'resume', 'dry_run', 'device') if name in values}
    return dataclasses.replace(options, **values)
