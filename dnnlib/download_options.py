"""Download options, shared by all commands that accept the URL of a network file."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.options import option


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Where a downloaded network file is stored, and how it is checked."""

    # fmt: off
    cache_dir: Path | None = option(None, "Folder for downloads and cached features. [default: the user's cache folder]", unit='DIR')
    sha256: str | None = option(None, 'Expected SHA-256 of the file given by `network`.', unit='HEX')
    download_only: bool = option(False, 'Download the file given by `network`, print its path, and stop.', switch=True)
    # fmt: on
