"""Runs a study for a user: checks it, runs the remaining points, updates tables and page, and reports the results."""

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dnnlib.util import UserError, counted, format_time
from studies.commands import shell_line
from studies.folder import PAGE, claim, make_sources, require_folder_for
from studies.launchers.contract import Launcher, make_launcher
from studies.points import DONE, FAILED, LEFT, MAX_FAILURES, STOPPED, make_point
from studies.report.finding import finding
from studies.report.tables import point_line, table_text, write_tables
from studies.results import PointResult, StudyResults, collect, is_unmeasured
from studies.run_study import run_study
from studies.study import Study
from studies.study_options import SessionOptions
from studies.time_left import progress_lines, resuming_text
from studies.validation import Validator

SECONDS_BETWEEN_LINES = 20.0  # when the output is not a terminal
SECONDS_BETWEEN_PAGES = 10.0


def carry_out(study: Study, root: Path, options: SessionOptions) -> None:
    """Check a study, run its remaining points, print its results and write its page.

    Raises UserError if the study cannot be run, or if points failed or stopped.
    """
    validator = Validator()
    validator.check_options(study)
    launcher = make_launcher(root, options.launch)
    require_folder_for(study, root)
    if options.dry_run:
        print_plan(study, root, validator, launcher)
        return
    launcher.require_resources()
    if study.sources:
        claim(root, study)
        make_sources(root, study)
    study = validator.with_steps(study, root)
    claim(root, study)
    resources, display = launcher.resources, Display(launcher.capacity)
    display.renew(collect(study, root))
    print(f'Page: {root / PAGE} (updated while points run)', flush=True)

    def begun(result: PointResult, aside: Path | None) -> None:
        commands = [f'$ {shell_line(command, resources)}' for command in result.point.commands().values()]
        notes = [f'Results with other settings were set aside: {aside}'] if aside else []
        notes += [text] if (text := resuming_text(result.point)) else []
        display.say('\n'.join([f'\nPoint: {result.point.name}', *commands, *notes]))

    def ended(result: PointResult, results: StudyResults) -> None:
        display.say(ended_line(result, launcher))
        display.renew(results)

    with stopping(launcher):
        results = run_study(study, root, launcher, options.retry, begun, ended, display.watch)
    display.erase()
    Display().renew(results)
    print(f'\n{table_text(results)}\n\n{finding(results)}\nPage: {root / PAGE}')
    report_failures(results)
    report_stopped(results)
    report_left(results, launcher)


class Display:
    """Shows a running study: prints progress lines, and writes the tables and the page.

    On a terminal, the progress lines are redrawn every second; otherwise, they are printed every 20 s. The tables
    and the page are written again after at least 10 s, or 20 times the duration of the last write if that is longer.
    jobs: number of points that run at a time; None if unknown.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs, self.on_terminal = jobs, sys.stdout.isatty()
        self.drawn = 0
        self.next_lines = time.monotonic() + SECONDS_BETWEEN_LINES
        self.next_page = 0.0

    def say(self, text: str) -> None:
        """Print text above the progress lines."""
        self.erase()
        print(text, flush=True)

    def erase(self) -> None:
        if self.drawn:
            print(f'\x1b[{self.drawn}A\x1b[J', end='')
            self.drawn = 0

    def watch(self, results: StudyResults) -> None:
        """Show progress, and update the tables and the page if they are due."""
        if self.on_terminal or time.monotonic() >= self.next_lines:
            self.next_lines = time.monotonic() + SECONDS_BETWEEN_LINES
            lines = progress_lines(results, self.jobs)
            if self.on_terminal:
                self.erase()
                columns, rows = shutil.get_terminal_size()
                lines = [shortened(line, columns - 1) for line in lines[-rows + 1 :]]
                self.drawn = len(lines)
            print('\n'.join(lines), flush=True)
        self.renew(results)

    def renew(self, results: StudyResults) -> None:
        """Write the tables and the page, unless the page was written recently."""
        from studies.report.sections import write_study_page  # imported here because the import takes seconds

        start = time.monotonic()
        if start >= self.next_page:
            write_tables(results)
            write_study_page(results)
            self.next_page = time.monotonic() + max(SECONDS_BETWEEN_PAGES, 20 * (time.monotonic() - start))


def shortened(line: str, width: int) -> str:
    """The line, or its beginning and an ellipsis if it is longer than `width` characters."""
    return line if len(line) <= width else f'{line[: width - 1]}…'


def print_plan(study: Study, root: Path, validator: Validator, launcher: Launcher) -> None:
    """Print what a run would do: each point with its commands, the job script for a cluster, and the total cost.

    For a search, only the points at the smallest size are printed. The study's own data sets are made in a temporary
    folder. Raises UserError if a training set cannot be made from its source at one of the sizes.
    """
    from studies.study_cost import study_cost  # imported here because it imports training and sampling code

    with tempfile.TemporaryDirectory() as name:
        sources = Path(name)
        if study.sources:
            make_sources(sources, study)
        study = validator.with_steps(study, sources)
        count = 0
        for combination in study.combinations:
            print(f'{combination.name}: {combination.sizes.describe()}; {counted(study.repeats.count, "repeat")} each')
            for size in combination.sizes.values or (combination.sizes.search or ())[:1]:
                for repeat in range(study.repeats.count):
                    point = make_point(study, root, combination, size, repeat)
                    count += 1
                    print(f'\nPoint: {point.name}')
                    for command in point.commands().values():
                        print(f'$ {shell_line(command, launcher.resources)}')
        print(launcher.script(count))
        print(study_cost(study, root, sources, validator, launcher.resources, launcher.capacity))
    print('Dry run; stopping here.')


@contextlib.contextmanager
def stopping(launcher: Launcher) -> Iterator[None]:
    """Stop the launcher on Ctrl-C, on SIGTERM, when the terminal closes, and on errors."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    # Signals that are ignored stay ignored, such as SIGHUP under nohup.
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except BaseException:
        try:
            print('\nStopping; the same command resumes the study.', flush=True)
        finally:  # even if the output stream is closed
            launcher.stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ended_line(result: PointResult, launcher: Launcher) -> str:
    if result.status.state == LEFT:
        log = launcher.log_of(result.point.folder)
        return f'{result.point.name}: its job ended before the point started; see {log}'
    if result.status.state != DONE or result.record is None:
        return point_line(result)
    record = result.record
    epochs = '' if record['epochs'] is None else f' at {counted(record["epochs"], "epoch", digits=6)}'
    return (
        f'Done: {result.point.name}: ratio {100 * record["ratio"]:.2f} % [{100 * record["ratio_low"]:.2f}, '
        f'{100 * record["ratio_high"]:.2f}]{epochs}, in {format_time(result.status.seconds)}'
    )


def report_failures(results: StudyResults) -> None:
    """Raise UserError if any points failed."""
    failed = [result for result in results.points if result.status.state == FAILED]
    if not failed:
        return
    for result in failed:
        print(point_line(result), file=sys.stderr)
    if all(map(is_unmeasured, failed)):
        raise UserError(
            f'a measurement of {counted(len(failed), "point")} failed, but the ratios are kept; change or remove it in '
            f'[diagnose], or fix the cause and run again with `retry`'
        )
    failed = [result for result in failed if not is_unmeasured(result)]
    final = [result for result in failed if result.status.failures >= MAX_FAILURES]
    if final:
        raise UserError(
            f'{counted(len(final), "point")} failed {MAX_FAILURES} times, such as {final[0].point.folder}; fix the '
            f'cause (see log.txt in this folder), and remove status.json there to run the point again'
        )
    raise UserError(f'{counted(len(failed), "point")} failed; fix the cause, and run again with `retry`')


def report_stopped(results: StudyResults) -> None:
    """Raise UserError if any points were stopped, for example because the machine ran out of memory."""
    stopped = [result for result in results.points if result.status.state == STOPPED]
    for result in stopped:
        print(point_line(result), file=sys.stderr)
    if stopped:
        raise UserError(f'{counted(len(stopped), "point")} stopped before the end; run the same command to resume')


def report_left(results: StudyResults, launcher: Launcher) -> None:
    """Raise UserError if any points never started, for example because their jobs on a cluster were cancelled."""
    left = [result for result in results.points if result.status.state == LEFT]
    for result in left:
        print(ended_line(result, launcher), file=sys.stderr)
    if left:
        raise UserError(
            f'{counted(len(left), "point")} did not start, because the jobs were cancelled or failed; fix the '
            f'cause, and run the same command again'
        )
