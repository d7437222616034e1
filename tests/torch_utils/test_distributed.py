import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import environment

LEFT_THREADS = """
import glob
from pathlib import Path
import torch
from torch_utils import distributed

torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
parameter = torch.nn.Parameter(torch.ones(3))
parameter.sum().backward()
torch.optim.Adam([parameter]).step()
torch.distributed.all_reduce(parameter.grad)
threads = lambda: [Path(path).read_text().strip() for path in glob.glob('/proc/self/task/*/comm')]
assert 'pt_gloo_runloop' in threads()
torch.distributed.destroy_process_group()
print(threads().count('pt_gloo_runloop'))
"""


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='requires /proc')
def test_no_thread_outlives_its_process_group():
    """A thread that is still running could free a tensor while the interpreter exits, which would abort the process."""
    done = subprocess.run([sys.executable, '-c', LEFT_THREADS], env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ('0\n', 0), done.stderr
