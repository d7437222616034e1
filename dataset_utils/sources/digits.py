"""The built-in source: scikit-learn's 1,797 handwritten digits, real images that require no download."""

from collections.abc import Sequence

import numpy as np

from dataset_utils.sources.base import ArraySource, content_sha256


class DigitsSource(ArraySource):
    """8x8 grey digits in the order of `load_digits`; pixels are round(value * 255 / 16)."""

    def _open(self) -> None:
        from sklearn.datasets import load_digits  # this import takes a second, and only this source needs it

        digits = load_digits()
        self.images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., np.newaxis]
        self.labels = digits.target.tolist()
        self.class_names = [str(digit) for digit in range(10)]

    def sha256(self, indices: Sequence[int] | None = None) -> str:
        return content_sha256(self.images, self.labels)
