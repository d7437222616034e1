import pytest
import torch

from dataset_utils import open_source
from dataset_utils.__main__ import main as dataset_utils_main

# The networks of the tests are too small for two threads to help, and threads that wait for one another do harm.
torch.set_num_threads(1)


@pytest.fixture(scope='session')
def digits_20(tmp_path_factory):
    """Path of a data-set archive of 20 digits, two of each class."""
    path = tmp_path_factory.mktemp('data') / 'digits-20.zip'
    arguments = ['size', '--source=digits', f'--dest={path}', '--max-images=20']
    dataset_utils_main(arguments, standalone_mode=False)
    assert len(open_source(str(path))) == 20
    return path
