import os
import signal

import pytest
import torch

from dataset_utils import open_source
from dataset_utils.command_line import main as dataset_utils_main
from tests.dataset_utils.making import write_cifar

# The networks in these tests are too small to gain from a second thread, and waiting threads would slow them down.
torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def _signals_as_in_a_terminal():
    """Restore the default signal handlers: under nohup or `&`, a process starts with SIGHUP or SIGINT ignored."""
    before = {
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope='session', autouse=True)
def _own_cache(tmp_path_factory):
    """Give the tests their own cache folder."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='session')
def digits_20(tmp_path_factory):
    """Path of an archive with 20 digits, two of each class."""
    path = tmp_path_factory.mktemp('data') / 'digits-20.zip'
    arguments = ['size', '--source=digits', f'--dest={path}', '--max-images=20']
    dataset_utils_main(arguments, standalone_mode=False)
    assert len(open_source(str(path))) == 20
    return path


@pytest.fixture
def cifar(tmp_path):
    """Path of an archive in the format of CIFAR-10, with 200 random images."""
    write_cifar(tmp_path / 'cifar-10-python.tar.gz')
    return tmp_path / 'cifar-10-python.tar.gz'
