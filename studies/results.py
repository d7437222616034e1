"""The current results of a study: ratios by combination and size, EMM by combination, and each point's status."""

import dataclasses
import functools
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.effective_memorization import EMM, Ratios, effective_memorization, next_size, rising_pairs
from studies.points import DONE, FAILED, LEFT, RUNNING, Point, Status, combination_folder, make_point, read_result
from studies.study import Combination, Study

UNMEASURED = 'done without a measurement'  # shown instead of 'failed'; see `is_unmeasured`


@dataclasses.dataclass(frozen=True)
class PointResult:
    """A point, its status and, once it is evaluated, the record of its snapshot with the highest ratio."""

    point: Point
    status: Status
    record: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results for one combination of factor values.

    points: the points, ordered by size, then repeat. emm: the EMM; None if no point is evaluated, or if the study
    measures a single size. next_size: the size that the search measures next; None if there is no search, or if it has
    ended.
    """

    combination: Combination
    points: list[PointResult]
    ratios: list[Ratios]
    emm: EMM | None
    next_size: int | None
    warnings: list[str]

    def at(self, size: int) -> list[PointResult]:
        return [result for result in self.points if result.point.size == size]


@dataclasses.dataclass(frozen=True)
class StudyResults:
    """All results of a study. root: the study's folder. set_aside: folders of points made with other settings."""

    study: Study
    root: Path
    outcomes: list[Outcome]
    set_aside: list[Path]

    @property
    def points(self) -> list[PointResult]:
        return [point for outcome in self.outcomes for point in outcome.points]

    @property
    def warnings(self) -> list[str]:
        return changed_sources(self.points) + [warning for outcome in self.outcomes for warning in outcome.warnings]

    def counts(self) -> dict[str, int]:
        """The number of points in each state."""
        states = [UNMEASURED if is_unmeasured(result) else result.status.state for result in self.points]
        return {state: states.count(state) for state in dict.fromkeys([DONE, RUNNING, FAILED, LEFT, *states])}

    def counts_text(self) -> str:
        """The number of points in each state, such as '3 done, 1 left'; an empty string if there are no points."""
        return ', '.join(f'{number} {state}' for state, number in self.counts().items() if number)


def collect(study: Study, root: Path) -> StudyResults:
    """Read the results in a study's folder."""
    aside = sorted(path for path in (root / 'points').glob('*/*.set-aside-*') if path.is_dir())
    return StudyResults(
        study, root, [collect_outcome(study, root, combination) for combination in study.combinations], aside
    )


def collect_outcome(study: Study, root: Path, combination: Combination) -> Outcome:
    """Read the points of one combination: all points at the study's fixed sizes or at the search's next size and,
    at other sizes, the points that are evaluated or running."""

    def points_of(size: int) -> list[PointResult]:
        return [read_point(make_point(study, root, combination, size, r)) for r in range(study.repeats.count)]

    everything = {size: points_of(size) for size in {*combination.sizes.values, *sizes_on_disk(root, combination)}}
    ratios = {size: ratios_of(size, results) for size, results in everything.items()}
    known = {size: r for size, r in ratios.items() if r is not None}
    upcoming = search_on(combination, known, study)
    wanted = {*combination.sizes.values} if upcoming is None else {*combination.sizes.values, upcoming}
    found = {size: everything.get(size) or points_of(size) for size in wanted}
    for size in everything.keys() - wanted:
        if others := [r for r in everything[size] if r.record is not None or r.status.state == RUNNING]:
            found[size] = others
    ordered = sorted(known.values(), key=lambda r: r.size)
    tells_emm = bool(ordered) and (len(ordered) > 1 or len(combination.sizes.values) != 1)
    return Outcome(
        combination=combination,
        points=[result for size in sorted(found) for result in found[size]],
        ratios=ordered,
        emm=cached_emm(tuple(ordered), study.threshold) if tells_emm else None,
        next_size=upcoming,
        warnings=[warning_of(combination, small, large) for small, large in rising_pairs(ordered)],
    )


@functools.lru_cache(maxsize=4096)
def cached_emm(ratios: tuple[Ratios, ...], threshold: float) -> EMM:
    """Compute the EMM. The result is cached, because its interval is computed by resampling, which is slow."""
    return effective_memorization(ratios, threshold)


def read_point(point: Point) -> PointResult:
    status = point.status()
    return PointResult(point, status, None if status.state == LEFT else read_result(point.folder))


def is_unmeasured(result: PointResult) -> bool:
    """Whether a point has a ratio, but one of its measurements failed."""
    return result.status.state == FAILED and result.record is not None


def sizes_on_disk(root: Path, combination: Combination) -> set[int]:
    folder = combination_folder(root, combination)
    names = (path.name.partition('-r')[0] for path in folder.glob('*-r*') if path.is_dir())
    return {int(name) for name in names if name.isdecimal()}


def ratios_of(size: int, results: Sequence[PointResult]) -> Ratios | None:
    """The numbers of copies and of generated images in each finished repeat at one size.

    Returns None if no repeat is finished.
    """
    records = [result.record for result in results if result.record is not None]
    if not records:
        return None
    counts = [(record['num_memorized'], record['num_images']) for record in records]
    return Ratios(size, tuple(memorized for memorized, _ in counts), tuple(images for _, images in counts))


def search_on(combination: Combination, known: dict[int, Ratios], study: Study) -> int | None:
    """The size that a combination's search measures next; None if the search has ended, or if the sizes are fixed.

    known: the ratios so far, by size. Sizes with unfinished repeats are ignored.
    """
    if combination.sizes.search is None:
        return None
    low, high = combination.sizes.search
    ratios = {size: r.mean for size, r in known.items() if len(r.images) == study.repeats.count}
    return next_size(ratios, low, high, combination.sizes.tolerance, combination.sizes.step or 1, study.threshold)


def changed_sources(points: Sequence[PointResult]) -> list[str]:
    """A warning for each source whose content changed between the training sets of two points."""
    first: dict[tuple, tuple[Any, str]] = {}
    warnings: dict[tuple, str] = {}
    for result in points:
        point, path = result.point, result.point.folder / 'data.zip'
        if result.status.state == LEFT or not path.is_file():
            continue
        data, digest = point.combination.settings.data, source_sha256(path, path.stat().st_mtime_ns)
        source = data['source'], data.get('blend')
        if digest is None:
            continue
        earlier, name = first.setdefault(source, (digest, point.name))
        if digest != earlier:
            warnings[source] = (
                f'{" or ".join(filter(None, source))} changed between points: the training sets of {name} and of '
                f'{point.name} come from different images, so their ratios do not belong to one EMM; run the study in '
                f'a new folder'
            )
    return list(warnings.values())


@functools.lru_cache(maxsize=4096)
def source_sha256(path: Path, changed: int) -> Any:
    """The hashes of the sources of a training set; None if they are unknown. changed: the file's modification time."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read('manifest.json'))
        # With this rule, the hash of a folder covers only the images in the training set, so it depends on the size.
        return None if manifest['rule'] == 'imagenet-class' else manifest['source_sha256']
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def warning_of(combination: Combination, small: Ratios, large: Ratios) -> str:
    name = f'{combination.name}: ' if combination.values else ''
    return (
        f'{name}{large.size} training images are memorized more ({100 * large.mean:.1f} %) than {small.size} '
        f'({100 * small.mean:.1f} %), and their intervals do not overlap; train longer or use more repeats'
    )
