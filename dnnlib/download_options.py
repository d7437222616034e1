"""The options of downloads, which the commands that take a network from a URL share."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.options import option


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Where the file of a network is kept, and what it must be."""

    # fmt: off
    cache_dir: Path | None = option(None, "Folder for downloads and cached features. [default: the user's cache folder]", unit='DIR')
    sha256: str | None = option(None, 'Expected SHA-256 of the file given by `network`.', unit='HEX')
    download_only: bool = option(False, 'Download the file given by `network`, print its path, and stop.', switch=True)
    # fmt: on
