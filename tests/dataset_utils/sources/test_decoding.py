"""Image files that are not simple 8-bit pictures: unusual formats, EXIF orientation, several frames, 16 bits."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import dataset_tool
from dataset_utils import Reading, open_source
from dataset_utils.command_line import main
from dnnlib.util import UserError
from tests.dataset_utils.making import image_bytes, names_of, random_images, read_zip, write_files
from tests.helpers import invoke

PIXELS = random_images(1)[0]
FLAT = np.full((8, 8, 3), 100, np.uint8)


def converted(folder: Path, *options: str) -> tuple[np.ndarray, dict, str]:
    """Convert a folder with dataset_tool.py; return the images, the manifest and the text on stderr."""
    dest = folder.parent / 'd.zip'
    result = invoke(dataset_tool.main, f'--source={folder}', f'--dest={dest}', '--overwrite', *options)
    assert result.exit_code == 0, result.output
    images, _, manifest = read_zip(dest)
    return images, manifest, result.stderr


def sixteen_bits(values: np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint16)).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('extension', 'format'),
    [
        *[('jfif', 'JPEG'), ('jpe', 'JPEG'), ('JFIF', 'JPEG'), ('gif', 'GIF'), ('avif', 'AVIF'), ('jp2', 'JPEG2000')],
        *[('tga', 'TGA'), ('pcx', 'PCX'), ('sgi', 'SGI'), ('qoi', 'QOI'), ('dib', 'DIB'), ('pnm', 'PPM')],
    ],
)
def test_still_images_of_every_format_are_read(tmp_path, extension, format):
    folder = write_files(tmp_path / 'p', {'a.png': image_bytes(FLAT), f'b.{extension}': image_bytes(FLAT, format)})
    images, manifest, stderr = converted(folder)
    assert images.shape == (2, 8, 8, 3)
    assert np.abs(images[1].astype(int) - 100).max() <= 3
    assert 'skipped_files' not in manifest
    assert stderr == ''


def test_skipped_files_are_counted_and_named(tmp_path):
    names = ['b.docx', 'c', 'labels.csv', 'x/d.mat']
    files = {'a.png': image_bytes(PIXELS), '.hidden': b'', **dict.fromkeys(names, b'?')}
    _, manifest, stderr = converted(write_files(tmp_path / 'p', files))
    assert manifest['skipped_files'] == names
    assert stderr == 'p: skipped 4 files that are not images: b.docx, c, labels.csv, x/d.mat.\n'


def test_heic_photographs_are_skipped_with_a_remedy(tmp_path):
    files = {'a.png': image_bytes(PIXELS), 'b.heic': b'?', 'c.HEIF': b'?', 'd.txt': b''}
    _, manifest, stderr = converted(write_files(tmp_path / 'p', files))
    assert manifest['skipped_files'] == ['b.heic', 'c.HEIF', 'd.txt']
    assert stderr.splitlines() == [
        'p: skipped 1 file that is not an image: d.txt.',
        'p: skipped 2 HEIC photographs: b.heic, c.HEIF; HEIC cannot be read, so convert to JPEG or PNG.',
    ]
    with pytest.raises(UserError, match=r'only e\.heic; convert HEIC photographs to JPEG or PNG'):
        open_source(str(write_files(tmp_path / 'q', {'e.heic': b'?'})))


def test_long_lists_of_skipped_files_are_shortened(tmp_path):
    files = {'a.png': image_bytes(PIXELS), **{f'{n:04}.xml': b'' for n in range(1200)}}
    _, manifest, stderr = converted(write_files(tmp_path / 'p', files))
    assert len(manifest['skipped_files']) == 1001
    assert manifest['skipped_files'][-1] == '... and 200 more'
    assert 'skipped 1,200 files' in stderr
    assert len(stderr) < 200


def test_folders_that_become_classes_are_listed(tmp_path):
    files = {f'{folder}/{n}.png': image_bytes(PIXELS) for folder in ('00000', '00001') for n in 'ab'}
    assert (
        'p: 2 classes, named after the folders 00000, 00001; dataset_tool.py --no-labels'
        in converted(write_files(tmp_path / 'p', files))[2]
    )
    files = {f'0000{n}/00{n}000.png': image_bytes(PIXELS) for n in (0, 1)}
    stderr = converted(write_files(tmp_path / 'q', files))[2]
    assert 'q: no labels, because the folders only divide the numbered images into groups.' in stderr


def test_folders_are_not_classes_if_labels_are_ignored(tmp_path):
    files = {'loose.png': image_bytes(PIXELS), 'cat/a.png': image_bytes(PIXELS), 'dog/b.png': image_bytes(PIXELS)}
    folder = write_files(tmp_path / 'p', files)
    with pytest.raises(UserError, match='or make a data set without labels with dataset_tool'):
        open_source(folder).labels  # noqa: B018 - reading them raises
    images, manifest, stderr = converted(folder, '--no-labels')
    assert len(images) == 3
    assert (manifest['labels'], manifest['class_names'], stderr) == ('none', None, '')
    assert manifest['arguments']['no_labels'] is True
    result = invoke(main, 'info', tmp_path / 'd.zip', f'--verify={folder}')
    assert 'Labels: none' in result.stdout
    assert 'Verified' in result.stdout, result.output


def test_labels_of_any_kind_can_be_ignored():
    source = open_source('digits', '', Reading(no_labels=True))
    assert (source.labels, source.class_names, source[0][1]) == (None, None, None)


class TestOrientation:
    @pytest.mark.parametrize('format', ['JPEG', 'PNG', 'WEBP'])
    def test_rotated_images_are_counted_or_on_request_turned_upright(self, tmp_path, format):
        rows = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[:, None], 16, 1)[..., None].repeat(3, 2)
        exif = PIL.Image.Exif()
        exif[274] = 3  # rotated by 180°
        data = image_bytes(rows[::-1], format, exif=exif, quality=95)
        folder = write_files(tmp_path / 'p', {f'a.{format.lower()}': data, 'b.png': image_bytes(rows)})
        images, manifest, stderr = converted(folder)
        assert np.abs(images[0].astype(int) - rows[::-1]).max() < 12
        assert f'p: did not rotate 1 image with an EXIF orientation (such as a.{format.lower()})' in stderr
        assert 'exif_transpose' not in manifest['arguments']
        images, manifest, stderr = converted(folder, '--exif-transpose')
        assert np.abs(images[0].astype(int) - rows).max() < 12
        assert stderr == ''
        assert manifest['arguments']['exif_transpose'] is True

    def test_a_quarter_turn_swaps_width_and_height(self, tmp_path):
        exif = PIL.Image.Exif()
        exif[274] = 6
        wide = random_images(1, 8)[0][:4]
        folder = write_files(tmp_path / 'p', {'a.png': image_bytes(wide, exif=exif)})
        read = open_source(folder, '', Reading(exif_transpose=True)).read(0)
        assert np.array_equal(read, np.rot90(wide, -1))


def test_only_the_first_frame_is_read_and_this_is_reported(tmp_path):
    frames = [PIL.Image.fromarray(image) for image in random_images(3)]
    for name, format in [('a.gif', 'GIF'), ('b.tif', 'TIFF'), ('c.png', 'PNG')]:
        (tmp_path / 'p').mkdir(exist_ok=True)
        frames[0].save(tmp_path / 'p' / name, format, save_all=True, append_images=frames[1:])
    images, _, stderr = converted(tmp_path / 'p')
    assert len(images) == 3
    assert np.array_equal(images[2], random_images(3)[0])
    assert 'read only the first frame of 3 images with several frames' in stderr


class TestSixteenBits:
    VALUES = np.arange(4096).reshape(64, 64)  # 12-bit values
    SCALED = np.round(VALUES * 255 / 4095).astype(np.uint8)

    def test_a_pgm_with_the_full_range_is_read(self, tmp_path):
        values = (np.arange(256) * 257).reshape(16, 16)
        (tmp_path / 'a.pgm').write_bytes(b'P5\n16 16\n65535\n' + values.astype('>u2').tobytes())
        assert np.array_equal(open_source(tmp_path).load()[0, ..., 0], np.arange(256).reshape(16, 16))

    def test_the_range_stated_in_a_pgm_is_used(self, tmp_path):
        (tmp_path / 'p').mkdir()
        (tmp_path / 'p' / 'a.pgm').write_bytes(b'P5\n64 64\n4095\n' + self.VALUES.astype('>u2').tobytes())
        images, _, stderr = converted(tmp_path / 'p')
        assert np.abs(images[0, ..., 0].astype(int) - self.SCALED).max() <= 1
        assert stderr == ''

    @pytest.mark.parametrize('tag', [281, 341])
    def test_the_range_stated_in_a_tiff_is_used(self, tmp_path, tag):
        folder = write_files(tmp_path / 'p', {'a.tif': sixteen_bits(self.VALUES, 'TIFF', tiffinfo={tag: 4095})})
        images, _, stderr = converted(folder)
        assert np.array_equal(images[0, ..., 0], self.SCALED)
        assert stderr == ''

    def test_an_unstated_range_is_reported(self, tmp_path):
        folder = write_files(tmp_path / 'p', {'a.png': sixteen_bits(self.VALUES, 'PNG')})
        images, _, stderr = converted(folder)
        assert images.max() == 16
        assert (
            'the result is dark for 1 image with 16 bits per channel, because no value exceeds 4095 of 65535' in stderr
        )

    def test_one_bright_image_shows_that_the_full_range_is_used(self, tmp_path):
        files = {'a.png': sixteen_bits(self.VALUES, 'PNG'), 'b.png': sixteen_bits(self.VALUES * 16, 'PNG')}
        assert converted(write_files(tmp_path / 'p', files))[2] == ''


def test_outputs_of_the_toolkit_are_valid_inputs(tmp_path):
    import torch

    from evaluation.pictures import save_images
    from training.contact_sheets import contact_sheet, save_picture

    images = torch.from_numpy(random_images(12).transpose(0, 3, 1, 2).copy())
    for subdirs in (False, True):
        folder = tmp_path / f'subdirs-{subdirs}'
        save_images(images, [*range(11), 2000], folder, subdirs)
        save_picture(folder / 'grid.png', contact_sheet(images))
        write_files(folder, {'nearest.csv': b'seed,nearest\n', 'log.txt': b'x', 'mem_traj.jsonl': b'{}\n'})
        source = open_source(folder)
        assert np.array_equal(source.load(), random_images(12))
        assert source.labels is None
        assert source.skipped == ['grid.png', 'log.txt', 'mem_traj.jsonl', 'nearest.csv']
        assert source.remarks()[:2] == [
            'skipped 3 files that are not images: log.txt, mem_traj.jsonl, nearest.csv.',
            'skipped 1 contact sheet of generated images: grid.png.',
        ]


def test_a_run_folder_is_refused_as_a_set_of_images(tmp_path):
    files = {'training_options.json': b'{}', 'network-snapshot-000001.png': image_bytes(PIXELS)}
    with pytest.raises(UserError, match='p is a run folder'):
        open_source(write_files(tmp_path / 'p', files))
    generated = write_files(tmp_path / 'p', {'000000.png': image_bytes(PIXELS)})
    assert '000000.png' in names_of(open_source(generated))


def test_images_not_named_after_seeds_are_read_together_with_those_that_are(tmp_path):
    files = {'000000.png': image_bytes(PIXELS), 'cat.png': image_bytes(PIXELS)}
    assert names_of(open_source(write_files(tmp_path / 'p', files))) == ['000000.png', 'cat.png']


def test_names_in_another_unicode_form_get_their_labels(tmp_path):
    import unicodedata
    import zipfile

    labels = json.dumps({'labels': [['é.png', 3]]}).encode()
    folder = write_files(tmp_path / 'p', {'dataset.json': labels})
    (folder / unicodedata.normalize('NFD', 'é.png')).write_bytes(image_bytes(PIXELS))
    assert open_source(folder).labels == [3]
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('xx.png', image_bytes(PIXELS))
        archive.writestr('dataset.json', labels)
    # Some programs write UTF-8 names without setting the UTF-8 flag.
    (tmp_path / 'a.zip').write_bytes((tmp_path / 'a.zip').read_bytes().replace(b'xx.png', 'é.png'.encode()))
    assert open_source(tmp_path / 'a.zip').labels == [3]
    assert open_source(tmp_path / 'a.zip').describe(0) == 'é.png'


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_dropped_transparency_is_reported(mode, tmp_path):
    """Two images have an alpha channel, and one of them is opaque."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, alpha in (('clear.png', 10), ('opaque.png', 255)):
        image = PIL.Image.new('RGBA', (8, 8), (200, 0, 0, alpha))
        image.convert(mode).save(folder / name)
    result = invoke(dataset_tool.main, f'--source={folder}', f'--dest={tmp_path}/out.zip')
    assert result.exit_code == 0, result.output
    assert 'dropped the transparency of 1 image (such as clear.png), so hidden colours' in ' '.join(
        result.output.split()
    )
