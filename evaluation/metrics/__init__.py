"""All metrics by name, and `compute_metrics`, which computes the requested metrics from shared inputs.

To add a metric, write a module and an entry in `METRICS`. Names and summaries are available without importing torch.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

from dnnlib.util import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.metrics.distances import Inputs
    from evaluation.spaces import Rows, Space


@dataclass(frozen=True)
class Metric:
    """One entry of `METRICS`.

    summary: a few words for help texts. module: the module to import when the metric is computed. needs: the attribute
    of `evaluation.metrics.distances.Inputs` that the metric is computed from (features exist only in feature space).
    The module's function from_<needs> takes this attribute and a seed, and returns a dataclass of numbers, arrays,
    lists and None. needs_test: whether the metric requires a held-out set. memorized: maps names of numbers in the
    result to the values that indicate memorization, such as 'near 0'; nested numbers have names such as
    'plain.global_z'.
    """

    summary: str
    module: str
    needs: Literal['distances', 'features'] = 'distances'
    needs_test: bool = False
    memorized: Mapping[str, str] = field(default_factory=dict)

    def compute(self, inputs: 'Inputs', seed: int) -> Any:
        function = getattr(importlib.import_module(self.module), f'from_{self.needs}')
        return function(getattr(inputs, self.needs), seed)


METRICS = {
    'ratio_curve': Metric(
        'the memorization ratio at every threshold', 'evaluation.metrics.ratio_curve', memorized={'mean': 'near 0'}
    ),
    'authenticity': Metric(
        'AuthPct, percentage of images that are not near-copies',
        'evaluation.metrics.authenticity',
        memorized={'authpct': 'near 0', 'authpct_distinct': 'near 0'},
    ),
    'copying_test': Metric(
        'the C_T test of data-copying',
        'evaluation.metrics.data_copying',
        needs_test=True,
        memorized={
            f'{variant}.{number}': 'far below 0'
            for variant in ('plain', 'exchanged')
            for number in ('global_z', 'clustered_z')
        },
    ),
    'precision_recall': Metric('precision, recall, density and coverage', 'evaluation.metrics.precision_recall'),
    'test_gap': Metric(
        'nearest-neighbour distances to training versus test images',
        'evaluation.metrics.held_out_gap',
        needs_test=True,
        memorized={'mean_gap': 'above 0', 'median_gap': 'above 0', 'share_nearer_to_training': 'above expected'},
    ),
    'frechet': Metric(
        'Fréchet distance of features, such as the FID',
        'evaluation.metrics.frechet',
        'features',
        memorized={'difference': 'above 0'},
    ),
    'kernel_distance': Metric(
        'kernel distance of features, such as the KID',
        'evaluation.metrics.kernel_distance',
        'features',
        memorized={'difference': 'above 0'},
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
    """Compute metrics; return each metric's result by name. A result is a dictionary that JSON can store: arrays become
    lists, and numbers that are not finite become None.

    space: the space in which images are compared. generated, training, test: each set as rows in this space. seed: the
    seed of clusterings and random subsets. k, nearest_two: see `evaluation.metrics.distances.Distances`.
    Raises UserError for an unknown name, a missing test set, rows of a wrong shape or type, or too few rows, and if a
    metric returns anything else than a dataclass.
    """
    from evaluation.metrics.distances import Inputs

    require_known(names, has_test=test is not None)
    inputs = Inputs(space, generated, training, test, k, nearest_two)
    results = {name: METRICS[name].compute(inputs, seed) for name in names}
    for name, result in results.items():
        if not is_dataclass(result) or isinstance(result, type):
            raise UserError(f'the metric {name} must return a dataclass of numbers, not {type(result).__name__}')
    return {name: _stored(asdict(result), name) for name, result in results.items()}


def _stored(value: Any, where: str) -> Any:
    """A value that JSON can store. where: the metric and the names of the value, for messages."""
    value = value.tolist() if hasattr(value, 'tolist') else value  # arrays, tensors and NumPy's numbers
    if isinstance(value, dict):
        return {name: _stored(item, f'{where}.{name}') for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(item, where) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    raise UserError(
        f'the result {where} is {type(value).__name__}; a metric must return numbers, arrays, lists and None'
    )


def requested(names: Sequence[str], has_test: bool, has_features: bool) -> Sequence[str]:
    """The names of the requested metrics; 'all' selects every metric that can be computed.

    Raises UserError like `require_known`.
    """
    if list(names) == ['all']:
        has = {'distances': True, 'features': has_features}
        return [name for name, metric in METRICS.items() if has[metric.needs] and (has_test or not metric.needs_test)]
    require_known(names, has_test)
    return names


def left_out(names: Sequence[str], computed: Sequence[str]) -> str:
    """A note on the metrics that 'all' leaves out and the arguments that they require; empty if there are none."""
    missing = [metric for metric in METRICS if list(names) == ['all'] and metric not in computed]
    with_test = ', '.join(name for name in missing if METRICS[name].needs_test)
    with_features = ', '.join(name for name in missing if METRICS[name].needs == 'features')
    parts = [f'{with_test} (add `test_set` or, with `features`, a third file)'] * bool(with_test)
    parts += [f'{with_features} (add `extractor` or `features`)'] * bool(with_features)
    return f'Metrics left out: {"; ".join(parts)}' if parts else ''


def require_known(names: Sequence[str], has_test: bool) -> None:
    """Raise UserError for an unknown metric, or if a metric needs a test set and there is none."""
    for name in names:
        if name not in METRICS:
            raise UserError(f'`metrics`: unknown metric {name!r}; choose from {", ".join(METRICS)}')
        if METRICS[name].needs_test and not has_test:
            raise UserError(
                f'`metrics`={name} requires a held-out set; give `test_set` or, with `features`, a third file'
            )
