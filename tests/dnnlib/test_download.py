import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest
import requests

from dnnlib.download import fetch
from dnnlib.util import UserError

DATA = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    requests: list[tuple[str, str | None]]
    url: str


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA with the fault that the requested path names; the server records each request's path and range."""

    protocol_version = 'HTTP/1.1'
    server: Server

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get('Range')))
        name = self.path.split('/')[1]
        getattr(self, f'serve_{name}')()

    def send(self, data, status=200, **headers):  # header names with _ for -; None omits a header
        self.send_response(status)
        for key, value in {'Content_Length': len(data), 'ETag': '"1"', **headers}.items():
            if value is not None:
                self.send_header(key.replace('_', '-'), str(value))
        self.end_headers()
        self.wfile.write(data)

    def serve_whole(self):
        self.send(DATA)

    def serve_cut(self, parts=4, tag='"1"'):
        """Send only the first part of the requested bytes, then close the connection."""
        range_header = self.headers.get('Range')
        start = int(range_header[6:-1]) if range_header and self.headers['If-Range'] == tag else 0
        headers = {'Content_Length': len(DATA) - start, 'ETag': tag, 'Connection': 'close'}
        if start:
            headers['Content_Range'] = f'bytes {start}-{len(DATA) - 1}/{len(DATA)}'
        self.send(DATA[start : start + len(DATA) // parts], 206 if start else 200, **headers)
        self.close_connection = True

    def serve_changed(self):
        """Cut the first request short; serve a different file afterwards."""
        self.serve_cut(tag='"1"' if len(self.server.requests) == 1 else '"2"')

    def serve_long(self):
        """Send fewer bytes than the header declares."""
        self.send(DATA, Content_Length=len(DATA) + 5, ETag=None, Connection='close')
        self.close_connection = True

    def serve_silent(self):
        self.send(DATA, Content_Length=None, Connection='close')
        self.close_connection = True

    def serve_wrong(self):
        """Send a range that was not requested."""
        self.send(DATA[:100], 206, Content_Range=f'bytes 0-99/{len(DATA)}')

    def serve_missing(self):
        self.send(b'', 404)

    def serve_away(self):
        self.send(b'', 302, Location=f'/whole/{self.path.split("/")[2]}')

    def serve_file(self):
        self.send(b'', 302, Location='file:///etc/passwd')

    def serve_ftp(self):
        self.send(b'', 302, Location='ftp://127.0.0.1/x')

    def serve_round(self):
        self.send(b'', 302, Location='/round/x')

    def serve_nowhere(self):
        self.send(b'', 302, Location='http://[::1/')

    def serve_port(self):
        self.send(b'', 302, Location='http://127.0.0.1:99999999/')

    def serve_digits(self):
        self.send(b'', Content_Length='9' * 5000, Connection='close')
        self.close_connection = True

    def serve_negative(self):
        self.send(DATA, Content_Length=-5, Connection='close')
        self.close_connection = True

    def serve_header(self):
        self.send(DATA, ETag='x' * 100_000)

    def serve_headers(self):
        self.send(DATA, **{f'X{number}': '1' for number in range(300)})

    def serve_nonsense(self):
        self.wfile.write(b'\x00\xff\r\n\r\n')
        self.close_connection = True

    def serve_chunks(self):
        self.send(b'zz\r\nnonsense', Content_Length=None, Transfer_Encoding='chunked', Connection='close')
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server(('127.0.0.1', 0), Handler) as server:
        server.requests = []
        server.url = f'http://127.0.0.1:{server.server_address[1]}'
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def names(folder):
    return sorted(path.suffix for path in folder.iterdir() if path.suffix != '.lock')


def test_a_file_is_downloaded_once_and_keeps_its_name(server, tmp_path):
    path = fetch(f'{server.url}/whole/net.pkl?x=1', tmp_path, SHA256.upper())
    assert path.read_bytes() == DATA
    assert path.name.endswith('-net.pkl')
    assert fetch(f'{server.url}/whole/net.pkl?x=1', tmp_path) == path
    assert len(server.requests) == 1
    assert names(tmp_path) == ['.pkl']


def test_a_redirect_to_another_url_is_followed(server, tmp_path):
    assert fetch(f'{server.url}/away/net.pkl', tmp_path).read_bytes() == DATA


def test_a_redirect_from_https_to_http_is_refused(server, tmp_path, monkeypatch):
    get = requests.get
    monkeypatch.setattr(requests, 'get', lambda url, **options: get(f'{server.url}/whole/net.pkl', **options))
    with pytest.raises(UserError, match=f"redirects to '{server.url}/whole/net.pkl', which is not secure"):
        fetch('https://127.0.0.1/net.pkl', tmp_path)
    assert '.pkl' not in names(tmp_path)


def test_a_partial_file_that_is_already_complete_is_downloaded_again(server, tmp_path):
    url = f'{server.url}/whole/net.pkl'
    path = fetch(url, tmp_path)
    path.rename(f'{path}.partial')
    Path(f'{path}.version').write_text('"1"')
    assert fetch(url, tmp_path).read_bytes() == DATA


def test_an_interrupted_download_resumes_where_it_stopped(server, tmp_path):
    assert fetch(f'{server.url}/cut/net.pkl', tmp_path).read_bytes() == DATA
    starts = [int(header[6:-1]) for _, header in server.requests if header]
    assert starts == [len(DATA) // 4, len(DATA) // 2, len(DATA) // 4 * 3]


def test_a_partial_download_is_reused_by_a_later_run(server, tmp_path):
    url = f'{server.url}/cut/net.pkl'
    path = fetch(url, tmp_path)
    path.rename(path.with_name(f'{path.name}.partial'))
    partial = path.with_name(f'{path.name}.partial')
    partial.write_bytes(DATA[:1000])
    path.with_name(f'{path.name}.version').write_text('"1"')
    server.requests.clear()
    assert fetch(url, tmp_path).read_bytes() == DATA
    assert server.requests[0][1] == 'bytes=1000-'


def test_a_file_that_changed_on_the_server_is_downloaded_from_the_start(server, tmp_path):
    assert fetch(f'{server.url}/changed/net.pkl', tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('long', 'the connection was lost 20 times'),
        ('silent', 'length unknown; .* give `sha256`'),
        ('missing', "the server answered 404 'Not Found'"),
        ('file', "No connection adapters were found for 'file:///etc/passwd'"),
        ('ftp', 'No connection adapters were found'),
        ('round', 'Exceeded 30 redirects'),
        ('nowhere', 'cannot be downloaded'),
        ('port', 'cannot be downloaded'),
        ('digits', 'length unknown'),
        ('negative', 'length unknown'),
        ('header', 'cannot be downloaded'),
        ('headers', 'cannot be downloaded'),
        ('nonsense', 'cannot be downloaded'),
        ('chunks', 'length unknown'),
    ],
)
def test_failed_or_unverifiable_downloads_are_refused_and_not_kept(server, tmp_path, name, message):
    url = f'{server.url}/{name}/net.pkl'
    with pytest.raises(UserError, match=message) as caught:
        fetch(url, tmp_path)
    assert str(caught.value).startswith(server.url)
    assert '.pkl' not in names(tmp_path)


@pytest.mark.parametrize('url', ['http://[::1', 'http://127.0.0.1:x/a', 'http:///a'])
def test_invalid_urls_are_refused(url, tmp_path):
    with pytest.raises(UserError, match=r'not a valid URL|cannot be downloaded'):
        fetch(url, tmp_path)


def test_an_etag_with_arbitrary_bytes_is_kept_for_the_next_attempt(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, 'serve_cut', functools.partialmethod(Handler.serve_cut, tag='"\x85\xff"'))
    assert fetch(f'{server.url}/cut/net.pkl', tmp_path).read_bytes() == DATA
    assert len(server.requests) == 4


def test_a_file_with_another_hash_is_refused(server, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match=f'has the SHA-256 {SHA256}'):
            fetch(f'{server.url}/whole/net.pkl', tmp_path, '0' * 64)


def test_a_cached_file_with_another_hash_is_downloaded_again(server, tmp_path):
    path = fetch(f'{server.url}/whole/net.pkl', tmp_path)
    path.write_bytes(b'damaged')
    assert fetch(f'{server.url}/whole/net.pkl', tmp_path, SHA256).read_bytes() == DATA


def test_a_download_of_unknown_length_is_accepted_with_a_hash(server, tmp_path):
    assert fetch(f'{server.url}/silent/net.pkl', tmp_path, SHA256).read_bytes() == DATA


def test_a_byte_range_that_was_not_requested_is_refused(server, tmp_path):
    url = f'{server.url}/wrong/net.pkl'
    with pytest.raises(UserError):
        fetch(url, tmp_path)
    assert '.pkl' not in names(tmp_path)


def test_local_files_are_used_in_place(tmp_path):
    path = tmp_path / 'a b.pkl'
    path.write_bytes(DATA)
    assert fetch(str(path), sha256=SHA256) == path
    assert fetch(path.as_uri()) == path
    with pytest.raises(UserError, match='different file'):
        fetch(path.as_uri(), sha256='0' * 64)
    with pytest.raises(FileNotFoundError):
        fetch('file:///nowhere/x', sha256='0' * 64)


@pytest.mark.parametrize('url', ['ftp://127.0.0.1/x', 'data://x', 'gopher://127.0.0.1/x', 's3://bucket/x'])
def test_urls_with_other_schemes_are_refused(url, tmp_path):
    with pytest.raises(UserError, match='only file, http and https'):
        fetch(url, tmp_path)


def test_an_unreachable_server_is_named_in_the_error(tmp_path):
    with pytest.raises(UserError, match=r'cannot be downloaded .*Connection refused'):
        fetch('http://127.0.0.1:9/x', tmp_path)
