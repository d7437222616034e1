"""One session with a study: check it, run what is left, keep its tables and page up to date, and report at the end."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dnnlib.util import UserError, format_time
from studies.commands import Resources, shell_line
from studies.folder import PAGE, claim, make_sources
from studies.launchers.contract import Launcher, make_launcher
from studies.points import DONE, FAILED, MAX_FAILURES, STOPPED, make_point
from studies.report.tables import point_line, table_text, write_tables
from studies.results import PointResult, StudyResults
from studies.run_study import run_study
from studies.study import Study
from studies.study_options import SessionOptions
from studies.validation import Validator


def carry_out(study: Study, root: Path, options: SessionOptions) -> None:
    """Check a study, run what is left of it, and print its results and write its page.

    Raises UserError for a study that cannot be run, and if points failed or stopped.
    """
    validator = Validator()
    validator.check_options(study)
    if options.dry_run:
        print_plan(study, root)
        return
    launcher = make_launcher(root, options.launch)
    if study.sources:
        claim(root, study)
        make_sources(root, study)
    study = validator.with_steps(study, root)
    claim(root, study)
    print(f'Page: {root / PAGE} (updated as points end)\n', flush=True)
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
        results = run_study(study, root, launcher, options.retry, begun, ended)
    Display().renew(results)
    print(f'\n{table_text(results)}\n\nPage: {root / PAGE}')
    report_failures(results)
    report_stopped(results)


class Display:
    """The tables and the page of a study, updated as its points end; the page rarely enough not to slow them down."""

    def __init__(self) -> None:
        self.next_page = 0.0

    def renew(self, results: StudyResults) -> None:
        from studies.report.sections import write_study_page  # only here: it takes seconds to import

        write_tables(results)
        start = time.monotonic()
        if start >= self.next_page:
            write_study_page(results)
            self.next_page = time.monotonic() + 20 * (time.monotonic() - start)


def print_plan(study: Study, root: Path) -> None:
    """Print every point with its commands; for a search, the points of its smallest size."""
    for combination in study.combinations:
        print(f'{combination.name}: {combination.sizes.describe()}, {study.repeats.count} times each')
        for size in combination.sizes.values or (combination.sizes.search or ())[:1]:
            for repeat in range(study.repeats.count):
                point = make_point(study, root, combination, size, repeat)
                print(f'\nPoint: {point.name}')
                for command in point.commands().values():
                    print(f'$ {shell_line(command, Resources())}')
    print('\nDry run; stopping here.')


@contextlib.contextmanager
def stopping(launcher: Launcher) -> Iterator[None]:
    """Stop the launcher at Ctrl-C, at SIGTERM, when the terminal closes, and at an error."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}  # nohup ignores SIGHUP
    try:
        yield
    except BaseException:
        try:
            print('\nStopping; the same command resumes the study.', flush=True)
        finally:  # even if the output is closed
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
    """Raise UserError if points failed."""
    failed = [result for result in results.points if result.status.state == FAILED]
    if not failed:
        return
    for result in failed:
        print(point_line(result), file=sys.stderr)
    final = [result for result in failed if result.status.failures >= MAX_FAILURES]
    if final:
        raise UserError(
            f'{count(final)} failed {MAX_FAILURES} times, such as {final[0].point.folder}; fix the cause that its '
            f'log shows, and remove its status.json to run it again'
        )
    raise UserError(f'{count(failed)} failed; fix the cause, and run again with `retry`')


def count(points: Sequence[PointResult]) -> str:
    return f'{len(points)} point{"s" * (len(points) != 1)}'


def report_stopped(results: StudyResults) -> None:
    """Raise UserError if points were stopped, such as by a system that ran out of memory."""
    stopped = [result for result in results.points if result.status.state == STOPPED]
    for result in stopped:
        print(point_line(result), file=sys.stderr)
    if stopped:
        raise UserError(f'{count(stopped)} stopped before the end; the same command resumes')
