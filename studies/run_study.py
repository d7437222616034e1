"""Runs a study until it is finished: chooses the points to run next, and passes them to a launcher."""

import time
from collections.abc import Callable
from pathlib import Path

from studies.folder import require_unchanged
from studies.launchers.contract import Job, Launcher
from studies.points import DONE, FAILED, LEFT, MAX_FAILURES, RUNNING, STOPPED
from studies.results import PointResult, StudyResults, collect
from studies.study import Study

SECONDS_BETWEEN_LOOKS = 1.0
Listener = Callable[[PointResult, StudyResults], None]
Starter = Callable[[PointResult, Path | None], None]
Watcher = Callable[[StudyResults], None]


def run_study(
    study: Study,
    root: Path,
    launcher: Launcher,
    retry: bool,
    begun: Starter,
    ended: Listener,
    watch: Watcher = lambda results: None,
) -> StudyResults:
    """Run every point that has not started or was stopped (with `retry`, also failed points); return all results.

    begun: called with (point, path) before the launcher gets a point; path is where the point's old results were moved
    to, or None if there were none. ended: called with (point, results of the study) when a point is done, stopped or
    failed. watch: called every second while points run, with the study's results.
    If another process runs a point, wait until that process ends; if the point is then not finished, run it.
    Raises UserError if another process has started another version of the study in this folder.
    """
    jobs: dict[Path, Job] = {}
    given: set[Path] = set()
    while True:
        require_unchanged(root, study)
        finished = [folder for folder, job in jobs.items() if job.done()]
        for folder in finished:
            del jobs[folder]
        results = collect(study, root)
        for result in results.points:
            if result.point.folder in finished and result.status.state == RUNNING:
                given.discard(result.point.folder)  # another process was faster
            elif result.point.folder in finished:
                ended(result, results)
        fresh = [r for r in results.points if r.point.folder not in given and is_to_run(r, retry)]
        if launcher.capacity is not None:
            fresh = fresh[: launcher.capacity - len(jobs)]
        for result in fresh:
            begun(result, result.point.prepare())
        folders = [result.point.folder for result in fresh]
        given.update(folders)
        if folders:
            jobs |= zip(folders, launcher.submit(folders), strict=True)
        elif not jobs and not any(result.status.state == RUNNING for result in results.points):
            return results
        watch(results)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def is_to_run(result: PointResult, retry: bool) -> bool:
    """Whether to start a point.

    A failed point is started only with `retry`, and never after MAX_FAILURES failures. A finished point is started
    again if measurements are missing, and a point whose measurement failed, if the measurements have changed.
    """
    status = result.status
    if status.state in (DONE, FAILED) and result.record is not None and not result.point.is_diagnosed():
        return True
    return status.state in (LEFT, STOPPED) or (status.state == FAILED and retry and status.failures < MAX_FAILURES)
