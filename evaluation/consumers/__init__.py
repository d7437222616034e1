"""The consumers of generated images. Each has its own file and an entry in `CONSUMERS`."""

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
    """Make the consumers that a pass needs, by name."""
    return {name: kind(context) for name, kind in CONSUMERS.items() if kind.wanted(context)}
