"""The options of downloads, which the commands that take a network from a URL share."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.options import option


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Where the file of a network is kept, and what it must be."""

    # fmt: off
    cache_dir: Path | None = option(None, "Folder for downloads and for features. [default: the user's cache folder]", unit='DIR')
    sha256: str | None = option(None, 'SHA-256 that the file of `network` must have.', unit='HEX')
    download_only: bool = option(False, 'Download the file of `network`, print where it is, and stop.', switch=True)
    # fmt: on
