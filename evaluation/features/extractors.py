"""Feature extractors, which turn images into vectors. To add a kind, write a class and an entry in `EXTRACTORS`.

A TorchScript file is a program; `TorchScript` is the only extractor that runs code from a file.
"""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.util import UserError, file_sha256
from evaluation.features.preprocessing import PREPROCESSINGS, read_preprocessing
from torch_utils import distributed

Device = torch.device | str


class Extractor(ABC):
    """Computes a feature vector for each image, independently of other images in the batch.

    usage: how error messages describe the names that select this extractor.
    name: the name given by the user. weights_sha256: hash of the weights file, or of the tensors if there is no file.
    preprocess: the preprocessing given by the user; None if the extractor has its own preprocessing.
    """

    usage: str
    name: str
    weights_sha256: str | None = None
    preprocess: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the features except the images, as values that JSON can store."""
        own = {'preprocess': self.preprocess, 'weights_sha256': self.weights_sha256}
        return {'extractor': self.name} | {name: value for name, value in own.items() if value is not None}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings without the path of a weights file; see the function `identity`."""
        return identity(self.settings)

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Compute the features of images: uint8 [B, C, H, W] -> float32 [B, d] on the CPU.

        Raises UserError if the features are unusable.
        """


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """An extractor's settings. If they include the weights' hash, the name is left out, as it can contain a path."""
    return {name: value for name, value in settings.items() if name != 'extractor' or 'weights_sha256' not in settings}


class Pixels(Extractor):
    """The values of all pixels, in levels from 0 to 255."""

    usage = 'pixels'

    def __init__(self, argument: str, preprocess: str | None, device: Device):
        if argument or preprocess is not None:
            raise UserError('`extractor`=pixels has no settings; remove `preprocess` and any text after pixels')
        self.name = 'pixels'

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1).cpu().float()


class Network(Extractor):
    """A network for colour images. Grey images are repeated in three channels, and a note about this is printed."""

    device: Device
    _noted = False

    @abstractmethod
    def run(self, images: Tensor) -> Any:
        """Compute the features of RGB images. images: uint8 [B, 3, H, W] on the device."""

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1:
            if not self._noted:
                distributed.print0(f'Note: {self.name} needs colour images; grey images are repeated in 3 channels.')
            self._noted = True
            images = images.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            features = self.run(images.to(self.device))
        where = f'`extractor`={self.name}'
        if not isinstance(features, Tensor):
            raise UserError(f'{where} returned a {type(features).__name__} instead of a tensor of features')
        if features.ndim != 2:
            raise UserError(
                f'{where} returned shape {list(features.shape)} instead of [images, features]; add a pooling layer'
            )
        if len(features) != len(images):
            raise UserError(f'{where} returned {len(features)} rows for {len(images)} images')
        features = features.float().cpu()
        if not features.isfinite().all():
            raise UserError(f'{where} returned a value that is not finite; check `preprocess`')
        return features


class TorchScript(Network):
    """A network in a TorchScript file. The file's code is executed, so the file must be trusted."""

    usage = 'torchscript:FILE.pt'

    def __init__(self, argument: str, preprocess: str | None, device: Device):
        self.name, self.device = f'torchscript:{argument}', device
        where = f'`extractor`={self.name}'
        if argument.endswith('.pkl'):
            raise UserError(
                f"{where} is a pickle, which is refused; for the features of EDM's inception-2015-12-05.pkl use "
                f'torch-fidelity:inception-v3-compat, or the same network as TorchScript'
            )
        if preprocess is None:
            raise UserError(f'{where} requires `preprocess`: {"|".join(PREPROCESSINGS)}, or a list of fields')
        self.preprocess, self.prepare = preprocess, read_preprocessing(preprocess)
        self.weights_sha256 = file_sha256(argument)
        try:
            with warnings.catch_warnings(action='ignore'):
                self.network = torch.jit.load(argument, map_location=device).eval()
        except Exception as error:  # torch raises many kinds of exceptions
            raise UserError(
                f'{where} is not a TorchScript file; save a network with torch.jit.trace(…).save'
            ) from error

    def run(self, images: Tensor) -> Any:
        try:
            return self.network(images if self.prepare is None else self.prepare(images))
        except RuntimeError as error:
            reason = str(error).strip().split('\n')[-1]
            shape = list(images.shape)
            raise UserError(
                f'`extractor`={self.name} failed on images {shape}; check `preprocess` ({reason})'
            ) from error


# For each network, the layer whose features torch-fidelity uses for the Fréchet distance.
FIDELITY_LAYERS = {
    'inception-v3-compat': '2048',
    'dinov2-vit-b-14': 'dinov2',
    'clip-vit-b-32': 'clip',
    'vgg16': 'fc2_relu',
}


class TorchFidelity(Network):
    """A network from torch-fidelity. The network resizes images itself; its weights are downloaded or given."""

    usage = 'torch-fidelity:NAME[:WEIGHTS]'

    def __init__(self, argument: str, preprocess: str | None, device: Device):
        self.name, self.device = f'torch-fidelity:{argument}', device
        where = f'`extractor`={self.name}'
        kind, _, weights = argument.partition(':')
        if kind not in FIDELITY_LAYERS:
            raise UserError(f'{where}: unknown extractor {kind!r}; choose one of {", ".join(FIDELITY_LAYERS)}')
        if preprocess is not None:
            raise UserError(f'{where} has its own preprocessing; remove `preprocess`')
        if weights:
            self.weights_sha256 = file_sha256(weights)
            _require_tensors(weights, where)
        try:
            from torch_fidelity.utils import create_feature_extractor
        except (ImportError, RuntimeError) as error:  # RuntimeError if torchvision was built for another torch version
            raise UserError(f'{where} requires torch-fidelity: pip install torch-fidelity==0.4.0 ({error})') from error
        self.layers = [FIDELITY_LAYERS[kind]]
        try:
            network = create_feature_extractor(
                kind, self.layers, cuda=False, feature_extractor_weights_path=weights or None, verbose=False
            )
        except OSError as error:
            raise UserError(
                f'{where}: the weights cannot be downloaded ({error}); download them manually and give '
                f'torch-fidelity:{kind}:FILE'
            ) from error
        except (RuntimeError, KeyError, TypeError) as error:
            raise UserError(f'{where}: {weights} are not the weights of {kind}') from error
        self.weights_sha256 = self.weights_sha256 or _hash_of_tensors(network)
        self.network = network.to(device)

    def run(self, images: Tensor) -> Any:
        return self.network(images)[0]


def _require_tensors(path: str, where: str) -> None:
    """Raise UserError if loading a weights file could execute code."""
    try:
        torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many kinds of exceptions
        raise UserError(f'{where}: {path} is not a state dict of tensors saved with torch.save') from error


def _hash_of_tensors(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(name.encode() + values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# Keyed by the text before the first colon in an extractor's name.
EXTRACTORS: dict[str, Callable[[str, str | None, Device], Extractor]] = {
    'pixels': Pixels,
    'torchscript': TorchScript,
    'torch-fidelity': TorchFidelity,
}


def make_extractor(name: str, preprocess: str | None, device: Device) -> Extractor:
    """Make the extractor with a name such as 'pixels' or 'torchscript:FILE.pt'.

    preprocess: only for 'torchscript'; see `read_preprocessing`. Raises UserError for an unknown name or an unusable
    file.
    """
    kind, _, argument = name.partition(':')
    if kind not in EXTRACTORS:
        if Path(name).suffix == '.pkl':
            kind, argument = 'torchscript', name  # `TorchScript` raises an error about pickles
        else:
            known = ', '.join(getattr(make, 'usage', kind) for kind, make in EXTRACTORS.items())
            raise UserError(f'`extractor`={name} is not a known extractor; give one of {known}')
    return EXTRACTORS[kind](argument, preprocess, device)
