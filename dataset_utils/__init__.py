"""Training sets: one reader for every source of images, and archives written from selections of those images.

`open_source` reads any kind of image source. `python -m dataset_utils` writes training sets that differ in one factor.
"""

from dataset_utils.sources import Reading, Source, content_sha256, open_source

__all__ = ['Reading', 'Source', 'content_sha256', 'open_source']
