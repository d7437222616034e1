"""All metrics by name, and `compute_metrics`, which computes those that were asked for and shares their distances.

A new metric is a file with a pure function of distances, and a line in `METRICS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dnnlib.util import UserError
from evaluation.metrics.authenticity import Authenticity, authenticity
from evaluation.metrics.data_copying import Cells, Copying, CopyingTest, copying
from evaluation.metrics.distances import Distances
from evaluation.metrics.held_out_gap import HeldOutGap, held_out_gap
from evaluation.metrics.precision_recall import NEAREST_K, PrecisionRecall, precision_recall
from evaluation.metrics.ratio_curve import RatioCurve, ratio_curve
from evaluation.spaces import Rows, Space


@dataclass(frozen=True)
class Metric:
    """One entry of `METRICS`. summary: a few words for a help text. needs_test: whether it needs a held-out set.

    compute: from the distances and a seed, a dataclass of numbers, lists and None.
    """

    summary: str
    needs_test: bool
    compute: Callable[[Distances, int], Any]


def compute_metrics(
    names: Sequence[str],
    space: Space,
    generated: Rows,
    training: Rows,
    test: Rows | None = None,
    seed: int = 0,
    k: int = NEAREST_K,
    nearest_two: tuple[Tensor, Tensor] | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of these names, in their order: a dictionary of numbers, lists and None for each, fit for JSON.

    space: what to compare in; generated, training, test: its rows. seed: of the clustering. k: the neighbour that balls
    of precision and recall reach to. nearest_two: see `Distances`.
    Raises UserError for an unknown name, a missing test set, rows that do not fit, or too few of them.
    """
    require_known(names, has_test=test is not None)
    distances = Distances(space, generated, training, test, k, nearest_two)
    return {name: asdict(METRICS[name].compute(distances, seed)) for name in names}


def require_known(names: Sequence[str], has_test: bool) -> None:
    """Raise UserError where a name is none of `METRICS`, or its metric needs a test set and there is none."""
    for name in names:
        if name not in METRICS:
            raise UserError(f'--metrics: no metric is called {name!r}; there are {", ".join(METRICS)}')
        if METRICS[name].needs_test and not has_test:
            raise UserError(f'--metrics={name} needs --test-ref, a held-out test set, or a third file of --features')


def _ratio_curve(distances: Distances, seed: int) -> RatioCurve:
    _, squared = distances.nearest_two
    return ratio_curve(squared[:, 0], squared[:, 1])


def _authenticity(distances: Distances, seed: int) -> Authenticity:
    index, squared = distances.nearest_two
    nearest = index[:, 0].contiguous()
    place = torch.searchsorted(distances.distinct_training, nearest)
    return authenticity(squared[:, 0], distances.within_training[nearest, 0], distances.within_distinct_training[place])


def _copying_test(distances: Distances, seed: int) -> CopyingTest:
    space, generated, test = distances.space, distances.generated, distances.test
    _, nearest_two = distances.nearest_two
    cells = Cells(space, distances.training, seed=seed)
    plain = copying(nearest_two[:, 0], distances.test_to_training, cells.of(generated), cells.of(test), cells.count)
    cells = Cells(space, generated, seed=seed)
    exchanged = copying(
        distances.training_to_generated,
        distances.test_to_generated,
        cells.of(distances.training),
        cells.of(test),
        cells.count,
    )
    return CopyingTest(plain, exchanged, _split_test(space, generated, test, seed) if len(test) > 1 else None)


def _split_test(space: Space, generated: Rows, test: Rows, seed: int) -> Copying:
    half = (len(test) + 1) // 2
    first, second = test[:half], test[half:]
    cells = Cells(space, first, seed=seed)
    generated_to_first, second_to_first = (space.nearest(rows, first, 1)[1][:, 0] for rows in (generated, second))
    return copying(generated_to_first, second_to_first, cells.of(generated), cells.of(second), cells.count)


def _precision_recall(distances: Distances, seed: int) -> PrecisionRecall:
    k = distances.k
    for rows, name in ((distances.generated, 'generated'), (distances.training, 'training')):
        if len(rows) <= k:
            raise UserError(
                f'precision_recall: {len(rows)} {name} images; the {k} nearest others need at least {k + 1}'
            )
    return precision_recall(
        distances.in_training_balls,
        distances.in_generated_balls[1],
        distances.training_to_generated,
        distances.within_training[:, -1],
        k,
    )


def _test_gap(distances: Distances, seed: int) -> HeldOutGap:
    _, squared = distances.nearest_two
    num_test = len(distances.space.distinct(distances.test))
    return held_out_gap(squared[:, 0], distances.to_test, len(distances.distinct_training), num_test)


METRICS = {
    'ratio_curve': Metric('the memorization ratio at every threshold', False, _ratio_curve),
    'authenticity': Metric('AuthPct, per cent of images that are no near-copies', False, _authenticity),
    'copying_test': Metric('the C_T test of data-copying', True, _copying_test),
    'precision_recall': Metric('precision, recall, density and coverage', False, _precision_recall),
    'test_gap': Metric('nearest distances to training against test images', True, _test_gap),
}
