"""Training sets: every source of images behind one reader, and archives written from selections of them.

`open_source` reads anything with images. `python -m dataset_utils` writes training sets that differ in one factor.
"""

from dataset_utils.sources import Reading, Source, content_sha256, open_source

__all__ = ['Reading', 'Source', 'content_sha256', 'open_source']
