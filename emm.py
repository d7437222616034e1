"""Find the effective model memorization: search it, sweep a factor, and tell, draw and show what was found."""

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

import mem_ratio
import train
from dataset_utils.__main__ import main as dataset_utils_command
from dnnlib.util import UserError, format_time, report_errors
from evaluation.effective_memorization import EMM_RATIO, most_sizes
from studies.commands import Resources, shell_line
from studies.folder import claim, make_sources, open_study
from studies.launchers.launcher import Launcher
from studies.launchers.local import LocalLauncher, visible_gpus
from studies.points import DONE, FAILED, MAX_FAILURES, STOPPED, make_point
from studies.report.figures import write_figures
from studies.report.page import study_page, write_page
from studies.report.tables import point_line, status_text, table_text, write_tables
from studies.results import PointResult, StudyResults, collect
from studies.run_study import run_study
from studies.study import Study, load_study, read_study
from studies.validation import Validator

PARSERS = {'data': dataset_utils_command, 'train': train.main, 'evaluate': mem_ratio.main}
chain = train.chain
PAGE = 'report.html'


class Range(click.ParamType):
    """Two sizes, written 500-20000."""

    name = 'range'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        low, _, high = str(value).partition('-')
        if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) < int(high)):
            self.fail(f'{value!r} is no range of sizes; write it like 500-20000', param, ctx)
        return [int(low), int(high)]


def launcher_options(command: Callable) -> Callable:
    return chain(
        [
            click.option('--retry', is_flag=True, help=f'Run failed points again, until they have failed {MAX_FAILURES} times.'),
            click.option('--launcher', 'launcher_name', metavar='local|slurm', type=click.Choice(['local', 'slurm']), default='local', show_default=True, help='Where points run.'),
            click.option('--jobs', metavar='INT', type=click.IntRange(min=1), help='Points at a time. [default: 1; with Slurm as many as it runs]'),
            click.option('--gpus-per-job', metavar='INT', type=click.IntRange(min=0), help='GPUs of each point, on each node. [default: 1 where there are any; with Slurm none]'),
            click.option('--nodes-per-job', metavar='INT', type=click.IntRange(min=1), default=1, show_default=True, help='Slurm: nodes of each point.'),
            click.option('--time-limit', metavar='MINUTES', type=click.IntRange(min=5), default=24 * 60, show_default=True, help='Slurm: after it a job queues again, and goes on.'),
            click.option('--partition', metavar='STR', help='Slurm: the partition.'),
            click.option('--account', metavar='STR', help='Slurm: the account.'),
            click.option('--qos', metavar='STR', help='Slurm: the quality of service.'),
            click.option('--cpus-per-job', metavar='INT', type=click.IntRange(min=1), help='Slurm: cores of each point, on each node.'),
            click.option('--mem', metavar='SIZE', help='Slurm: memory of each point, on each node, such as 64G.'),
            click.option('--sbatch', metavar='NAME=VALUE', multiple=True, help='Slurm: a further option of sbatch, such as constraint=a100; may be repeated.'),
            click.option('-n', '--dry-run', is_flag=True, help='Print the points and their commands, and stop.'),
        ]
    )(command)  # fmt: skip


@click.group()
def main() -> None:
    """Find the effective model memorization (EMM): the largest training set that a model still replays.

    A study is a folder: what is done in it is not done again, what was stopped goes on, and its page shows it all.

    \b
    # The EMM of a small network on the built-in digits
    python emm.py search --outdir=digits-emm --source=digits --range=20-400 --seeds=0-511 \\
        -- --preset=digits --epochs=500 --snapshots=2

    \b
    # What skip connections do to it, and where the study stands
    python emm.py sweep scripts/studies/pocket/skip_connections.toml --outdir=skips
    python emm.py status skips
    """


@main.command(context_settings={'ignore_unknown_options': False})
@click.option('--outdir', metavar='DIR', type=click.Path(path_type=Path), required=True, help='Folder of the study.')
@click.option('--source', metavar='ZIP|DIR|FILE', required=True, help='Images that training sets are taken from.')
@click.option('--range', 'size_range', metavar='MIN-MAX', type=Range(), required=True, help='Smallest and largest |D|.')
@click.option(
    '--tolerance',
    metavar='FLOAT',
    type=click.FloatRange(min=0.001, max=10),
    default=0.1,
    show_default=True,
    help='Stop once two sizes this close, relatively, bracket the EMM.',
)
@click.option(
    '--step',
    metavar='INT',
    type=click.IntRange(min=1),
    help='Sizes are multiples of it. [default: the number of classes]',
)
@click.option(
    '--selection',
    metavar='STR',
    default='size',
    show_default=True,
    help='Sub-command of dataset_utils, with its options such as "classes --num-classes=2".',
)
@click.option(
    '--threshold',
    metavar='FLOAT',
    type=click.FloatRange(0, 1, True, True),
    default=EMM_RATIO,
    show_default=True,
    help='Ratio from which on a set counts as memorized.',
)
@click.option(
    '--repeats',
    metavar='INT',
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help='Trainings of each size, with seeds of their own.',
)
@click.option(
    '--select-seed',
    metavar='INT',
    type=click.IntRange(min=0),
    help='Draw the images by this seed, another for each repeat. [default: the first images]',
)
@click.option('--seeds', metavar='LIST', default='0-9999', show_default=True, help='One generated image for each seed.')
@click.option(
    '--batch',
    metavar='INT',
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help='Images at a time in the evaluation.',
)
@launcher_options
@click.argument('train_options', nargs=-1, type=click.UNPROCESSED)
@report_errors
def search(**options: Any) -> None:
    """Search the EMM of one configuration.

    TRAIN_OPTIONS, after --, go to train.py. The smallest size is trained first, then the largest, and then the bracket
    is halved. The answer is an inequality where both ends are replayed, or neither.

    \b
    # The paper's basic run, between 500 and 5,000 images of CIFAR-10
    python emm.py search --outdir=emm-cifar10 --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --range=500-5000 --gpus-per-job=8 -- --preset=paper

    \b
    # On the built-in digits, in minutes
    python emm.py search --outdir=digits-emm --source=digits --range=20-400 --seeds=0-511 \\
        -- --preset=digits --epochs=500 --snapshots=2
    """
    # One name for all searches, so that a folder can be renamed.
    study = read_study(search_document(options), 'search', 'emm.py search')
    if not options['dry_run']:
        low, high = options['size_range']
        print(f'At most {most_sizes(low, high, options["tolerance"])} sizes from {low} to {high} will be trained.')
    carry_out(study, options['outdir'], options)


@main.command()
@click.argument('study_file', metavar='STUDY.toml', type=click.Path(path_type=Path))
@click.option(
    '--outdir', metavar='DIR', type=click.Path(path_type=Path), help='Folder of the study. [default: studies-out/NAME]'
)
@launcher_options
@report_errors
def sweep(study_file: Path, outdir: Path | None, **options: Any) -> None:
    """Run a study: every value of its factors, at every size, in every repeat.

    docs/studies.md has the format of the file. Adding to it adds points; a point whose settings have changed is set
    aside, and run anew.

    \b
    # A study in the pocket format, on a laptop
    python emm.py sweep scripts/studies/pocket/width.toml --outdir=width

    \b
    # The paper's study of width on a cluster: eight GPUs for each point
    python emm.py sweep scripts/studies/width.toml --outdir=width-cifar10 --launcher=slurm \\
        --gpus-per-job=8 --jobs=16 --time-limit=720
    """
    study = load_study(study_file)
    carry_out(study, outdir or Path('studies-out') / study.name, options)


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def status(folder: Path) -> None:
    """Say what is done, running, failed and left, and about how long the rest takes.

    \b
    python emm.py status width
    watch python emm.py status width
    """
    print(status_text(collect(open_study(folder), folder)))


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def table(folder: Path) -> None:
    """Print ratios by size and EMM by value, with their intervals, and write them as CSV and JSON.

    \b
    python emm.py table width
    python -m json.tool width/tables.json
    """
    results = collect(open_study(folder), folder)
    print(table_text(results))
    print('\nWritten: ' + ', '.join(map(str, write_tables(results))))


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def plot(folder: Path) -> None:
    """Draw ratio against |D| and against epochs, and EMM by value, as PNG and SVG.

    \b
    python emm.py plot width
    ls width/figures
    """
    paths = write_figures(collect(open_study(folder), folder))
    print('Written: ' + ', '.join(map(str, paths)) if paths else 'No point is done yet; nothing to draw.')


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def report(folder: Path) -> None:
    """Write the page of a study: one HTML file with everything in it.

    \b
    python emm.py report width
    xdg-open width/report.html
    """
    write_page(folder / PAGE, study_page(collect(open_study(folder), folder)))
    print(f'Page: {folder / PAGE}')


def search_document(options: dict[str, Any]) -> dict[str, Any]:
    """The study that `emm.py search` stands for, as the document of a study file."""
    try:
        words = shlex.split(options['selection'])
    except ValueError as error:
        raise click.UsageError(f'--selection={options["selection"]}: {error}; quote it as a shell does') from error
    if not words:
        raise click.UsageError('--selection is empty; give a sub-command of dataset_utils, such as size')
    repeats = {'count': options['repeats']}
    if options['select_seed'] is not None:
        repeats['select-seed'] = options['select_seed']
    sizes = {'search': options['size_range'], 'tolerance': options['tolerance']}
    if options['step'] is not None:
        sizes['step'] = options['step']
    return {
        'title': f'EMM of {options["outdir"].resolve().name}',
        'data': {'selection': words[0], 'source': options['source'], **long_options(words[1:])},
        'train': long_options(options['train_options']),
        'evaluate': {'seeds': options['seeds'], 'batch': options['batch']},
        'sizes': sizes,
        'repeats': repeats,
        'threshold': options['threshold'],
    }


def long_options(words: Any) -> dict[str, str]:
    """Words such as --lr=2e-4 as options by name. Raises UsageError for others."""
    found = {}
    for word in words:
        name, equals, value = word.removeprefix('--').partition('=')
        if not word.startswith('--') or not equals:
            raise click.UsageError(f'{word}: write options as --name=value')
        found[name] = value
    return found


def carry_out(study: Study, root: Path, options: dict[str, Any]) -> None:
    """Check a study, run what is left of it, and print and show what it found."""
    validator = Validator(PARSERS)
    validator.check_options(study)
    if options['dry_run']:
        print_plan(study, root)
        return
    launcher = make_launcher(root, options)
    if study.sources:
        claim(root, study)
        make_sources(root, study)
    study = validator.with_steps(study, root)
    claim(root, study)
    print(f'Page: {root / PAGE} (renewed as points end)\n', flush=True)
    resources, display = launcher.resources, Display()

    def begun(result: PointResult, results: StudyResults) -> None:
        print(f'\nPoint: {result.point.name}')
        for command in result.point.commands().values():
            print(f'$ {shell_line(command, resources)}')
        sys.stdout.flush()

    def ended(result: PointResult, results: StudyResults) -> None:
        print(ended_line(result), flush=True)
        display.renew(results)

    with stopping(launcher):
        results = run_study(study, root, launcher, options['retry'], begun, ended)
    Display().renew(results)
    print(f'\n{table_text(results)}\n\nPage: {root / PAGE}')
    report_failures(results)
    report_stopped(results)


class Display:
    """The tables and the page of a study, renewed as its points end; the page not so often that it slows them down."""

    def __init__(self) -> None:
        self.next_page = 0.0

    def renew(self, results: StudyResults) -> None:
        write_tables(results)
        start = time.monotonic()
        if start >= self.next_page:
            write_page(results.root / PAGE, study_page(results))
            self.next_page = time.monotonic() + 20 * (time.monotonic() - start)


def print_plan(study: Study, root: Path) -> None:
    """Print every point with its commands; of a search, those of its smallest size."""
    for value in study.values:
        print(f'{value.name}: {value.sizes.describe()}, {study.repeats.count} times each')
        for size in value.sizes.values or (value.sizes.search or ())[:1]:
            for repeat in range(study.repeats.count):
                point = make_point(study, root, value, size, repeat)
                print(f'\nPoint: {point.name}')
                for command in point.commands().values():
                    print(f'$ {shell_line(command, Resources())}')
    print('\nDry run; stopping here.')


def make_launcher(root: Path, options: dict[str, Any]) -> Launcher:
    gpus_per_job = options['gpus_per_job']
    if options['launcher_name'] == 'slurm':
        from studies.launchers.slurm import SlurmLauncher, SlurmOptions, extra_options

        wanted = SlurmOptions(
            partition=options['partition'],
            account=options['account'],
            qos=options['qos'],
            time_limit=options['time_limit'],
            cpus_per_task=options['cpus_per_job'],
            mem=options['mem'],
            max_parallel=options['jobs'],
            extra=extra_options(options['sbatch']),
        )
        return SlurmLauncher(root / 'slurm', Resources(options['nodes_per_job'], gpus_per_job or 0), wanted)
    if options['nodes_per_job'] > 1:
        raise click.UsageError('--nodes-per-job needs --launcher=slurm')
    devices = visible_gpus()
    return LocalLauncher(options['jobs'] or 1, (1 if devices else 0) if gpus_per_job is None else gpus_per_job, devices)


@contextlib.contextmanager
def stopping(launcher: Launcher) -> Iterator[None]:
    """Let the launcher end what it runs at Ctrl-C, at SIGTERM, when the terminal closes, and at an error."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}  # nohup ignores SIGHUP
    try:
        yield
    except BaseException:
        try:
            print('\nStopping; the same command goes on from here.', flush=True)
        finally:  # also where nobody reads any more what is printed
            launcher.stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ended_line(result: PointResult) -> str:
    if result.status.state != DONE or result.record is None:
        return point_line(result)
    record = result.record
    return (
        f'Done: {result.point.name}: ratio {100 * record["ratio"]:.2f} % [{100 * record["ratio_low"]:.2f}, '
        f'{100 * record["ratio_high"]:.2f}] at {record["epochs"]:.6g} epochs, in {format_time(result.status.seconds)}'
    )


def report_failures(results: StudyResults) -> None:
    """End with a sentence where points failed."""
    failed = [result for result in results.points if result.status.state == FAILED]
    if not failed:
        return
    for result in failed:
        print(point_line(result), file=sys.stderr)
    final = [result for result in failed if result.status.failures >= MAX_FAILURES]
    if final:
        raise UserError(
            f'{count(final)} failed {MAX_FAILURES} times, such as {final[0].point.folder}; mend the cause that its '
            f'log names, and remove its status.json to run it again'
        )
    raise UserError(f'{count(failed)} failed; mend the cause, and run again with --retry')


def count(points: Sequence[PointResult]) -> str:
    return f'{len(points)} point{"s" * (len(points) != 1)}'


def report_stopped(results: StudyResults) -> None:
    """End with a sentence where points were stopped, such as by a system that ran out of memory."""
    stopped = [result for result in results.points if result.status.state == STOPPED]
    for result in stopped:
        print(point_line(result), file=sys.stderr)
    if stopped:
        raise UserError(f'{count(stopped)} stopped before the end; the same command goes on from there')


if __name__ == '__main__':
    main()
