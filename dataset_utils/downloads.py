"""Sources that a URL names, downloaded into a cache and read from there."""

import urllib.parse
from pathlib import Path

from dataset_utils.sources import Source, open_source
from dataset_utils.sources.base import strip_extension
from dataset_utils.sources.idx import IMAGES_NAME
from dnnlib.download import fetch, is_url
from dnnlib.util import UserError


def open_downloaded(source: str, option: str, cache_dir: Path | None = None, sha256: str | None = None) -> Source:
    """As `open_source`, of a path or of a URL of file, http or https; it keeps the name that the URL gives it.

    cache_dir: None takes the user's cache folder. sha256: what the file must have, of a path as well.
    Raises UserError as `open_source` and `dnnlib.download.fetch` do.
    """
    if not is_url(source) and sha256 is None:
        return open_source(source, option)
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(source).path)).name
    if source.startswith(('http:', 'https:')) and IMAGES_NAME.fullmatch(name):
        raise UserError(f'{option}={source}: its labels are another file; fetch both into one folder and give the path')
    opened = open_source(fetch(source, cache_dir, sha256), option)
    if is_url(source):
        opened.where = f'{option}={source}'
        opened.file_name, opened.name = name, strip_extension(name)
    return opened
