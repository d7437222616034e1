"""`fetch` downloads a file into a cache, and resumes an interrupted download."""

import hashlib
import math
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dnnlib.locks import locked
from dnnlib.util import UserError, file_sha256

_NAME, _MAX_ATTEMPTS = 'diffusion-memorization', 20


def user_cache() -> Path:
    """The user's cache folder, which might not exist yet."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', _NAME)


def is_url(text: str) -> bool:
    """Whether a string is a URL rather than a path."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', text) is not None


def fetch(source: str, cache_dir: Path | None = None, sha256: str | None = None) -> Path:
    """Return the path of a local file, or of the cached copy of a URL. A URL that is not cached yet is downloaded.

    source: a path or a URL (file, http or https). sha256: expected hash in hexadecimal, None if unknown.
    Raises UserError if the scheme is not supported, an https URL redirects to an insecure one, the server reports an
    error, or the length or hash is wrong.
    """
    try:
        url = urlsplit(source)
    except ValueError as error:
        raise UserError(f'{source} is not a valid URL ({error}); check its spelling') from error
    if is_url(source) and url.scheme not in ('file', 'http', 'https'):
        raise UserError(f'{source}: only file, http and https URLs are supported; download the file and give its path')
    path = Path(unquote(url.path) if url.scheme == 'file' else source)
    if url.scheme in ('http', 'https'):
        cache_dir = cache_dir or user_cache()
        cache_dir.mkdir(parents=True, exist_ok=True)
        name = re.sub(r'[^A-Za-z0-9._-]', '_', unquote(url.path).rpartition('/')[2])[-100:]
        path = cache_dir / f'{hashlib.sha256(source.encode()).hexdigest()[:16]}-{name}'
        with locked(Path(f'{path}.lock'), math.inf):  # another process that needs the file waits here
            is_cached = path.exists() and (not sha256 or file_sha256(path) == sha256.lower())
            if not is_cached and not any(_receive(source, path, sha256) for _ in range(_MAX_ATTEMPTS)):
                raise UserError(f'{source}: the connection was lost {_MAX_ATTEMPTS} times; run again to resume')
    if sha256 and (found := file_sha256(path)) != sha256.lower():
        raise UserError(f'{source} has the SHA-256 {found}, not {sha256}; it is a different file')
    return path


def _receive(source: str, path: Path, sha256: str | None) -> bool:
    """Resume a download until it is complete or the connection is lost; returns whether it is complete."""
    import requests  # imported here because --help does not need them
    from tqdm import tqdm
    from urllib3.exceptions import HTTPError

    partial, version = Path(f'{path}.partial'), Path(f'{path}.version')  # version: the server's ETag or date
    start = partial.stat().st_size if partial.exists() and version.exists() else 0
    resume = {'Range': f'bytes={start}-', 'If-Range': version.read_text(encoding='latin-1')} if start else {}
    try:
        response = requests.get(source, headers={'Accept-Encoding': 'identity', **resume}, stream=True, timeout=30)
    except (requests.RequestException, HTTPError, ValueError) as error:  # ValueError: redirect to an invalid URL
        raise UserError(f'{source}: cannot be downloaded ({error})') from error
    if source.startswith('https:') and not response.url.startswith('https:'):
        raise UserError(f'{source} redirects to {response.url[:200]!a}, which is not secure; give another URL')
    length = response.raw.length_remaining or 0  # 0 if the server announces no length
    if response.status_code == 200 and (length or sha256):
        start = 0
        etag = response.headers.get('ETag') or response.headers.get('Last-Modified', '')
        version.write_text(etag, encoding='latin-1', errors='replace')
    elif not start or response.headers.get('Content-Range') != f'bytes {start}-{start + length - 1}/{start + length}':
        version.unlink(missing_ok=True)  # the next attempt starts from the beginning
        answer = f'the server answered {response.status_code} {response.reason!a}, length {length or "unknown"}'
        raise UserError(f'{source}: {answer}; check the URL; if the only problem is the unknown length, give `sha256`')
    bar = tqdm(initial=start, total=start + length or None, unit='B', unit_scale=True, disable=None, leave=False)
    with bar, open(partial, 'ab' if start else 'wb') as file:
        try:
            while chunk := response.raw.read1(1 << 20, decode_content=False):
                bar.update(file.write(chunk))
        except HTTPError:  # the connection was lost before the end
            return False
        file.flush()
        os.fsync(file.fileno())
    version.unlink()
    partial.replace(path)
    return True
