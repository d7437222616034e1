"""Pickles of this toolkit's networks in EDM's format, for tests of the pickle reader."""

import pickle
import sys
import types

import torch
from torch import nn

from training.snapshot import NetworkConfig, load_network, read_info

SMALL = {
    'img_resolution': 8, 'img_channels': 1, 'model_type': 'SongUNet', 'model_channels': 8, 'channel_mult': [1, 1],
    'num_blocks': 1, 'attn_resolutions': [4], 'label_dim': 3,
}  # fmt: skip


def reconstruct(meta):
    """Stand-in for the function that EDM's pickles call."""
    raise AssertionError('a pickle was executed')


reconstruct.__module__, reconstruct.__qualname__ = 'torch_utils.persistence', '_reconstruct_persistent_obj'


class Record:
    """An object that is pickled like one of EDM's persistent objects."""

    def __init__(self, class_name, state, arguments=(), keywords=None, source=''):
        self.meta = {
            'type': 'class',
            'version': 6,
            'module_src': source,
            'class_name': class_name,
            'state': {**state, '_init_args': arguments, '_init_kwargs': keywords or {}},
        }

    def __reduce__(self):
        return reconstruct, (self.meta,)


class Call:
    """An object that is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def record_of(module, class_name=None, arguments=(), keywords=None, source=''):
    """Convert a module and its submodules to Records; for a torch.nn.ModuleDict, only its items are converted."""
    children = {
        name: nn.ModuleDict() if isinstance(child, nn.ModuleDict) else record_of(child)
        for name, child in module._modules.items()
        if child is not None
    }
    for name, child in children.items():
        if isinstance(child, nn.ModuleDict):
            child.__dict__['_modules'] = {key: record_of(item) for key, item in module._modules[name].items()}
    state = {
        'training': False,
        '_parameters': dict(module._parameters),
        '_buffers': dict(module._buffers),
        '_non_persistent_buffers_set': set(module._non_persistent_buffers_set),
        '_modules': children,
    }
    return Record(class_name or type(module).__name__, state, arguments, keywords, source)


def network(class_name='VPPrecond', **arguments):
    """A network in evaluation mode, with random weights, and its Record."""
    torch.manual_seed(0)
    net = NetworkConfig(class_name, {**SMALL, **arguments}).build().eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    return net, record_of(net, keywords={**SMALL, **arguments})


def dumps(value, protocol=4):
    """Pickle a value, with a temporary stand-in for EDM's module `torch_utils.persistence`."""
    module = types.ModuleType('torch_utils.persistence')
    vars(module)['_reconstruct_persistent_obj'] = reconstruct
    sys.modules['torch_utils.persistence'] = module
    try:
        return pickle.dumps(value, protocol)
    finally:
        del sys.modules['torch_utils.persistence']


def pickle_of(snapshot):
    """Convert a snapshot of this toolkit into the bytes of a pickle in EDM's format."""
    info, net = read_info(snapshot).network, load_network(snapshot)
    return dumps({'ema': record_of(net, info.class_name, keywords=info.arguments), 'loss_fn': None})
