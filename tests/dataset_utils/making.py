"""Functions that make small data sources in every format, and readers that share no code with the package."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image

from dataset_utils import Source

CIFAR_CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
CIFAR_FOLDER = 'cifar-10-batches-py'


def random_images(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def image_bytes(image: np.ndarray, format: str = 'PNG', **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, format, **options)
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def labelled_files(images: np.ndarray, labels: list[int] | None) -> dict[str, bytes]:
    """The files of a data set in EDM's format: the content of each file, by name. Pillow writes the PNGs."""
    names = [f'00000/img{number:08d}.png' for number in range(len(images))]
    listed = None if labels is None else [list(pair) for pair in zip(names, labels, strict=True)]
    files = {name: image_bytes(image) for name, image in zip(names, images, strict=True)}
    return files | {'dataset.json': json.dumps({'labels': listed}).encode()}


def cifar_labels(per_batch: int) -> list[int]:
    return [(7 * number) % 10 for number in range(5 * per_batch)]


def pickled_batch(images: np.ndarray, protocol: int = 2, **labels: list[int]) -> bytes:
    rows = np.stack([image.transpose(2, 0, 1).ravel() for image in images])
    return pickle.dumps({'data': rows, **labels}, protocol)


def write_cifar(
    path: Path, per_batch: int = 40, protocol: int = 2, members: dict[str, bytes] | None = None
) -> np.ndarray:
    """Write an archive in the format of cifar-10-python.tar.gz; return its images, uint8 [N, 32, 32, 3].

    members: contents that replace members of the archive, by member name (b'' omits the member).
    """
    images = random_images(5 * per_batch, 32)
    labels = cifar_labels(per_batch)
    contents = {'batches.meta': pickle.dumps({'label_names': CIFAR_CLASSES}, protocol)}
    for number in range(5):
        part = slice(number * per_batch, (number + 1) * per_batch)
        contents[f'data_batch_{number + 1}'] = pickled_batch(images[part], protocol, labels=labels[part])
    write_tar(path, {name: data for name, data in (contents | (members or {})).items() if data})
    return images


def write_tar(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(f'{CIFAR_FOLDER}/{name}')
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f'>{values.ndim}I', *values.shape) + values.tobytes()


def write_idx(folder: Path, count: int = 12, compress: bool = True) -> tuple[Path, np.ndarray, list[int]]:
    """Write files in MNIST's format; return the path of the image file, the images [N, 28, 28] and the labels."""
    images = random_images(count, 28, 1)[..., 0]
    labels = [number % 10 for number in range(count)]
    extension, pack = ('.gz', gzip.compress) if compress else ('', bytes)
    path = folder / f'train-images-idx3-ubyte{extension}'
    path.write_bytes(pack(idx_bytes(images)))
    (folder / f'train-labels-idx1-ubyte{extension}').write_bytes(pack(idx_bytes(np.array(labels, np.uint8))))
    return path, images, labels


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header declares width x height pixels, but which contains only ten bytes of pixel data."""
    import zlib

    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = b'IDAT' + zlib.compress(bytes(10))
    chunks = [
        struct.pack('>I', len(data) - 4) + data + struct.pack('>I', zlib.crc32(data)) for data in (header, pixels)
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def read_zip(path: Path) -> tuple[np.ndarray, list[int] | None, dict]:
    """Read a data set's archive with zipfile and Pillow alone; return its images [N, H, W, C], labels and manifest."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith('.png')]
        images = [np.array(PIL.Image.open(archive.open(name))) for name in names]
        listed = json.loads(archive.read('dataset.json'))['labels']
        manifest = json.loads(archive.read('manifest.json'))
    if listed is not None:
        assert [name for name, _ in listed] == names
    stacked = np.stack([image if image.ndim == 3 else image[..., None] for image in images])
    return stacked, None if listed is None else [label for _, label in listed], manifest


def folder_state(folder: Path) -> dict[str, str]:
    """Hashes of all files in a folder, to check that none of them changes."""
    return {
        os.path.relpath(path, folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def names_of(source: Source) -> list[str]:
    """The names of the images in a source, in the source's order."""
    return [source.describe(index) for index in range(len(source))]


def content_line(images: np.ndarray, labels: list[int] | None, dest: Path) -> str:
    """The line printed for a new data set, such as '2 images, 8x8 RGB, 1 class → a.zip'."""
    count, height, width, channels = images.shape
    size = f'{count:,} image{"s" if count > 1 else ""}, {width}x{height} {"RGB" if channels == 3 else "grey"}'
    number = len(set(labels or []))
    classes = '' if labels is None else f', {number:,} class' + ('es' if number > 1 else '')
    return f'{size}{classes} → {dest}\n'
