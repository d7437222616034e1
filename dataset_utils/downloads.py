"""Opens sources that are given by URL. They are downloaded into a cache and read from there."""

import urllib.parse
from pathlib import Path

from dataset_utils.sources import Reading, Source, open_source
from dataset_utils.sources.base import named, strip_extension
from dataset_utils.sources.idx import IMAGES_NAME
from dnnlib.download import fetch, is_url
from dnnlib.util import UserError


def open_downloaded(
    source: str,
    argument: str,
    cache_dir: Path | None = None,
    sha256: str | None = None,
    reading: Reading | None = None,
) -> Source:
    """Like `open_source`, but also accepts URLs (file, http or https); a downloaded source is named after its URL.

    cache_dir: folder for downloads; None means the user's cache folder.
    sha256: expected SHA-256 of the file, which may be given by path or URL; None accepts any file.
    Raises UserError in the same cases as `open_source` and `dnnlib.download.fetch`.
    """
    if not is_url(source) and sha256 is None:
        return open_source(source, argument, reading)
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(source).path)).name
    if source.startswith(('http:', 'https:')) and IMAGES_NAME.fullmatch(name):
        raise UserError(
            f'{named(argument, source)}: its labels are in a second file; download both files into one folder and give '
            f'the path of the images file'
        )
    opened = open_source(fetch(source, cache_dir, sha256), argument, reading)
    if is_url(source):
        opened.where = named(argument, source)
        opened.file_name, opened.name = name, strip_extension(name)
    return opened
