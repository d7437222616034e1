"""Download a file into a cache, whole or not at all: `fetch`.

An interrupted download goes on where it was cut, as long as the server still has the same file. Nothing of what comes
is trusted: only file, http and https are followed, the length must be the one announced, and a SHA-256 is checked where
it is known.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from dnnlib.util import UserError, sync_folder

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30
# A connection that is cut is taken up again this often without a byte in between.
_MAX_IDLE_ATTEMPTS = 3
_MAX_REDIRECTS = 10
_CACHE_NAME = 'diffusion-memorization'


def is_url(text: str) -> bool:
    """Whether a text is a URL and not a path."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', text) is not None


def default_cache_dir() -> Path:
    """This project's folder in the user's cache folder."""
    base = Path.home() / ('Library/Caches' if sys.platform == 'darwin' else '.cache')
    return Path(os.environ.get('XDG_CACHE_HOME') or base) / _CACHE_NAME


def fetch(source: str, cache_dir: Path | None = None, sha256: str | None = None) -> Path:
    """Return the path of a file, or of the cached copy of what a URL names, downloaded where there is none.

    source: a path, or a URL of file, http or https. sha256: in hexadecimal; None where it is not known.
    Raises UserError for another scheme (in a redirect too), a server's refusal, a length that differs from the one
    announced, and another SHA-256.
    """
    if not is_url(source) and sha256 is None:
        return Path(source)  # whoever reads it says best what kind of file is missing
    if not is_url(source):
        return _checked(Path(source), source, sha256)
    url = urllib.parse.urlsplit(source)
    if url.scheme == 'file':
        return _checked(Path(urllib.request.url2pathname(url.path)), source, sha256)
    if url.scheme not in ('http', 'https'):
        raise UserError(
            f'{source}: only file, http and https are downloaded; fetch it in another way and give its path'
        )
    folder = cache_dir or default_cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _cache_name(source, url.path)
    with _locked(path.with_name(f'{path.name}.lock')):
        if not path.exists() or (sha256 is not None and sha256_of(path) != sha256.lower()):
            _Download(source, path, sha256).run()
    return path


def sha256_of(path: Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _checked(path: Path, source: str, sha256: str | None) -> Path:
    if not path.is_file():
        raise UserError(f'{source}: no such file; check its path')
    if sha256 is not None and (found := sha256_of(path)) != sha256.lower():
        raise UserError(f'{source}: its SHA-256 is {found}, and --sha256 says {sha256}; it is another file')
    return path


def _cache_name(source: str, url_path: str) -> str:
    """The file's own name, which says its format, behind a hash that tells URLs apart."""
    name = re.sub(r'[^A-Za-z0-9._-]', '_', urllib.parse.unquote(url_path).rpartition('/')[2])[-100:]
    return f'{hashlib.sha256(source.encode()).hexdigest()[:16]}-{name}'


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from the same download; they find it done afterwards."""
    with open(path, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _MAX_REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ('http', 'https') or (req.type == 'https' and scheme != 'https'):
            raise UserError(f'{req.full_url}: it redirects to {newurl[:200]!a}, which is not followed')
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        target = urllib.parse.urljoin(req.full_url, headers.get('location') or headers.get('uri') or '')
        if urllib.parse.urlsplit(target).scheme not in ('http', 'https'):
            raise UserError(f'{req.full_url}: it redirects to {target[:200]!a}, which is not followed')
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https, and nothing else that urllib knows."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class _Download:
    """One download; its beginning stays in `partial`, and in `facts` by what the server tells files apart."""

    def __init__(self, source: str, path: Path, sha256: str | None):
        self.source, self.path, self.sha256 = source, path, sha256
        self.partial, self.facts = path.with_name(f'{path.name}.partial'), path.with_name(f'{path.name}.partial.json')

    def run(self) -> None:
        idle, farthest = 0, self.size()
        while not self.attempt():
            idle, farthest = (0 if self.size() > farthest else idle + 1), max(farthest, self.size())
            if idle == _MAX_IDLE_ATTEMPTS:
                raise UserError(f'{self.source}: the download was cut at {self.size()} bytes; run again to go on')
        if self.sha256 is not None and (found := sha256_of(self.partial)) != self.sha256.lower():
            self.forget()
            raise UserError(
                f'{self.source}: its SHA-256 is {found}, and --sha256 says {self.sha256}; it is another file'
            )
        self.partial.replace(self.path)
        self.facts.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.facts.unlink(missing_ok=True)

    def validator(self) -> str | None:
        """What tells that the server's file is still that of the partial one, or None where nothing does."""
        try:
            value = json.loads(self.facts.read_bytes())['validator']
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, str) else None

    def attempt(self) -> bool:
        """Download from where the partial file ends; return whether it is whole."""
        validator, start = self.validator(), self.size()
        if validator is None and start:
            self.forget()
            start = 0
        headers = {'Accept-Encoding': 'identity', 'User-Agent': _CACHE_NAME}
        if start and validator is not None:
            headers |= {'Range': f'bytes={start}-', 'If-Range': validator}
        try:
            request = urllib.request.Request(self.source, headers=headers)
            with contextlib.closing(_opener().open(request, timeout=_TIMEOUT_SECONDS)) as response:
                return self.receive(response, start)
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:  # the partial file is longer than what the server has now
                self.forget()
                return False
            raise UserError(f'{self.source}: the server says {error.code} {error.reason!a}') from error
        except urllib.error.URLError as error:
            raise UserError(f'{self.source}: cannot be reached ({error.reason})') from error
        except (OSError, http.client.HTTPException):
            return False  # cut

    def receive(self, response: Any, start: int) -> bool:
        total = self.announced(response, start)
        if response.status != 206:
            start = 0
            validator = _strong_validator(response.headers)
            self.facts.write_text(json.dumps({'validator': validator}))
        with open(self.partial, 'r+b' if start else 'wb') as file, self.bar(start, total) as bar:
            file.seek(start)
            self.copy(response, file, bar)
            file.flush()
            os.fsync(file.fileno())
        return total is None or self.size() == total

    def announced(self, response: Any, start: int) -> int | None:
        """Length of the whole file, or None where the transfer itself tells its end; UserError without either."""
        if response.status == 206:
            match = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', response.headers.get('Content-Range') or '')
            if not start or match is None or int(match[1]) != start:
                raise UserError(f'{self.source}: the server sent another part than it was asked for')
            return int(match[2])
        length = response.headers.get('Content-Length')
        if length is not None and length.isdecimal():
            return int(length)
        if 'chunked' in (response.headers.get('Transfer-Encoding') or '').lower() or self.sha256 is not None:
            return None
        raise UserError(f'{self.source}: the server does not say how long the file is; give --sha256 to tell its end')

    def copy(self, response: Any, file: IO[bytes], bar: tqdm) -> None:
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))

    def bar(self, start: int, total: int | None) -> tqdm:
        return tqdm(initial=start, total=total, unit='B', unit_scale=True, desc='download', disable=None, leave=False)


def _strong_validator(headers: Any) -> str | None:
    tag = headers.get('ETag')
    if tag is not None and not tag.startswith('W/'):
        return tag
    return headers.get('Last-Modified')
