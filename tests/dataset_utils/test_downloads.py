import functools
import hashlib
import http.server
import threading

import numpy as np
import pytest

import dataset_tool
from tests.dataset_utils.making import random_images, read_zip, write_cifar, write_idx
from tests.helpers import invoke, refusal

CIFAR = 'cifar-10-python.tar.gz'


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith('/moved/'):
            self.send_response(302)
            self.send_header('Location', 'file:///etc/passwd')
            self.end_headers()
            return
        if self.path.startswith('/cut/'):
            self.send_response(200)
            self.send_header('Content-Length', '100000')
            self.end_headers()
            self.wfile.write(b'short')
            return
        super().do_GET()


@pytest.fixture
def site(tmp_path):
    """A folder and the URL of a local server that serves its files."""
    folder = tmp_path / 'site'
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_a_url_gives_the_same_data_set_as_its_file(site, tmp_path):
    folder, address = site
    write_cifar(folder / CIFAR)
    cache = f'--cache-dir={tmp_path}/cache'
    local, remote = tmp_path / 'local.zip', tmp_path / 'remote.zip'
    assert invoke(dataset_tool.main, f'--source={folder}/{CIFAR}', f'--dest={local}').exit_code == 0
    result = invoke(dataset_tool.main, f'--source={address}/{CIFAR}', f'--dest={remote}', cache)
    assert result.exit_code == 0, result.output
    assert remote.read_bytes() == local.read_bytes()
    sha256 = hashlib.sha256((folder / CIFAR).read_bytes()).hexdigest()
    (folder / CIFAR).unlink()  # the file is still in the cache
    again = invoke(dataset_tool.main, f'--source={address}/{CIFAR}', f'--dest={tmp_path}/again.zip', cache,
                f'--sha256={sha256}')  # fmt: skip
    assert again.exit_code == 0, again.output
    assert (tmp_path / 'again.zip').read_bytes() == local.read_bytes()


def test_numpy_arrays_at_a_url_are_converted(tmp_path):
    images = random_images(4)
    np.savez(tmp_path / 'a.npz', arr_0=images, arr_1=np.array([3, 0, 3, 1]))
    assert invoke(dataset_tool.main, f'--source=file://{tmp_path}/a.npz', f'--dest={tmp_path}/a.zip').exit_code == 0
    found, labels, manifest = read_zip(tmp_path / 'a.zip')
    assert np.array_equal(found, images)
    assert (labels, manifest['source']) == ([3, 0, 3, 1], 'a.npz')


@pytest.mark.parametrize(
    ('place', 'message'),
    [
        ('/none.zip', 'the server answered 404'),
        ('/moved/a.zip', 'cannot be downloaded'),
        ('/cut/a.zip', 'the connection was lost'),
        ('/train-images-idx3-ubyte.gz', 'its labels are in a second file'),
    ],
)
def test_a_failed_download_leaves_no_data_set(site, tmp_path, place, message):
    folder, address = site
    write_idx(folder)
    dest = tmp_path / 'a.zip'
    result = invoke(dataset_tool.main, f'--source={address}{place}', f'--dest={dest}', f'--cache-dir={tmp_path}/cache')
    assert message in refusal(result)
    assert not dest.exists()


def test_wrong_hashes_and_unsupported_schemes_are_refused(site, tmp_path):
    folder, address = site
    write_cifar(folder / CIFAR)
    common = f'--dest={tmp_path}/a.zip', f'--cache-dir={tmp_path}/cache'
    for source in (f'{address}/{CIFAR}', f'{folder}/{CIFAR}'):
        assert 'has the SHA-256' in refusal(invoke(dataset_tool.main, f'--source={source}', *common, '--sha256=00'))
    result = invoke(dataset_tool.main, f'--source=ftp://host/{CIFAR}', *common)
    assert 'only file, http and https' in refusal(result)
