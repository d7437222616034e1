"""All metrics by name, and `compute_metrics`, which computes the requested ones and shares what they need.

A new metric is a file, and a line in `METRICS`; names and summaries are known without importing torch.
"""

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from dnnlib.util import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.metrics.distances import Inputs
    from evaluation.spaces import Rows, Space


@dataclass(frozen=True)
class Metric:
    """One entry of `METRICS`.

    summary: a few words for a help text. module: file of the metric, imported when it is computed. needs: an attribute
    of `evaluation.metrics.distances.Inputs`; features exist in feature space only. The module's function from_<needs>
    takes that and a seed, and returns a dataclass of numbers, lists and None. needs_test: whether the metric needs a
    held-out set.
    """

    summary: str
    module: str
    needs: Literal['distances', 'features'] = 'distances'
    needs_test: bool = False

    def compute(self, inputs: 'Inputs', seed: int) -> Any:
        function = getattr(importlib.import_module(self.module), f'from_{self.needs}')
        return function(getattr(inputs, self.needs), seed)


METRICS = {
    'ratio_curve': Metric('the memorization ratio at every threshold', 'evaluation.metrics.ratio_curve'),
    'authenticity': Metric('AuthPct, per cent of images that are not near-copies', 'evaluation.metrics.authenticity'),
    'copying_test': Metric('the C_T test of data-copying', 'evaluation.metrics.data_copying', needs_test=True),
    'precision_recall': Metric('precision, recall, density and coverage', 'evaluation.metrics.precision_recall'),
    'test_gap': Metric(
        'nearest distances to training against test images', 'evaluation.metrics.held_out_gap', needs_test=True
    ),
    'frechet': Metric('Fréchet distance of features, such as the FID', 'evaluation.metrics.frechet', 'features'),
    'kernel_distance': Metric(
        'kernel distance of features, such as the KID', 'evaluation.metrics.kernel_distance', 'features'
    ),
}


def compute_metrics(
    names: Sequence[str],
    space: 'Space',
    generated: 'Rows',
    training: 'Rows',
    test: 'Rows | None' = None,
    seed: int = 0,
    k: int | None = None,
    nearest_two: 'tuple[Tensor, Tensor] | None' = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of these names, in their order: a dictionary of numbers, lists and None for each, fit for JSON.

    space: what to compare in; generated, training, test: its rows. seed: of the clustering. k, nearest_two: see
    `evaluation.metrics.distances.Distances`.
    Raises UserError for an unknown name, a missing test set, rows that do not fit, or too few of them.
    """
    from evaluation.metrics.distances import Inputs

    require_known(names, has_test=test is not None)
    inputs = Inputs(space, generated, training, test, k, nearest_two)
    return {name: asdict(METRICS[name].compute(inputs, seed)) for name in names}


def requested(names: Sequence[str], has_test: bool, has_features: bool) -> Sequence[str]:
    """The names; for 'all', every metric that can be computed. Raises UserError as `require_known` does."""
    if list(names) == ['all']:
        has = {'distances': True, 'features': has_features}
        return [name for name, metric in METRICS.items() if has[metric.needs] and (has_test or not metric.needs_test)]
    require_known(names, has_test)
    return names


def require_known(names: Sequence[str], has_test: bool) -> None:
    """Raise UserError for an unknown name, and for a metric that needs a test set if there is none."""
    for name in names:
        if name not in METRICS:
            raise UserError(f'`metrics`: no metric is called {name!r}; there are {", ".join(METRICS)}')
        if METRICS[name].needs_test and not has_test:
            raise UserError(f'`metrics`={name} needs `test_set`, a held-out set, or a third file of `features`')
