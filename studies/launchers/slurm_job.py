"""The code that a Slurm job runs on its nodes. Submitit calls `PointJob`, which runs the point in a child process:
`python -m studies.launchers.slurm_job FOLDER NODES GPUS`.

Only the child process imports the toolkit, so the parent process starts quickly and responds to signals immediately.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# How long a training run has, in seconds, to save its state (this can take 20 s or one tick) and to end all its ranks.
SECONDS_TO_STOP = 90

# Range of ports for torchrun on several nodes. It lies below the ports that operating systems assign automatically.
FIRST_PORT, NUM_PORTS = 20_000, 10_000


@dataclass
class PointJob:
    """Runs a point; called on each node of a job.

    folder: absolute path of the point's folder. nodes, gpus_per_node: the job's resources. workdir: directory for
    relative paths in the commands, such as the path of a source. The job itself starts in the toolkit's folder.
    """

    folder: Path
    nodes: int
    gpus_per_node: int
    workdir: Path
    process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Run the point to its end.

        The first node decides how the job ends: if this node fails, srun ends the other nodes.
        """
        numbers = [str(self.nodes), str(self.gpus_per_node)]
        command = [sys.executable, '-m', 'studies.launchers.slurm_job', str(self.folder), *numbers]
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get('PYTHONPATH')])])
        self.process = subprocess.Popen(command, cwd=self.workdir, env={**os.environ, 'PYTHONPATH': paths})
        code = self.process.wait()
        if code and node_rank() == 0:
            sys.exit(f'{self.folder}: the point is not done; see its status.json and log.txt')

    def checkpoint(self) -> Any:
        """Stop the point, and return the task that resumes it when the job runs again. Submitit calls this on the first
        node shortly before the time limit."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self._wait_until_ended(self.process.pid)
        return DelayedSubmission(replace(self, process=None))

    def _wait_until_ended(self, pid: int) -> None:
        # A signal handler calls this inside process.wait(), so it must not take the lock that process.wait() holds.
        deadline = time.monotonic() + SECONDS_TO_STOP
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.1)


def run_point_on_node(folder: Path, nodes: int, gpus_per_node: int) -> bool:
    """Run this node's share of a point until the point ends or SIGTERM arrives; return whether the point is done."""
    from studies.commands import Resources
    from studies.points import DONE
    from studies.runner import PointRun

    run = PointRun(folder, Resources(nodes, gpus_per_node), node_rank(), rendezvous(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: run.stop())
    return run.run().state == DONE


def rendezvous(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for torchrun: this node's rank, and the address and port of the job's first node.

    The port is derived from the job number.
    """
    return {
        'NODE_RANK': environ['SLURM_NODEID'],
        'MASTER_ADDR': environ['SLURM_LAUNCH_NODE_IPADDR'],  # the first node calls srun
        'MASTER_PORT': str(FIRST_PORT + int(environ['SLURM_JOB_ID']) % NUM_PORTS),
    }


def node_rank() -> int:
    return int(os.environ['SLURM_NODEID'])


if __name__ == '__main__':
    _, folder, nodes, gpus_per_node = sys.argv
    sys.exit(not run_point_on_node(Path(folder), int(nodes), int(gpus_per_node)))
