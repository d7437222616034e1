import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import dataset_tool
from dataset_utils import content_sha256, open_source
from tests.dataset_utils.making import (
    CIFAR_CLASSES,
    cifar_labels,
    content_line,
    folder_state,
    image_bytes,
    labelled_files,
    random_images,
    read_zip,
    write_cifar,
    write_files,
    write_idx,
    write_zip,
)
from tests.helpers import invoke, needs_cifar10, refusal

ROOT = Path(__file__).parents[1]


def convert(source: object, dest: Path, *arguments: object) -> tuple[np.ndarray, list[int] | None, dict]:
    """Convert a source into an archive; return the images [N, H, W, C], labels and manifest in it."""
    result = invoke(dataset_tool.main, f'--source={source}', f'--dest={dest}', *arguments)
    assert result.exit_code == 0, result.output
    images, labels, manifest = read_zip(dest)
    assert result.stdout == content_line(images, labels, dest)
    return images, labels, manifest


def refused(source: object, dest: Path, *arguments: object, status: int = 1) -> str:
    """Run a conversion that must fail; check that it changed no files, and return the error message."""
    before = folder_state(dest.parent)
    message = refusal(invoke(dataset_tool.main, f'--source={source}', f'--dest={dest}', *arguments), status)
    assert folder_state(dest.parent) == before
    assert not list(dest.parent.glob('*.partial'))
    return message


def test_images_with_only_the_values_0_and_1_are_reported(tmp_path):
    np.save(tmp_path / 'divided.npy', np.eye(8, dtype=np.uint8)[None, :, :, None].repeat(5, axis=0))
    result = invoke(dataset_tool.main, f'--source={tmp_path}/divided.npy', f'--dest={tmp_path}/divided.zip')
    assert 'the pixel values in divided.zip are only 0 and 1, of 0 to 255' in result.stderr


class TestSources:
    def test_cifar10_is_converted(self, tmp_path):
        expected = write_cifar(tmp_path / 'cifar-10-python.tar.gz')
        images, labels, manifest = convert(tmp_path / 'cifar-10-python.tar.gz', tmp_path / 'new' / 'c.zip')
        assert np.array_equal(images, expected)
        assert labels == cifar_labels(40)
        assert manifest == {
            'source': 'cifar-10-python.tar.gz',
            'source_sha256': open_source(tmp_path / 'cifar-10-python.tar.gz').sha256(),
            'rule': 'convert',
            'arguments': {'max_images': None, 'transform': None, 'resolution': None, 'skip_unreadable': False},
            'indices': list(range(200)),
            'labels': 'those of the source',
            'class_names': CIFAR_CLASSES,
            'version': 1,
        }

    def test_mnist_images_are_padded_to_32_pixels(self, tmp_path):
        path, expected, labels = write_idx(tmp_path)
        images, written_labels, _ = convert(path, tmp_path / 'm.zip')
        assert images.shape == (12, 32, 32, 1)
        assert np.array_equal(images[:, 2:30, 2:30, 0], expected)
        assert images.sum(dtype=np.int64) == expected.sum(dtype=np.int64), 'the border is black'
        assert written_labels == labels

    def test_mnist_with_a_resolution_is_not_padded(self, tmp_path):
        path, expected, _ = write_idx(tmp_path)
        images, _, _ = convert(path, tmp_path / 'm.zip', '--resolution=28x28')
        assert np.array_equal(images[..., 0], expected)

    def test_the_built_in_digits_are_converted(self, tmp_path):
        images, labels, manifest = convert('digits', tmp_path / 'd.zip', '--max-images=20')
        assert images.shape == (20, 8, 8, 1)
        assert labels == [*range(10), *range(10)]
        assert manifest['source'] == 'digits'

    def test_folder_and_archive_give_the_same_data_set(self, tmp_path):
        files = labelled_files(random_images(4), [1, 0, 1, 0])
        first = convert(write_files(tmp_path / 'a', files), tmp_path / 'b.zip')
        second = convert(write_zip(tmp_path / 'c.zip', files), tmp_path / 'd.zip')
        assert content_sha256(*first[:2]) == content_sha256(*second[:2])

    def test_a_grey_image_in_an_imagenet_tree_becomes_rgb(self, tmp_path):
        synsets = ['n01440764', 'n01443537', 'n01484850']
        images = random_images(6, 40)
        files = {
            f'{synsets[number % 3]}/{synsets[number % 3]}_{number}.JPEG': image_bytes(image[: 30 + number], 'JPEG')
            for number, image in enumerate(images)
        }
        files[f'{synsets[2]}/grey.JPEG'] = image_bytes(images[0][..., :1], 'JPEG')
        options = ['--transform=center-crop', '--resolution=16x16']
        made, labels, manifest = convert(write_files(tmp_path / 'train', files), tmp_path / 'i.zip', *options)
        assert made.shape == (7, 16, 16, 3)
        assert labels == [0, 0, 1, 1, 2, 2, 2]
        assert manifest['class_names'] == synsets
        with PIL.Image.open(tmp_path / 'train' / synsets[0] / f'{synsets[0]}_3.JPEG') as image:
            expected = image.crop((3, 0, 36, 33)).resize((16, 16), PIL.Image.Resampling.LANCZOS)
        assert np.array_equal(made[1], np.asarray(expected))

    def test_class_names_survive_a_second_conversion(self, tmp_path, cifar):
        convert(cifar, tmp_path / 'a.zip')
        _, _, manifest = convert(tmp_path / 'a.zip', tmp_path / 'b.zip', '--max-images=7')
        assert manifest['class_names'] == CIFAR_CLASSES
        assert manifest['indices'] == list(range(7))


class TestOptions:
    def test_the_destination_may_be_a_folder(self, tmp_path):
        result = invoke(dataset_tool.main, '--source=digits', f'--dest={tmp_path / "d"}', '--max-images=5')
        assert result.exit_code == 0
        assert np.array_equal(open_source(tmp_path / 'd').load(), open_source('digits').load()[:5])

    def test_the_same_command_gives_the_same_bytes(self, tmp_path, cifar):
        for name in ('a.zip', 'b.zip'):
            convert(cifar, tmp_path / name, '--resolution=16x16')
        assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()

    def test_manifest_holds_no_paths_and_no_times(self, tmp_path):
        files = write_zip(tmp_path / 'deep.zip', labelled_files(random_images(2), None))
        _, _, manifest = convert(files, tmp_path / 'x.zip')
        text = json.dumps(manifest)
        assert manifest['source'] == 'deep.zip'
        assert str(tmp_path) not in text
        assert time.strftime('%Y-') not in text

    def test_resolution_need_not_be_a_power_of_two(self, tmp_path):
        images, _, _ = convert('digits', tmp_path / 'd.zip', '--max-images=3', '--resolution=11x11')
        assert images.shape == (3, 11, 11, 1)

    def test_center_crop_wide_skips_small_images_and_takes_the_next(self, tmp_path):
        images = random_images(5, 40)
        sizes = [40, 10, 40, 10, 40]
        files = {
            f'{n}.png': image_bytes(image[:, :size]) for n, (image, size) in enumerate(zip(images, sizes, strict=True))
        }
        source = write_files(tmp_path / 'p', files)
        options = ['--transform=center-crop-wide', '--resolution=16x12']
        dest = tmp_path / 'w.zip'
        result = invoke(dataset_tool.main, f'--source={source}', f'--dest={dest}', *options, '--max-images=2')
        assert result.exit_code == 0
        assert 'Skipped 1 image smaller than the resolution.' in result.stderr
        made, _, manifest = read_zip(dest)
        assert made.shape == (2, 16, 16, 3)
        assert manifest['indices'] == [0, 2]

    def test_unreadable_images_are_skipped_and_listed(self, tmp_path):
        files = labelled_files(random_images(4), [3, 2, 1, 0]) | {'00000/img00000001.png': b'broken'}
        source = write_zip(tmp_path / 'a.zip', files)
        images, labels, manifest = convert(source, tmp_path / 'b.zip', '--skip-unreadable', '--max-images=2')
        assert np.array_equal(images, random_images(4)[[0, 2]])
        assert labels == [3, 1]
        assert manifest['indices'] == [0, 2]
        assert manifest['arguments']['skipped'] == ['00000/img00000001.png']

    def test_an_existing_data_set_is_replaced_only_with_overwrite(self, tmp_path):
        convert('digits', tmp_path / 'd.zip', '--max-images=5')
        message = refused('digits', tmp_path / 'd.zip', '--max-images=3')
        assert 'd.zip already exists; add --overwrite' in message
        images, _, _ = convert('digits', tmp_path / 'd.zip', '--max-images=3', '--overwrite')
        assert len(images) == 3


class TestMistakes:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (['--transform=center-crop'], '--transform=center-crop requires --resolution'),
            (['--resolution=32'], "'32' is not a width and height in pixels; give both, such as 32x32"),
            (['--resolution=0x0'], 'is not a width and height'),
            (['--resolution=32x16'], '--resolution=32x16 is not square'),
            (['--transform=center-crop', '--resolution=32x16'], 'is not square'),
            (['--transform=center-crop-wide', '--resolution=16x32'], 'taller than wide'),
            (['--transform=stretch', '--resolution=8x8'], "'stretch' is not one of"),
            (['--max-images=0'], '--max-images'),
        ],
    )
    def test_mistakes_in_options_give_a_one_sentence_error(self, tmp_path, arguments, message):
        assert message in refused('digits', tmp_path / 'd.zip', *arguments, status=2)

    def test_a_missing_source_is_named_in_the_error(self, tmp_path):
        assert '--source=nowhere: no such file' in refused('nowhere', tmp_path / 'd.zip')

    def test_images_that_are_not_square_are_refused(self, tmp_path):
        wide = {'a.png': image_bytes(random_images(1, 8)[0]), 'b.png': image_bytes(random_images(1, 8)[0][:5])}
        message = refused(write_files(tmp_path / 'p', wide), tmp_path / 'd.zip')
        assert 'p: b.png is 8x5 RGB, not square; give --transform=center-crop and --resolution=WxH' in message

    def test_images_of_different_sizes_are_refused(self, tmp_path):
        files = {'a.png': image_bytes(random_images(1, 8)[0]), 'b.png': image_bytes(random_images(1, 9)[0])}
        message = refused(write_files(tmp_path / 'p', files), tmp_path / 'd.zip')
        assert 'p: b.png is 9x9 RGB, but a.png is 8x8 RGB; give --transform=center-crop and --resolution=WxH' in message

    def test_colour_images_among_grey_images_make_an_rgb_data_set(self, tmp_path):
        files = {'a.png': image_bytes(random_images(1, 8, 1)[0]), 'b.png': image_bytes(random_images(1, 8)[0])}
        images, _, _ = convert(write_files(tmp_path / 'p', files), tmp_path / 'd.zip')
        assert np.array_equal(images[0], np.repeat(random_images(1, 8, 1)[0], 3, axis=2))

    def test_an_unreadable_image_in_the_middle_leaves_no_files(self, tmp_path):
        files = labelled_files(random_images(300), None) | {'00000/img00000150.png': b'broken'}
        message = refused(write_zip(tmp_path / 'a.zip', files), tmp_path / 'd.zip')
        assert '00000/img00000150.png is not a readable PNG' in message
        assert message.endswith('or add --skip-unreadable')

    def test_a_data_set_without_images_is_refused(self, tmp_path):
        source = write_files(tmp_path / 'p', {'a.png': b'broken'})
        assert 'all images are unreadable' in refused(source, tmp_path / 'd.zip', '--skip-unreadable')

    def test_a_destination_inside_the_source_is_refused(self, tmp_path):
        source = write_files(tmp_path / 'p', labelled_files(random_images(2), None))
        assert 'overlaps with the source' in refused(source, source / 'd.zip')

    def test_images_without_a_label_are_refused(self, tmp_path):
        files = labelled_files(random_images(2), [0, 1])
        files['00000/extra.png'] = image_bytes(random_images(1)[0])
        assert 'has no label for 1 of 3 images' in refused(write_zip(tmp_path / 'a.zip', files), tmp_path / 'd.zip')


class TestProcess:
    def run(self, *arguments: object, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, 'dataset_tool.py', *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)

    def test_mistakes_give_no_traceback(self, tmp_path):
        result = self.run('--source=nowhere', f'--dest={tmp_path / "d.zip"}')
        assert result.returncode == 1
        assert result.stderr.count('\n') == 1
        assert result.stdout == ''

    @pytest.mark.parametrize('name', ['d.zip', 'd'])
    def test_a_failed_write_leaves_no_files(self, tmp_path, name):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (120, 120))

        result = self.run('--source=digits', f'--dest={tmp_path / name}', preexec_fn=limit)
        assert result.returncode == 1
        assert f'Error: --dest={tmp_path / name}: File too large; free some space' in result.stderr
        assert 'Traceback' not in result.stderr
        assert 'Exception ignored' not in result.stderr
        assert os.listdir(tmp_path) == []


@pytest.mark.slow
@needs_cifar10
def test_the_real_cifar10_is_converted_within_half_a_minute(tmp_path):
    start = time.perf_counter()
    images, labels, _ = convert(os.environ['CIFAR10_ARCHIVE'], tmp_path / 'cifar10-train.zip')
    assert time.perf_counter() - start < 30
    source = open_source(os.environ['CIFAR10_ARCHIVE'])
    assert np.array_equal(images, source.load())
    assert labels == source.labels
