"""How images are resized, cropped and normalized for a feature extractor."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dnnlib.util import UserError

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Converts uint8 images to a network's input.

    size: length of the shorter side after resizing; if None, images are not resized. crop: side length of the square
    cut from the centre; if None, images are not cropped. filter: bilinear or bicubic. antialias: whether to average
    pixels when reducing an image. mean, deviation: values for red, green and blue, on a scale where white is 1.
    """

    size: int | None = None
    filter: str = 'bilinear'
    antialias: bool = True
    crop: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [B, 3, H, W] to float32 [B, 3, h, w]."""
        x = images.float()
        if self.size is not None:
            scale = self.size / min(x.shape[2:])
            size = [round(edge * scale) for edge in x.shape[2:]]
            x = interpolate(x, size, mode=self.filter, align_corners=False, antialias=self.antialias)
        if self.crop is not None:
            top, left = ((edge - self.crop) // 2 for edge in x.shape[2:])
            if min(top, left) < 0:
                raise UserError(
                    f'`preprocess`: cannot crop {self.crop}x{self.crop} pixels from images of '
                    f'{x.shape[3]}x{x.shape[2]}; set size to at least {self.crop}'
                )
            x = x[:, :, top : top + self.crop, left : left + self.crop]
        mean, deviation = (
            torch.tensor(values, device=x.device)[:, None, None] for values in (self.mean, self.deviation)
        )
        return (x / 255 - mean) / deviation


PREPROCESSINGS = {
    # For the Inception network from 2015, whose own resizing does not antialias.
    'inception': Preprocessing(299, antialias=False, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)),
    'imagenet': Preprocessing(256, crop=224, mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION),
    'sscd': Preprocessing(288, mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION),
    'clip': Preprocessing(
        224,
        'bicubic',
        crop=224,
        mean=(0.48145466, 0.4578275, 0.40821073),
        deviation=(0.26862954, 0.26130258, 0.27577711),
    ),
    # For a network that takes uint8 images and does its own preprocessing.
    'none': None,
}


def read_preprocessing(text: str) -> Preprocessing | None:
    """Parse a name from `PREPROCESSINGS`, or a list of fields: 'size=224,filter=bicubic,mean=0.5/0.5/0.5'.

    Raises UserError for any other text.
    """
    if text in PREPROCESSINGS:
        return PREPROCESSINGS[text]
    known = [field.name for field in fields(Preprocessing)]
    values: dict[str, Any] = {}
    for part in text.split(','):
        name, _, value = part.partition('=')
        try:
            values[name] = _READERS[name](value)
        except (KeyError, ValueError):
            raise UserError(
                f'`preprocess`={text}: {part!r} is neither one of {", ".join(PREPROCESSINGS)} nor a field '
                f'({", ".join(known)}) with its value, as in '
                f'size=224,filter=bicubic,crop=224,mean=0.5/0.5/0.5,deviation=0.5/0.5/0.5'
            ) from None
    return Preprocessing(**values)


def _colours(text: str) -> tuple[float, ...]:
    values = tuple(map(float, text.split('/')))
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError
    return values


def _deviations(text: str) -> tuple[float, ...]:
    values = _colours(text)
    if min(values) <= 0:
        raise ValueError
    return values


def _edge(text: str) -> int:
    if not 1 <= int(text) <= 4096:
        raise ValueError
    return int(text)


_READERS = {
    'size': _edge,
    'crop': _edge,
    'filter': {'bilinear': 'bilinear', 'bicubic': 'bicubic'}.__getitem__,
    'antialias': {'yes': True, 'no': False}.__getitem__,
    'mean': _colours,
    'deviation': _deviations,
}
