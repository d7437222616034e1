"""What is done with each generated image: one file per consumer, and an entry in `CONSUMERS`."""

from evaluation.consumers.kept_images import KeptImages
from evaluation.consumers.measured import Measured
from evaluation.consumers.nearest_two import NearestTwo
from evaluation.consumers.png_files import PngFiles
from evaluation.one_pass import Consumer, Context

CONSUMERS: dict[str, type[Consumer]] = {
    'nearest_two': NearestTwo,
    'kept_images': KeptImages,
    'measured': Measured,
    'png_files': PngFiles,
}


def make_consumers(context: Context) -> dict[str, Consumer]:
    """The consumers needed for a pass, by name."""
    return {name: kind(context) for name, kind in CONSUMERS.items() if kind.wanted(context)}
