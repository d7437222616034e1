import os
import signal

import pytest
import torch

from dataset_utils import open_source
from dataset_utils.command_line import main as dataset_utils_main
from tests.dataset_utils.making import write_cifar

# The networks of the tests are too small for two threads to help, and threads that wait for one another do harm.
torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def _signals_as_in_a_terminal():
    """Under nohup, or behind a shell's &, tests of a closing terminal and of Ctrl-C would find signals ignored."""
    before = {
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope='session', autouse=True)
def _own_cache(tmp_path_factory):
    """Features are kept only for these tests."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='session')
def digits_20(tmp_path_factory):
    """Path of a data-set archive of 20 digits, two of each class."""
    path = tmp_path_factory.mktemp('data') / 'digits-20.zip'
    arguments = ['size', '--source=digits', f'--dest={path}', '--max-images=20']
    dataset_utils_main(arguments, standalone_mode=False)
    assert len(open_source(str(path))) == 20
    return path


@pytest.fixture
def cifar(tmp_path):
    """Path of an archive like CIFAR-10's with 200 random images."""
    write_cifar(tmp_path / 'cifar-10-python.tar.gz')
    return tmp_path / 'cifar-10-python.tar.gz'
