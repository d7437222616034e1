"""Folders and ZIP archives of images, and errors for hostile or damaged ones."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zipfile
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dataset_utils import Reading, open_source
from dataset_utils.sources import files
from dnnlib.util import UserError
from tests.dataset_utils.making import (
    image_bytes,
    labelled_files,
    names_of,
    png_header,
    random_images,
    write_files,
    write_zip,
)

PIXELS = random_images(1)[0]
PNG = image_bytes(PIXELS)


class TestImages:
    @pytest.mark.parametrize(('extension', 'format'), [('bmp', 'BMP'), ('ppm', 'PPM'), ('tif', 'TIFF'), ('PNG', 'PNG')])
    def test_lossless_formats_are_read_exactly(self, open_files, extension, format):
        assert np.array_equal(open_files({f'a.{extension}': image_bytes(PIXELS, format)}).read(0), PIXELS)

    @pytest.mark.parametrize(('extension', 'format'), [('jpg', 'JPEG'), ('JPEG', 'JPEG'), ('webp', 'WEBP')])
    def test_lossy_formats_are_read_as_pillow_decodes_them(self, open_files, extension, format):
        flat = np.full((8, 8, 3), 100, np.uint8)
        read = open_files({f'a.{extension}': image_bytes(flat, format)}).read(0)
        assert np.abs(read.astype(int) - 100).max() <= 2

    def test_the_format_is_detected_despite_a_wrong_extension(self, open_files):
        # One file of ImageNet named .JPEG is a PNG.
        assert np.array_equal(open_files({'a.JPEG': PNG}).read(0), PIXELS)

    @pytest.mark.parametrize(
        ('mode', 'expected'),
        [
            ('1', [[255]]),
            ('L', [[200]]),
            ('LA', [[200]]),
            ('I;16', [[128]]),
            ('RGB', [[200, 200, 200]]),
            ('RGBA', [[200, 200, 200]]),
            ('P', [[200, 200, 200]]),
        ],
    )
    @pytest.mark.filterwarnings('error')
    def test_other_pixel_formats_become_grey_or_rgb(self, open_files, mode, expected):
        colours: dict[str, Any] = {'1': 1, 'I;16': 128 * 257, 'LA': (200, 9)}
        colours |= {'RGB': (200,) * 3, 'RGBA': (200, 200, 200, 9)}
        image = PIL.Image.new(mode, (4, 4), colours.get(mode, 200))
        if mode == 'P':
            image.putpalette([value for value in range(256) for _ in range(3)])
        buffer = io.BytesIO()
        image.save(buffer, 'PNG', **({'transparency': bytes(256)} if mode == 'P' else {}))
        read = open_files({'a.png': buffer.getvalue()}).read(0)
        assert read.shape == (4, 4, len(expected[0]))
        assert (read == expected).all()

    def test_sixteen_bit_values_are_rounded_to_eight_bits(self, open_files):
        values = np.arange(0, 65536, 13, dtype=np.uint16)[:4096].reshape(64, 64)
        buffer = io.BytesIO()
        PIL.Image.fromarray(values).save(buffer, 'PNG')
        expected = np.round(values / 65535 * 255)
        assert np.array_equal(open_files({'a.png': buffer.getvalue()}).read(0)[..., 0], expected)

    def test_cmyk_becomes_rgb(self, open_files):
        buffer = io.BytesIO()
        PIL.Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(buffer, 'JPEG', quality=95)
        red = open_files({'a.jpg': buffer.getvalue()}).read(0)
        assert red.shape == (8, 8, 3)
        assert np.abs(red.astype(int) - [255, 0, 0]).max() < 10

    def test_pixel_formats_without_an_eight_bit_equivalent_are_refused(self, open_files):
        buffer = io.BytesIO()
        PIL.Image.new('F', (4, 4), 0.5).save(buffer, 'TIFF')
        with pytest.raises(UserError, match=r'set.*: a\.tif .*pixel format F is not supported; convert the image'):
            open_files({'a.tif': buffer.getvalue()}).read(0)

    @pytest.mark.parametrize('names', [('a.png', 'b.png'), ('b.png', 'a.png')])
    def test_grey_images_among_colour_images_become_rgb_in_any_order(self, open_files, names):
        grey = random_images(1, channels=1)[0]
        colour_name, grey_name = names
        source = open_files({colour_name: PNG, grey_name: image_bytes(grey)})
        assert source.channels == 3
        loaded = dict(zip(names_of(source), source.load(), strict=True))
        assert np.array_equal(loaded[grey_name], np.concatenate([grey, grey, grey], axis=2))
        assert np.array_equal(loaded[colour_name], PIXELS)

    @pytest.mark.parametrize('format', ['PNG', 'BMP', 'TIFF'])
    def test_grey_images_stay_grey_in_any_format(self, open_files, format):
        grey = random_images(2, channels=1)
        data = {f'{n}.{format.lower()}': image_bytes(image, format) for n, image in enumerate(grey)}
        assert np.array_equal(open_files(data).load(), grey)

    def test_channels_can_be_chosen(self, tmp_path):
        path = write_zip(tmp_path / 'a.zip', {'a.png': PNG})
        luma = np.asarray(PIL.Image.fromarray(PIXELS).convert('L'))[..., None]
        assert np.array_equal(open_source(path, '', Reading(channels=1)).load()[0], luma)
        digits = open_source('digits', '', Reading(channels=3)).load()
        assert np.array_equal(digits, np.repeat(open_source('digits').load(), 3, axis=3))

    def test_the_first_image_of_another_size_is_named_in_the_error(self, open_files):
        content = {f'{number:03}.png': PNG for number in range(300)}
        wide = PIL.Image.new('RGB', (9, 8))
        for name in ('150.png', '200.png', '299.png'):
            content[name] = image_bytes(np.asarray(wide))
        with pytest.raises(UserError, match=r'150\.png is 9x8 RGB, but 000\.png is 8x8 RGB; bring all images to one'):
            open_files(content).load()

    def test_images_that_are_not_square_are_read(self, open_files):
        wide = random_images(1, 10)[0][:5]
        assert open_files({'a.png': image_bytes(wide)}).load().shape == (1, 5, 10, 3)


class TestBrokenImages:
    def test_a_truncated_image_is_named_with_the_remedy(self, tmp_path):
        png = image_bytes(random_images(1, 64)[0])
        archive = write_zip(tmp_path / 'cifar.zip', {'00012/img00012345.png': png[:812]})
        expected = (
            f'`data`={archive}: 00012/img00012345.png is not a readable PNG '
            f'(truncated after 812 bytes); replace or remove it'
        )
        with pytest.raises(UserError) as caught:
            open_source(archive, 'data').load()
        assert str(caught.value) == expected

    @pytest.mark.parametrize('length', range(0, len(PNG) - 16, 7))
    def test_every_truncation_gives_a_one_sentence_error(self, open_files, length):
        with pytest.raises(UserError, match=r'a\.png is not a readable PNG'):
            open_files({'a.png': PNG[:length]}).read(0)

    @pytest.mark.parametrize('data', [b'', b'<html>', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'\xff\xd8\xff\xe0'])
    def test_a_file_that_is_not_an_image_gives_a_one_sentence_error(self, open_files, data):
        with pytest.raises(UserError, match=r'a\.png is not a readable PNG'):
            open_files({'a.png': data}).read(0)

    @pytest.mark.parametrize(('width', 'height'), [(100_000, 100_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
    @pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
    def test_an_absurd_image_size_is_refused_from_the_header(self, open_files, width, height):
        with pytest.raises(UserError, match=r'a\.png has more than \d+ pixels; remove it'):
            open_files({'a.png': png_header(width, height)}).read(0)

    def test_an_absurd_image_size_prints_no_warning_in_a_new_process(self, tmp_path):
        archive = write_zip(tmp_path / 'a.zip', {'a.png': png_header(10_000, 10_000)})
        dest = tmp_path / 'b.zip'
        command = [sys.executable, 'dataset_tool.py', f'--source={archive}', f'--dest={dest}']
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 1
        assert 'has more than' in result.stderr
        assert 'Warning' not in result.stderr
        assert 'Traceback' not in result.stderr

    def test_control_characters_in_names_do_not_reach_the_terminal(self, open_files):
        with pytest.raises(UserError) as caught:
            open_files({'a\x1b[2J\n.png': b'x'}).read(0)
        assert str(caught.value).isprintable()


class TestEmpty:
    def test_an_archive_without_images_is_refused(self, open_files):
        with pytest.raises(UserError, match=r'contains no images \(\.png .*\.jpg .*\), only readme\.txt; give'):
            open_files({'readme.txt': b'x'})

    def test_an_empty_folder_is_refused(self, tmp_path):
        (tmp_path / 'empty').mkdir()
        with pytest.raises(UserError, match=r'contains no images'):
            open_source(tmp_path / 'empty')


class TestFolder:
    @pytest.mark.parametrize('link', ['b.png', 'more', 'dataset.json'])
    def test_links_that_leave_the_folder_are_followed_only_on_request(self, tmp_path, link):
        outside = write_files(tmp_path / 'outside', {'x.png': PNG, 'none.json': b'{"labels": null}'})
        folder = write_files(tmp_path / 'set', {'a.png': PNG})
        (folder / link).symlink_to({'b.png': outside / 'x.png', 'more': outside}.get(link, outside / 'none.json'))
        with pytest.raises(
            UserError, match=rf'{link} is a symbolic link to a target outside the folder; .*--follow-links'
        ):
            open_source(folder)
        expected = {'b.png': ['a.png', 'b.png'], 'more': ['a.png', 'more/x.png']}.get(link, ['a.png'])
        assert names_of(open_source(folder, '', Reading(follow_links=True))) == expected

    def test_links_inside_the_folder_are_followed(self, tmp_path):
        folder = write_files(tmp_path / 'set', {'blobs/0a': PNG, 'blobs/0b': PNG})
        (folder / 'snapshot').mkdir()
        for name in ('0a', '0b'):
            (folder / 'snapshot' / f'{name}.png').symlink_to(f'../blobs/{name}')
        source = open_source(folder)
        assert names_of(source) == ['snapshot/0a.png', 'snapshot/0b.png']
        assert np.array_equal(source.load(), [PIXELS, PIXELS])

    def test_links_that_are_not_images_are_ignored(self, tmp_path):
        folder = write_files(tmp_path / 'set', {'a.png': PNG})
        (folder / 'README').symlink_to(write_files(tmp_path, {'README': b'x'}) / 'README')
        (folder / 'latest').symlink_to('nowhere')
        assert names_of(open_source(folder)) == ['a.png']

    def test_circular_links_end(self, tmp_path):
        folder = write_files(tmp_path / 'set', {'a.png': PNG, 'x/b.png': PNG})
        (folder / 'again').symlink_to(folder)
        (folder / 'x' / 'up').symlink_to('..')
        other = write_files(tmp_path / 'other', {'c.png': PNG})
        (other / 'back').symlink_to(folder)
        (folder / 'other').symlink_to(other)
        assert names_of(open_source(folder, '', Reading(follow_links=True))) == ['a.png', 'other/c.png', 'x/b.png']

    def test_a_dangling_link_is_named_in_the_error(self, tmp_path):
        folder = write_files(tmp_path / 'set', {'a.png': PNG})
        (folder / 'b.png').symlink_to('c.png')
        with pytest.raises(UserError, match=r'b\.png cannot be read \(No such file'):
            open_source(folder).load()

    def test_the_folder_itself_may_be_a_link(self, tmp_path):
        (tmp_path / 'link').symlink_to(write_files(tmp_path / 'set', {'a.png': PNG}))
        assert open_source(tmp_path / 'link').name == 'link'

    def test_named_pipes_are_not_read_as_images(self, tmp_path):
        folder = write_files(tmp_path / 'set', {'a.png': PNG})
        os.mkfifo(folder / 'b.png')
        assert len(open_source(folder)) == 1

    def test_an_image_that_has_vanished_is_named_in_the_error(self, tmp_path):
        source = open_source(write_files(tmp_path / 'set', {'a.png': PNG, 'b.png': PNG}))
        (tmp_path / 'set' / 'b.png').unlink()
        with pytest.raises(UserError, match=r'b\.png cannot be read \(No such file or directory\)'):
            source.load()

    def test_a_huge_image_file_is_refused(self, tmp_path, monkeypatch):
        source: Any = open_source(write_files(tmp_path / 'set', {'a.png': PNG}))
        with pytest.raises(UserError, match=r'a\.png is larger than 100 bytes'):
            source.read_bytes('a.png', 100)


class TestArchive:
    @pytest.mark.parametrize(
        ('name', 'reason'),
        [
            ('/etc/cron.d/a.png', 'absolute'),
            ('../a.png', 'points outside'),
            ('x/../../a.png', 'points outside'),
            ('..\\a.png', 'has an absolute path, or a path with a backslash'),
            ('C:/a.png', 'has an absolute path, or a path with a backslash'),
            ('c:a.png', 'has an absolute path, or a path with a backslash'),
            ('\\\\host\\a.png', 'has an absolute path, or a path with a backslash'),
        ],
    )
    def test_names_that_point_outside_an_archive_are_refused(self, tmp_path, name, reason):
        with pytest.raises(UserError, match=f'the entry .* {reason}'):
            open_source(write_zip(tmp_path / 'a.zip', {'ok.png': PNG, name: PNG}))

    def test_links_that_leave_an_archive_are_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
            link = zipfile.ZipInfo('a.png')
            link.external_attr = 0o120777 << 16
            archive.writestr(link, '/etc/passwd')
        with pytest.raises(UserError, match=r'a\.png is a link whose target is not a file in the archive'):
            open_source(tmp_path / 'a.zip')

    def test_duplicate_names_in_an_archive_are_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
            archive.writestr('a.png', PNG)
            with pytest.warns(UserWarning, match=r'Duplicate'):
                archive.writestr('a.png', PNG)
        with pytest.raises(UserError, match=r'a\.png occurs twice'):
            open_source(tmp_path / 'a.zip')

    def test_encrypted_entries_are_refused(self, tmp_path):
        path = write_zip(tmp_path / 'a.zip', {'a.png': PNG})
        data = bytearray(path.read_bytes())
        data[data.index(b'PK\1\2') + 8] |= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match=r'is encrypted'):
            open_source(path)

    def test_unsupported_compression_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r'compression method other than'):
            open_source(write_zip(tmp_path / 'a.zip', {'a.png': PNG}, zipfile.ZIP_LZMA))

    def test_deflated_archives_are_read(self, tmp_path):
        files = labelled_files(random_images(3), [2, 1, 0])
        source = open_source(write_zip(tmp_path / 'a.zip', files, zipfile.ZIP_DEFLATED))
        assert np.array_equal(source.load(), random_images(3))
        assert source.labels == [2, 1, 0]

    def test_a_zip_bomb_is_refused_by_its_size(self, tmp_path, monkeypatch):
        bomb = write_zip(tmp_path / 'a.zip', {'a.png': bytes(files.MAX_FILE_BYTES + 1)}, zipfile.ZIP_DEFLATED)
        assert bomb.stat().st_size < 1 << 20
        with pytest.raises(UserError, match=r'a\.png is larger than \d+ bytes'):
            open_source(bomb).read(0)

    def test_a_zip_bomb_that_understates_its_size_is_not_unpacked_further(self, tmp_path):
        path = write_zip(tmp_path / 'a.zip', {'a.png': bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
        data = path.read_bytes().replace(struct.pack('<I', 10_000_000), struct.pack('<I', 1000))
        path.write_bytes(data)
        with pytest.raises(UserError, match=r'a\.png is damaged \(1001 bytes instead of 1000\)'):
            open_source(path).read(0)

    @pytest.mark.parametrize('share', [0.0, 0.3, 0.9, 0.999])
    def test_a_truncated_archive_gives_a_one_sentence_error(self, tmp_path, share):
        path = write_zip(tmp_path / 'a.zip', labelled_files(random_images(20), None))
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(UserError, match=r'a\.zip is not a readable ZIP archive .*might be truncated'):
            open_source(path)

    def test_an_archive_truncated_after_opening_is_reported_as_damaged(self, tmp_path):
        path = write_zip(tmp_path / 'a.zip', labelled_files(random_images(20), None))
        source = open_source(path)
        os.truncate(path, 1000)
        with pytest.raises(UserError, match=r'is damaged'):
            source.load()

    def test_a_changed_byte_is_detected_and_the_image_named(self, tmp_path):
        path = write_zip(tmp_path / 'a.zip', {'a.png': PNG, 'b.png': PNG})
        data = bytearray(path.read_bytes())
        data[data.index(b'b.png') + 80] ^= 1
        path.write_bytes(data)
        source = open_source(path)
        assert np.array_equal(source.read(0), PIXELS)
        with pytest.raises(UserError, match=r'b\.png is damaged \(wrong checksum\)'):
            source.read(1)

    def test_a_wrong_position_in_the_archives_directory_is_detected(self, tmp_path):
        path = write_zip(tmp_path / 'a.zip', {'a.png': PNG, 'b.png': PNG})
        data = bytearray(path.read_bytes())
        second = data.rindex(b'PK\1\2')
        data[second + 42 : second + 46] = struct.pack('<I', 17)
        path.write_bytes(data)
        with pytest.raises(UserError, match=r'b\.png is damaged \(it is not at the position given in the directory\)'):
            open_source(path).read(1)

    def test_random_damage_gives_no_other_exception(self, tmp_path):
        sound = write_zip(tmp_path / 'sound.zip', labelled_files(random_images(3), [0, 1, 2]), zipfile.ZIP_DEFLATED)
        original = sound.read_bytes()
        rng = np.random.default_rng(0)
        for trial in range(300):
            data = bytearray(original)
            for position in rng.integers(0, len(data), 3):
                data[position] = rng.integers(256)
            path = tmp_path / f'{trial}.zip'
            path.write_bytes(data)
            with contextlib.suppress(UserError):
                source = open_source(path)
                assert source.labels in (None, [0, 1, 2])
                assert source.load().shape == (len(source), 8, 8, 3)
