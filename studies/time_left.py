"""The progress of a study's running points, and the estimated time left."""

import re
import time

from dnnlib.progress import Progress, read_progress
from dnnlib.typed import read_json
from dnnlib.util import format_time, kimg_text, significant
from studies.points import DONE, FAILED, RUNNING, Point
from studies.results import Outcome, PointResult, StudyResults

# The displayed name of each step.
STEPS = {
    'data': 'training set', 'train': 'training', 'evaluate': 'evaluation', 'levels': 'noise levels',
    'data-b': 'second training set', 'train-b': 'second training',
}  # fmt: skip


def elapsed(result: PointResult) -> float:
    """Seconds spent on a point over all attempts."""
    status = result.status
    return status.seconds + (max(0.0, time.time() - status.started) if status.state == RUNNING else 0.0)


def progress_of(result: PointResult) -> Progress | None:
    """The progress of a running point's training or evaluation."""
    return read_progress(result.point.folder / 'run') if result.status.state == RUNNING else None


def running_line(result: PointResult, results: StudyResults) -> str:
    """One line about a running point: its step, progress, speed and time left."""
    step = STEPS.get(result.status.step, result.status.step)
    progress = progress_of(result)
    if progress is None or not progress.total:
        return f'{result.point.name}: {step}'
    parts = [step, f'{100 * progress.done / progress.total:.0f} % of {progress.total:,} images']
    own, left = progress.seconds_left, point_seconds_left(result, results)
    if left is not None and left >= 1:
        parts.append(f'{format_time(left)} left for {f"this {step}" if left == own else "all steps"}')
    if progress.rate:  # last, because narrow terminals cut the line
        parts.append(f'{significant(progress.rate, 4)} images/s')
    return f'{result.point.name}: {", ".join(parts)}'


def progress_lines(results: StudyResults, jobs: int | None) -> list[str]:
    """A line for each running point, and a line for the study.

    jobs: number of points that run at a time; None if unknown.
    """
    running = [result for result in results.points if result.status.state == RUNNING]
    left = study_seconds_left(results, jobs)
    time_left = '' if left is None or left < 1 else f'; {about_or_more(results)} {format_time(left)} left'
    return [*(running_line(result, results) for result in running), f'Study: {results.counts_text()}{time_left}']


def about_or_more(results: StudyResults) -> str:
    """The word before an estimated time. It is 'about' once a point is done, and 'more than' until then, because the
    time of the steps after training is unknown."""
    return 'about' if results.counts()[DONE] else 'more than'


def study_seconds_left(results: StudyResults, jobs: int | None = None) -> float | None:
    """The estimated time until every point is done, in seconds; None if it cannot be estimated yet.

    jobs: number of points that run at a time; None uses the number running now. Failed points are assumed not to be run
    again.
    """
    open_points = [result for result in results.points if result.status.state not in (DONE, FAILED)]
    left = [point_seconds_left(result, results) for result in open_points]
    known = [seconds for seconds in left if seconds is not None]
    if len(known) < len(left):
        return None
    places = jobs or sum(result.status.state == RUNNING for result in open_points) or 1
    return max([sum(known) / places, *known], default=0.0)


def point_seconds_left(result: PointResult, results: StudyResults) -> float | None:
    """The estimated time until a point is done, in seconds; None if it cannot be estimated yet.

    Returns the larger of two estimates: the time left in the running step, and the total time of points of similar
    size minus the time that this point has already taken.
    """
    progress = progress_of(result)
    own = None if progress is None else progress.seconds_left
    similar = [outcome for outcome in results.outcomes if result in outcome.points]
    expected = expected_seconds(result, similar) or expected_seconds(result, results.outcomes)
    estimates = [own, None if expected is None else max(0.0, expected - elapsed(result))]
    return max((seconds for seconds in estimates if seconds is not None), default=None)


def expected_seconds(result: PointResult, outcomes: list[Outcome]) -> float | None:
    """The mean total time, in seconds, of other points at the size nearest to this point's; None if it is unknown.

    Only finished points are used. If no other point is finished, running points are used: their time so far, plus the
    time left in their current step.
    """
    points = [other for outcome in outcomes for other in outcome.points if other is not result]
    known = [(other, elapsed(other)) for other in points if other.status.state == DONE]
    if not known:
        running = [(other, progress_of(other)) for other in points]
        known = [(o, elapsed(o) + p.seconds_left) for o, p in running if p is not None and p.seconds_left is not None]
    if not known:
        return None
    distance = min(abs(other.point.size - result.point.size) for other, _ in known)
    nearest = [seconds for other, seconds in known if abs(other.point.size - result.point.size) == distance]
    return sum(nearest) / len(nearest)


def resuming_text(point: Point) -> str:
    """A sentence about where a point's training run resumes, such as 'Resuming at 27 of 77 kimg.'.

    Returns '' if the run has not saved a training state.
    """
    run = point.folder / 'run'
    names = [re.fullmatch(r'training-state-([\d.]+)\.pt', path.name) for path in run.glob('training-state-*.pt')]
    options = read_json(run / 'training_options.json', dict)
    done = max((float(match[1]) for match in names if match), default=None)
    if done is None or options is None:
        return ''
    total = options['schedule']['total_images'] / 1000
    return f'Resuming at {significant(done, 6)} of {kimg_text(total)}.' if done < total else 'The training is done.'
