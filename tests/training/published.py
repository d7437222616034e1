"""Reference networks in `tests/data`: outputs of EDM's published code, and network pickles that it wrote."""

import json
import lzma
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers import DATA
from training.preconditioning import Preconditioned
from training.snapshot import NetworkConfig, read_info

NETWORKS = sorted(path.stem for path in (DATA / 'networks').glob('*.json'))
PICKLES = sorted(path.name.removesuffix('.pkl.xz') for path in (DATA / 'edm_snapshots').glob('*.pkl.xz'))


def randomized(config: NetworkConfig, seed: int, noise_seed: int | None = None) -> Preconditioned:
    """A network initialized with `seed`; noise is added to all parameters, so that no layer has only zero weights."""
    torch.manual_seed(seed)
    net = config.build().eval()
    if noise_seed is not None:
        torch.manual_seed(noise_seed)
    with torch.no_grad():
        for _, parameter in edm_order(net):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return net


def edm_order(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters, ordered as in EDM's networks: the embedding's parameters come first."""
    return sorted(net.named_parameters(), key=lambda named: '.map_' not in named[0])


class Case:
    """A reference network with its weights, inputs and outputs."""

    def __init__(self, name: str):
        self.facts = json.loads((DATA / 'networks' / f'{name}.json').read_text())
        with np.load(DATA / 'networks' / f'{name}.npz') as data:
            self.data = dict(data)
        shape = {key: self.facts[key] for key in ('img_resolution', 'img_channels', 'label_dim')}
        self.config = NetworkConfig(self.facts['precond'], {**shape, **self.facts['model_kwargs']})
        self.net = randomized(self.config, self.facts['seed'], self.facts['noise_seed'])

    def tensor(self, name: str) -> Tensor | None:
        return torch.from_numpy(self.data[name]) if name in self.data else None

    def denoise(self, labels: Tensor | str | None = 'given') -> Tensor:
        labels = self.tensor('in.class_labels') if isinstance(labels, str) else labels
        extra = {'augment_labels': self.tensor('in.augment_labels')} if 'in.augment_labels' in self.data else {}
        with torch.no_grad():
            return self.net(self.tensor('in.x'), self.tensor('in.sigma'), labels, **extra)


def write_pickle(name: str, folder: Path) -> Path:
    """Write a network pickle exactly as EDM wrote it, and return its path."""
    path = folder / f'{name}.pkl'
    content = bytearray(lzma.decompress((DATA / 'edm_snapshots' / f'{name}.pkl.xz').read_bytes()))
    path.write_bytes(content)
    with np.load(DATA / 'edm_snapshots' / f'{name}.npz') as data:
        offsets, net = data['offsets'].tolist(), randomized(read_info(path).network, int(data['seed']))
    for offset, (_, parameter) in zip(offsets, edm_order(net), strict=True):
        values = parameter.detach().numpy().tobytes()
        content[offset : offset + len(values)] = values
    path.write_bytes(content)
    return path


def relative_error(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / expected.norm())
