import pytest
from torch import Tensor

from tests.training.closed_form.optimal_cases import WAYS, smooth_images
from training.closed_form import optimal
from training.closed_form.optimal import OptimalDenoiser


@pytest.fixture(scope='module')
def images() -> Tensor:
    return smooth_images(2300)


@pytest.fixture(params=WAYS)
def denoiser(images: Tensor, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OptimalDenoiser:
    monkeypatch.setattr(optimal, 'FLOAT64_PIXELS', WAYS[request.param])
    return OptimalDenoiser(images)


@pytest.fixture
def digits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the optimal denoiser treat small training sets like large ones (int8 digits instead of float64)."""
    monkeypatch.setattr(optimal, 'FLOAT64_PIXELS', 0)
