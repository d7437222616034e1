"""A Slurm cluster of two nodes on the loopback interface: `running_cluster` starts it and stops all of its processes.

Its configuration, key, sockets and state are in one folder. On Debian, it needs `apt-get install slurm-wlm munge`.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

DAEMONS = ('munged', 'slurmctld', 'slurmd')
SECONDS_TO_START = 30

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=10
# Only jobs that request it are requeued, as on many clusters.
JobRequeue=0
NodeName=left NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=2
NodeName=right NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=2
PartitionName=main Nodes=left,right Default=YES State=UP MaxTime=60
"""


class ClusterNotHere(Exception):  # noqa: N818 - a reason to skip, not an error
    """Raised with the reason if no cluster can be started on this machine."""


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons, which write only to `folder`; at the end, stop them and every process they started.

    Yields the environment variables that a user of the cluster needs. Raises ClusterNotHere if the programs are missing
    or the nodes are not idle within 30 seconds.
    """
    path = f'{os.environ["PATH"]}:/usr/sbin:/sbin'
    missing = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if missing:
        raise ClusterNotHere(f'{", ".join(missing)} not installed (apt-get install slurm-wlm munge)')
    environ = {**os.environ, 'PATH': path, 'SLURM_CONF': str(folder / 'slurm.conf')}
    _configure(folder)
    daemons: list[subprocess.Popen] = []
    try:
        for command in _commands(folder):
            daemons.append(_start(command, folder, environ))
        _wait_until_idle(daemons, environ, folder)
        yield environ
    finally:
        _end(daemons, environ, folder)


def _configure(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / 'state').mkdir()
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    text = CONFIGURATION.format(
        folder=folder, host=socket.gethostname().split('.')[0], user=getpass.getuser(), ports=_free_ports(3)
    )
    (folder / 'slurm.conf').write_text(text)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _commands(folder: Path) -> list[list[str]]:
    munge = [
        f'--{name}={folder}/munge.{name.split("-")[0]}' for name in ('key-file', 'socket', 'pid-file', 'seed-file')
    ]
    return [
        # Without --force, munged refuses a socket in a folder that other users cannot reach, such as pytest's folders.
        ['munged', '--foreground', '--force', *munge, f'--log-file={folder}/munged.log'],
        ['slurmctld', '-D', '-c'],
        ['slurmd', '-D', '-N', 'left'],
        ['slurmd', '-D', '-N', 'right'],
    ]


def _start(command: list[str], folder: Path, environ: dict[str, str]) -> subprocess.Popen:
    with open(folder / 'daemons.log', 'ab') as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd=folder)


def _wait_until_idle(daemons: list[subprocess.Popen], environ: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if any(daemon.poll() is not None for daemon in daemons):
            break
        states = subprocess.run(
            ['sinfo', '--noheader', '--Node', '--format=%T'], env=environ, capture_output=True, text=True
        )
        if states.stdout.split() == ['idle', 'idle']:
            return
        time.sleep(0.2)
    log = (folder / 'daemons.log').read_text(errors='replace').strip().splitlines()
    raise ClusterNotHere(f'the daemons of Slurm are not up after {SECONDS_TO_START} s: {" / ".join(log[-3:])}')


def _end(daemons: list[subprocess.Popen], environ: dict[str, str], folder: Path) -> None:
    if all(daemon.poll() is None for daemon in daemons):
        _cancel_jobs(environ)
    for process in [*reversed(daemons), *_processes_of(folder)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for daemon in daemons:
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(5)
    for process in [*daemons, *_processes_of(folder)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for daemon in daemons:
        daemon.wait()


def _cancel_jobs(environ: dict[str, str]) -> None:
    subprocess.run(['scancel', '--me', '--signal=KILL', '--full'], env=environ, capture_output=True)
    subprocess.run(['scancel', '--me'], env=environ, capture_output=True)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        queue = subprocess.run(['squeue', '--noheader'], env=environ, capture_output=True, text=True)
        if not queue.stdout.strip():
            return
        time.sleep(0.2)


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that run or watch jobs. They are not children of the daemons, so they are identified by SLURM_CONF or
    by their open files."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            knows = process.environ().get('SLURM_CONF') == str(folder / 'slurm.conf')
            watches = process.name().startswith('slurmstepd') and any(
                Path(file.path).is_relative_to(folder) for file in process.open_files()
            )
            if process.pid != os.getpid() and (knows or watches):
                found.append(process)
    return found
