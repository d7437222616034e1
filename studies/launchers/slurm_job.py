"""What a Slurm job runs on its nodes: `PointJob`, which submitit calls there, and below it the point in a process of
its own, `python -m studies.launchers.slurm_job FOLDER NODES GPUS`.

Only that process imports the toolkit; the one above it, which watches it, starts and answers signals at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# For a training to write its state (20 s, or one tick) and for the ranks to end.
SECONDS_TO_STOP = 90

# torchrun on several nodes meets at one of these, below the ports that systems hand out by themselves.
FIRST_PORT, NUM_PORTS = 20_000, 10_000


class PointJob:
    """Runs a point on each node of a job.

    folder: the point's, a full path. nodes, gpus_per_node: what the job was given. workdir: where the study was begun,
    which relative paths of its commands, such as that of a source, are told from; the job itself runs in the toolkit's.
    """

    def __init__(self, folder: Path, nodes: int, gpus_per_node: int, workdir: Path) -> None:
        self.folder = folder
        self.workdir = workdir
        self.nodes = nodes
        self.gpus_per_node = gpus_per_node
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Run the point to its end. The first node says how the job ended: srun ends the others when it fails."""
        numbers = [str(self.nodes), str(self.gpus_per_node)]
        command = [sys.executable, '-m', 'studies.launchers.slurm_job', str(self.folder), *numbers]
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get('PYTHONPATH')])])
        self.process = subprocess.Popen(command, cwd=self.workdir, env={**os.environ, 'PYTHONPATH': paths})
        code = self.process.wait()
        if code and node_rank() == 0:
            sys.exit(f'{self.folder}: the point is not done; status.json and log.txt there say how far it is')

    def checkpoint(self) -> Any:
        """Called by submitit on the first node when the time is nearly over: stop the point, and with it the other
        nodes' share; return what goes on with it when the job runs again."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self._wait_until_ended(self.process.pid)
        return DelayedSubmission(PointJob(self.folder, self.nodes, self.gpus_per_node, self.workdir))

    def _wait_until_ended(self, pid: int) -> None:
        # This is a signal handler inside of process.wait(), whose lock it must not ask for.
        deadline = time.monotonic() + SECONDS_TO_STOP
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.1)


def run_point_on_node(folder: Path, nodes: int, gpus_per_node: int) -> bool:
    """This node's share of a point, until it is done or SIGTERM comes; returns whether it is done."""
    from studies.commands import Resources
    from studies.points import DONE
    from studies.runner import PointRun

    run = PointRun(folder, Resources(nodes, gpus_per_node), node_rank(), rendezvous(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: run.stop())
    return run.run().state == DONE


def rendezvous(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables by which torchrun on several nodes of a job finds its first node, at a port that is the job's own."""
    return {
        'NODE_RANK': environ['SLURM_NODEID'],
        'MASTER_ADDR': environ['SLURM_LAUNCH_NODE_IPADDR'],  # srun runs on the first node
        'MASTER_PORT': str(FIRST_PORT + int(environ['SLURM_JOB_ID']) % NUM_PORTS),
    }


def node_rank() -> int:
    return int(os.environ['SLURM_NODEID'])


if __name__ == '__main__':
    _, folder, nodes, gpus_per_node = sys.argv
    sys.exit(not run_point_on_node(Path(folder), int(nodes), int(gpus_per_node)))
