"""Tar archives of images, and errors for hostile archives and labels."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset_utils import content_sha256, open_source
from dnnlib.util import UserError
from tests.dataset_utils.making import image_bytes, labelled_files, names_of, random_images, write_files, write_zip

IMAGES, LABELS = random_images(3), [1, 0, 1]


def write_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = b'2') -> Path:
    with tarfile.open(path, 'w') as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return path


def test_a_tar_archive_gives_the_same_images_as_the_folder(tmp_path):
    files = labelled_files(IMAGES, LABELS)
    paths = [
        write_tar(tmp_path / 'a.tar', {f'./{name}': data for name, data in files.items()}),
        write_files(tmp_path / 'a', files),
        write_zip(tmp_path / 'a.zip', files),
    ]
    for path in paths:
        source = open_source(path)
        assert source.name == 'a'
        assert source.labels == LABELS
        assert np.array_equal(source.load(), IMAGES)
        assert source.content_sha256() == content_sha256(IMAGES, LABELS)


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_inside_a_tar_are_followed(tmp_path, kind):
    png = image_bytes(IMAGES[0])
    target = 'x/0a' if kind == tarfile.LNKTYPE else '../x/0a'
    source = open_source(write_tar(tmp_path / 'a.tar', {'x/0a': png}, {'y/b.png': target, 'README': '../no'}, kind))
    assert names_of(source) == ['y/b.png']
    assert np.array_equal(source.load(), IMAGES[:1])
    with pytest.raises(UserError, match=r'c\.png is a link whose target is not a file in the archive'):
        open_source(write_tar(tmp_path / 'b.tar', {'a.png': png}, {'c.png': '/etc/passwd'}))


def test_links_inside_a_zip_are_followed(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('x/0a', image_bytes(IMAGES[0]))
        for name, target in [('y/b.png', '../x/0a'), ('README', '../../README')]:
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
    source = open_source(tmp_path / 'a.zip')
    assert names_of(source) == ['y/b.png']
    assert np.array_equal(source.load(), IMAGES[:1])


@pytest.mark.parametrize('name', ['/etc/a.png', '../a.png', 'x\\a.png'])
def test_names_that_point_outside_a_tar_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r'has an absolute path|points outside the archive'):
        open_source(write_tar(tmp_path / 'a.tar', {name: image_bytes(IMAGES[0])}))


@pytest.mark.parametrize('size', [0, 100, 700, 1024, 1500])
def test_a_truncated_tar_gives_a_one_sentence_error(tmp_path, size):
    path = write_tar(
        tmp_path / 'a.tar', {'a.png': image_bytes(IMAGES[0]), 'b.png': image_bytes(random_images(1, 32)[0])}
    )
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r'a\.tar (is not a readable tar archive|contains no images)|is damaged'):
        open_source(path).load()


def test_the_error_for_a_compressed_tar_of_images_suggests_other_formats(tmp_path):
    import gzip

    path = tmp_path / 'a.tar.gz'
    path.write_bytes(gzip.compress(write_tar(tmp_path / 'a.tar', {'a.png': image_bytes(IMAGES[0])}).read_bytes()))
    with pytest.raises(UserError, match=r'has no batches.meta, .* pack images as .zip or .tar'):
        open_source(path)


def header(name: bytes, kind: bytes, size: int, real_size: int = 0) -> bytes:
    """A GNU tar header. real_size: unpacked size, if the header announces a sparse file."""

    def number(value: int) -> bytes:
        return bytes([0x80]) + value.to_bytes(11, 'big')

    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b'%011o\0' % size
    block[148:156] = b' ' * 8
    block[156:157] = kind
    block[257:265] = b'ustar  \0'
    if real_size:
        block[386:398], block[398:410], block[483:495] = number(real_size - 512), number(512), number(real_size)
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


PAX = b'30 size=99999999999999999999\n'
EMPTY = header(b'x.png', b'0', 0) + bytes(1024)
HOSTILE = {
    'sparse': header(b'x.png', b'S', 512, 6 << 30) + bytes(1536),
    'a chain of long names': (header(b'L', b'L', 3) + b'ab' + bytes(510)) * 3000
    + header(b'x.png', b'0', 0)
    + bytes(1024),
    'a size of 20 digits': header(b'x', b'x', len(PAX))
    + PAX.ljust(512, b'\0')
    + header(b'x.png', b'0', 0)
    + bytes(1024),
}


@pytest.mark.parametrize('trick', HOSTILE)
def test_hostile_tar_files_give_a_one_sentence_error(tmp_path, trick):
    import gzip

    (tmp_path / 'a.tar').write_bytes(HOSTILE[trick])
    (tmp_path / 'a.tar.gz').write_bytes(gzip.compress(HOSTILE[trick].replace(b'x.png\0\0\0\0\0\0\0', b'batches.meta')))
    for name in ('a.tar', 'a.tar.gz'):
        with pytest.raises(UserError):
            open_source(tmp_path / name).load()


@pytest.mark.parametrize('label', [2**21, 2**31 - 1, 10**30])
def test_labels_too_large_for_any_network_are_refused(tmp_path, label):
    files = {'a.png': image_bytes(IMAGES[0]), 'dataset.json': json.dumps({'labels': [['a.png', label]]}).encode()}
    with pytest.raises(UserError, match=r'labels\[0\]\[1\] must be a whole number'):
        open_source(write_zip(tmp_path / 'a.zip', files)).labels  # noqa: B018


def test_a_large_json_file_of_empty_lists_takes_little_memory(tmp_path):
    import resource
    import subprocess
    import sys

    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.png', image_bytes(IMAGES[0]))
        archive.writestr('dataset.json', b'{"labels":[' + b'[],' * 30_000_000 + b'0]}')
    code = f'from dataset_utils import open_source; open_source({str(tmp_path / "a.zip")!r}).labels'

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, preexec_fn=limit, check=False)
    assert 'UserError' in result.stderr.splitlines()[-1]
