"""Bad input gives a one-sentence error message and the right exit status, and leaves no partial files."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import mem_ratio
import train
from tests.helpers import TINY


def png(width, height):
    data = io.BytesIO()
    PIL.Image.new('RGB', (width, height)).save(data, 'PNG')
    return data.getvalue()


def noise_png(side):
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(data, 'PNG')
    return data.getvalue()


def huge_png(side):
    """A PNG of a few bytes whose header gives a size of side x side pixels."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')
    )


def labels(*pairs):
    return json.dumps({'labels': pairs}).encode()


ARCHIVES = {
    'is 16x16 RGB': {'a.png': png(8, 8), 'b.png': png(16, 16)},
    'must be square': {'a.png': png(8, 16), 'b.png': png(8, 16)},
    'points outside the archive': {'../a.png': png(8, 8)},
    'absolute': {'/etc/a.png': png(8, 8)},
    'which does not exist': {'a.png': png(8, 8), 'dataset.json': labels(['a.png', 0], ['b.png', 1])},
    'has no label for 1 of 2 images': {'a.png': png(8, 8), 'b.png': png(8, 8), 'dataset.json': labels(['a.png', 0])},
    'pixels': {'a.png': huge_png(100_000)},
    'not a readable PNG': {'a.png': noise_png(8)[:150]},
}


@pytest.mark.parametrize('message', ARCHIVES)
def test_an_unusable_training_set_leaves_no_files(tmp_path, message):
    path = tmp_path / 'bad.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in ARCHIVES[message].items():
            archive.writestr(name, data)
    result = CliRunner().invoke(train.main, [f'--outdir={tmp_path}/run', f'--data={path}', *TINY, '--epochs=1'])
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f'Error: --data={path}')
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_every_script_names_a_truncated_archive(tmp_path, digits_20):
    path = tmp_path / 'cut.zip'
    path.write_bytes(digits_20.read_bytes()[:-2000])
    for command, arguments in [
        (train.main, [f'--outdir={tmp_path}/run', f'--data={path}']),
        (mem_ratio.main, [f'--images={path}', '--knn-ref=digits']),
    ]:
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 1
        assert f'{path} is not a readable ZIP archive' in result.stderr
