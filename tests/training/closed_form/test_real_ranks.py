"""Closed forms with a training set sharded over two processes, compared with the results of one process."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers import environment
from tests.training.closed_form.brute_force import mixed_images, queries, relative_error
from training.closed_form import make_denoiser

NAMES = (
    'optimal',
    'optimal:precision=fp64',
    'gaussian',
    'smoothed:precision=fp64',
    'patch:window=3',
    'patch:window=5',
    'local:window=3',
    'equivariant:window=3',
    'equivariant:window=3,padding=circular',
    'pca-locality',
    'hybrid:gaussian>0.3>local:window=3',
)
SIGMA, CLASSES = 0.4, torch.tensor([2, 0, 2, 1])
RANK = """
import sys
import torch
from tests.training.closed_form.test_real_ranks import denoised, training_set
from training.closed_form.rows import ImageRows

rank, store = int(sys.argv[1]), torch.distributed.FileStore(sys.argv[2], 2)
torch.set_num_threads(1)
torch.distributed.init_process_group('gloo', store=store, rank=rank, world_size=2)
images, labels = training_set()
part = slice(0, 9) if rank == 0 else slice(9, None)
torch.save(denoised(ImageRows(images[part], labels[part], torch.device('cpu'), sharded=True)), sys.argv[3])
torch.distributed.destroy_process_group()
"""


def training_set():
    return mixed_images(23, 3, 5), torch.arange(23) * 7 % 3


def denoised(images, labels=None):
    x = queries(training_set()[0], SIGMA)
    made = {name: make_denoiser(name, images, labels) for name in NAMES}
    return {name: [denoiser(x, SIGMA), denoiser(x, SIGMA, CLASSES)] for name, denoiser in made.items()}


def test_two_processes_give_the_same_result_as_one(tmp_path: Path) -> None:
    files = [tmp_path / f'{rank}.pt' for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', RANK, str(rank), str(tmp_path / 'store'), str(file)],
            env={**environment(), 'RANK': str(rank), 'WORLD_SIZE': '2'},
            stderr=subprocess.PIPE,
        )
        for rank, file in enumerate(files)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (torch.load(file) for file in files)
    for name, expected in denoised(*training_set()).items():
        for found, other, alone in zip(first[name], second[name], expected, strict=True):
            assert torch.equal(found, other), name
            assert relative_error(found, alone.numpy()) < 1e-6, name
