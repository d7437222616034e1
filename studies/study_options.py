"""Options of emm.py. This module does not import the code that runs and displays studies, so that --help is fast."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.options import REQUIRED, group, option, size_range
from evaluation.effective_memorization import EMM_RATIO
from studies.points import MAX_FAILURES
from studies.study import MIN_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Where points run, and the resources for each point."""

    # fmt: off
    launcher: str = option('local', 'Where points (training runs with their evaluation) run.', unit='local|slurm')
    jobs: int | None = option(None, 'Number of points to run at the same time. [default: 1; with Slurm, as many as the cluster allows]', unit='INT', least=1)
    gpus_per_job: int | None = option(None, 'GPUs for each point, on each node. [default: 1; with the local launcher, 0 if there is no GPU]', unit='INT', least=0)
    jobs_per_gpu: int = option(1, 'Number of points that share each GPU, for small networks; sets the default of `jobs` accordingly.', unit='INT', least=1)
    nodes_per_job: int = option(1, 'Slurm: nodes for each point.', unit='INT', least=1)
    time_limit: int = option(24 * 60, 'Slurm: time limit of a job; at the limit, the job is requeued and resumes.', unit='MINUTES', least=5)
    partition: str | None = option(None, 'Slurm: the partition.', unit='STR')
    account: str | None = option(None, 'Slurm: the account.', unit='STR')
    qos: str | None = option(None, 'Slurm: the quality of service.', unit='STR')
    cpus_per_job: int | None = option(None, 'Slurm: cores for each point, on each node.', unit='INT', least=1)
    mem: str | None = option(None, 'Slurm: memory for each point, on each node, such as 64G.', unit='SIZE')
    sbatch: tuple[str, ...] = option((), 'Slurm: a further option of sbatch, such as constraint=a100; can be repeated.', unit='NAME=VALUE')
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a study is run."""

    # fmt: off
    retry: bool = option(False, f'Run failed points again, unless they have failed {MAX_FAILURES} times.', switch=True)
    launch: LaunchOptions = group(LaunchOptions)
    dry_run: bool = option(False, 'Check everything, print the points, their commands and their estimated cost, and stop.', switch=True, short='n')
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search measures: the images, the sizes, and how each training run is evaluated."""

    # fmt: off
    outdir: Path = option(REQUIRED, 'Study folder.', unit='DIR')
    source: str = option(REQUIRED, 'Images from which training sets are taken.', unit='ZIP|DIR|FILE')
    size_range: list[int] = option(REQUIRED, 'Smallest and largest training-set size |D|.', name='range', unit='MIN-MAX', parse=size_range)
    tolerance: float = option(0.1, 'Stop when the EMM lies between two sizes with at most this relative difference.', unit='FLOAT', least=MIN_TOLERANCE, most=10)
    step: int | None = option(None, 'Use only sizes that are multiples of this number. [default: the number of classes]', unit='INT', least=1)
    selection: str = option('size', 'Sub-command of dataset_utils that makes the training sets, with its options, such as "classes --num-classes=2".', unit='STR')
    threshold: float = option(EMM_RATIO, 'Ratio at or above which a training set counts as memorized.', unit='FLOAT', above=0, below=1)
    repeats: int = option(1, 'Number of training runs at each size, each with its own seed.', unit='INT', least=1)
    select_seed: int | None = option(None, 'Draw the images with this seed, increased by 1 for each further repeat. [default: take the first images]', unit='INT', least=0)
    seeds: str = option('0-9999', 'Seeds; one image is generated for each.', unit='LIST')
    batch: int = option(64, 'Batch size in the evaluation.', unit='INT', least=1)
    race: bool = option(False, 'Evaluate only the best snapshot of each run on all seeds, like mem_ratio.py --race.', unit='BOOL')
    # fmt: on
