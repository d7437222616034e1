"""Click options shared by dataset_tool.py and the sub-commands of `python -m dataset_utils`."""

from inspect import Parameter
from typing import Any

import click

from cli.command import IntegerRange, Parsed
from dnnlib.options import resolution, square_resolution

RESOLUTION = Parsed(resolution)
SQUARE_RESOLUTION = Parsed(square_resolution)
SEED = IntegerRange(0, 2**32 - 1)
SHARE = click.FloatRange(0, 1)
COUNT = IntegerRange(min=1)
TRANSFORMS = ('center-crop', 'center-crop-wide', 'center-crop-dhariwal')

# Click settings for the options of the sub-commands that select images. The keys are the arguments of the rules in
# `dataset_utils.rules`.
OPTIONS: dict[str, dict[str, Any]] = {
    'source': {'metavar': 'ZIP|DIR|FILE', 'help': 'Images to read, from any source that dataset_tool.py accepts.'},
    'blend': {'metavar': 'ZIP|DIR|FILE', 'help': 'Images to mix in.'},
    'dest': {'metavar': 'ZIP|DIR', 'help': 'Data set to write.'},
    'overwrite': {'is_flag': True, 'help': 'Replace an existing data set at --dest.'},
    'max_images': {'metavar': 'INT', 'type': COUNT, 'help': 'Number of images.'},
    'held_out': {'metavar': 'INT', 'type': COUNT, 'help': 'Number of images to hold out.'},
    'num_classes': {'metavar': 'INT', 'type': COUNT, 'help': 'Number of classes.'},
    'class_name': {'metavar': 'NAME|INT', 'help': 'Name or label of the class.'},
    'superclass': {'metavar': 'bird|cat|dog', 'help': 'CIFAR-10 class.'},
    'resolution': {'metavar': 'WxH', 'type': SQUARE_RESOLUTION, 'help': 'Size to which images are resized.'},
    'blend_rate': {'metavar': 'FLOAT', 'type': SHARE, 'help': 'Share of images from --blend.'},
    'copies': {'metavar': 'INT', 'type': IntegerRange(min=2), 'help': 'Number of times that each repeated image occurs in the data set.'},
    'fraction': {'metavar': 'FLOAT', 'type': SHARE, 'help': 'Share of images to repeat.'},
    'seed': {'metavar': 'INT', 'type': SEED, 'help': 'Draw the images at random with this seed instead of taking the first ones.'},
    'label_seed': {'metavar': 'INT', 'type': SEED, 'help': 'Seed for the labels.'},
    'skip_unreadable': {'is_flag': True, 'help': 'Skip corrupt images, and list them in the manifest.'},
}  # fmt: skip


def option(name: str, default: Any = Parameter.empty) -> click.Option:
    """Make the click option for the rule argument `name`. An option without a default is required unless it is a flag."""
    settings = OPTIONS[name]
    if default is not Parameter.empty:
        default = 'x'.join(map(str, default)) if isinstance(default, tuple) else default
        settings = settings | {'default': default, 'show_default': type(default) in (int, str)}
    is_required = default is Parameter.empty and not settings.get('is_flag')
    return click.Option([f'--{name.replace("_", "-")}'], required=is_required, **settings)
