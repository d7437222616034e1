"""mem_ratio.py with training sets that do not fit in memory."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import mem_ratio
from tests.dataset_utils.making import image_bytes, write_files
from tests.helpers import invoke
from training.dataset import load_dataset

run = partial(invoke, mem_ratio.main)


@pytest.mark.parametrize('kind', ['npy', 'folder', 'zip', 'tar'])
def test_a_large_image_set_stays_on_disk_and_gives_the_same_record(kind, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    references = random.integers(0, 256, (600, 8, 8, 3), np.uint8)
    references[500] = references[20]
    path = tmp_path / f'references.{kind}'
    if kind == 'npy':
        np.save(path, references)
    else:
        write_files(tmp_path / 'images', {f'{k:03}.png': image_bytes(image) for k, image in enumerate(references)})
        path = tmp_path / 'images'
        if kind != 'folder':
            path = Path(shutil.make_archive(str(tmp_path / 'references'), kind, path))
    images = references[:90].copy()
    images[::2] //= 2
    images[5] = 0  # far from any data
    np.save(tmp_path / 'images.npy', images)
    arguments = [f'--images={tmp_path}/images.npy', f'--knn-ref={path}', '--json', '--metrics=all',
                 f'--gallery={tmp_path}/gallery.png']  # fmt: skip
    records, galleries = [], []
    for copies in (3, 10**12):
        monkeypatch.setattr('training.dataset.COPIES', copies)
        assert load_dataset(str(path)).on_disk == (copies > 3)
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        records.append(json.loads(result.stdout))
        galleries.append((tmp_path / 'gallery.png').read_bytes())
    assert records[0] == records[1]
    assert records[0]['num_duplicates'] == 1
    assert records[0]['copied']['share'] == records[0]['copied']['num_images'] / 599
    assert records[0]['num_far'] == far_images(images, references)
    assert galleries[0] == galleries[1]


def far_images(images: np.ndarray, references: np.ndarray) -> int:
    """The number of images that are farther than √2 times the references' mean distance from the nearest other one."""
    rows, others = (array.reshape(len(array), -1).astype(np.float64) for array in (images, references))
    nearest = np.linalg.norm(rows[:, None] - others, axis=2).min(axis=1)
    between = np.linalg.norm(others[:, None] - others, axis=2)
    count = int((nearest > 2**0.5 * np.where(between > 0, between, np.inf).min(axis=1).mean()).sum())
    assert 0 < count < len(images)
    return count
