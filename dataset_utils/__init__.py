"""Reads images from any kind of source, and writes training sets that are selected from them.

`open_source` opens a source. `python -m dataset_utils` writes training sets that differ in one factor.
"""

from dataset_utils.sources import Reading, Source, content_sha256, open_source

__all__ = ['Reading', 'Source', 'content_sha256', 'open_source']
