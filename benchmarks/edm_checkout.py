"""Import networks and losses from a checkout of NVlabs/edm, whose packages have the same names as this toolkit's."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib.util import UserError

PACKAGES = ('training', 'torch_utils', 'dnnlib')


@contextmanager
def packages_of(checkout: Path) -> Iterator[None]:
    """Within the with block, `training`, `torch_utils` and `dnnlib` are imported from the checkout."""

    def taken() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split('.')[0] in PACKAGES}

    ours = taken()
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        taken()
        sys.modules.update(ours)


def edm_modules(checkout: Path) -> tuple[Any, Any]:
    """The modules `training.networks` and `training.loss` of a checkout. Raises UserError if they are missing."""
    if not (checkout / 'training' / 'networks.py').exists():
        raise UserError(f'`edm`={checkout}: not a checkout of NVlabs/edm (training/networks.py is missing)')
    with packages_of(checkout):
        return importlib.import_module('training.networks'), importlib.import_module('training.loss')
