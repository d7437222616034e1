"""Reads network pickles from NVlabs/edm, such as network-snapshot-002000.pkl, without running any code in them.

Such a pickle consists of records. Each record describes an object by its class's source code, the class name, the
constructor arguments and the object's state. The source code is neither compiled nor imported. `read_edm_pickle`
returns the class name, arguments and tensors of the outermost network; from these, `training.snapshot` builds a network
of this toolkit's class with the same name. `STAND_INS` lists every name that a pickle is allowed to use.
"""

import dataclasses
import inspect
import io
import math
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dnnlib.safe_pickle as safe_pickle
from dnnlib.safe_pickle import Array, Dtype, RefusedPickleError, StandIn, are_sizes, read_restricted
from dnnlib.util import UserError

# The first bytes of torch's legacy file format: pickle protocol 2, and a pickled magic number.
_STORAGE_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_STORAGE_DTYPES = {
    **{'torch FloatStorage': '<f4', 'torch DoubleStorage': '<f8', 'torch HalfStorage': '<f2', 'torch BoolStorage': '?'},
    **{'torch LongStorage': '<i8', 'torch IntStorage': '<i4', 'torch ByteStorage': 'u1'},
}
# Limits on what is read from a file, far above any network in use.
_MAX_MODULES = _MAX_TENSORS = 100_000
_MAX_DEPTH = 16
_MAX_ARGUMENT_VALUES = 10_000
_MAX_NAME = 200


@dataclasses.dataclass(frozen=True)
class EDMPickle:
    """The content of a network pickle.

    class_name: class of the outermost network. arguments, keywords: its constructor arguments, as plain values.
    dataset: name of the training set, or None. xflip: whether the network was also trained on mirrored images.
    """

    class_name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    tensors: dict[str, 'PickledTensor']
    dataset: str | None
    xflip: bool

    def bound_arguments(self, network_class: type) -> dict[str, Any]:
        """All arguments, keyed by their names in the class's signature. Raises ValueError if they do not fit it."""
        names = [name for name in inspect.signature(network_class).parameters if name != 'model_kwargs']
        positional = dict(zip(names, self.arguments, strict=False))
        twice = positional.keys() & self.keywords.keys()
        if twice or len(self.arguments) > len(names):
            raise ValueError(f'its arguments do not fit the constructor of {self.class_name}')
        return {**positional, **self.keywords}

    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers on the CPU, keyed by module name; no two tensors share memory.

        Raises RefusedPickleError if a tensor does not match the data stored for it.
        """
        return {name: tensor.load() for name, tensor in self.tensors.items()}


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, according to its extension. If the extension is unknown, the first bytes decide."""
    if path.suffix in ('.pkl', '.safetensors'):
        return path.suffix == '.pkl'
    with open(path, 'rb') as file:
        start = file.read(9)
    return start[:1] == b'\x80' and start[8:9] != b'{'  # safetensors: 8 bytes with the header size, then JSON


def read_edm_pickle(path: str | Path) -> EDMPickle:
    """Read an EDM network pickle: a dict with an 'ema' network, or the network itself.

    Raises UserError if the pickle is corrupt or uses anything that such a pickle does not need.
    """
    data = Path(path).read_bytes()
    try:
        return _parse(read_restricted(data, STAND_INS), len(data))
    except RefusedPickleError as error:
        raise UserError(
            f'{path} is not an EDM network pickle that can be read safely: {error}; nothing in it was executed'
        ) from error


def _parse(root: Any, num_bytes: int) -> EDMPickle:
    network = root.get('ema') if isinstance(root, dict) else root
    if not isinstance(network, Record):
        raise RefusedPickleError("it contains no network, neither by itself nor under the key 'ema' of a dict")
    state = _dict(network.meta.get('state'), 'state')
    arguments, keywords = state.get('_init_args', ()), _dict(state.get('_init_kwargs'), 'arguments')
    if not isinstance(arguments, tuple | list):
        raise RefusedPickleError("its network's arguments are malformed")
    tensors = _collect_tensors(network)
    if sum(len(tensor.storage.data) for tensor in tensors.values()) > num_bytes:
        raise RefusedPickleError('its tensors would take more memory than the file size')  # if they share storage
    return EDMPickle(
        class_name=network.class_name,
        arguments=tuple(_plain(value) for value in arguments),
        keywords={name: _plain(value) for name, value in keywords.items()},
        tensors=tensors,
        dataset=_dataset_name(root),
        xflip=_dataset_option(root, 'xflip') is True,
    )


def _dataset_option(root: Any, name: str) -> Any:
    keywords = root.get('dataset_kwargs') if isinstance(root, dict) else None
    return keywords.get(name) if isinstance(keywords, dict) else None


def _dataset_name(root: Any) -> str | None:
    path = _dataset_option(root, 'path')
    return path.replace('\\', '/').rstrip('/').rpartition('/')[2] if isinstance(path, str) else None


def _plain(value: Any, depth: int = 0) -> Any:
    """Convert a recorded argument to a number, a string, None, or a list of these; arrays and tuples become lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Array) and hasattr(value, 'value') and value.value.size <= _MAX_ARGUMENT_VALUES:
        return value.value.tolist()
    if isinstance(value, tuple | list) and depth == 0:
        return [_plain(item, depth + 1) for item in value]
    raise RefusedPickleError(f'an argument of its network is not a number, a string or a list ({_kind(value)})')


def _collect_tensors(network: 'Record') -> dict[str, 'PickledTensor']:
    """The parameters and buffers of a module and its submodules, keyed by their names in the state_dict."""
    tensors: dict[str, PickledTensor] = {}
    todo: list[tuple[str, int, Any]] = [('', 0, network)]
    modules = 0
    while todo:
        prefix, depth, module = todo.pop()
        modules += 1
        if modules > _MAX_MODULES or depth > _MAX_DEPTH:
            raise RefusedPickleError('it has too many modules, or they are nested too deeply')
        state = _module_state(module)
        skipped = state.get('_non_persistent_buffers_set')
        for kind in ('_parameters', '_buffers'):
            for name, tensor in _dict(state.get(kind), kind).items():
                if tensor is None or (isinstance(skipped, set) and name in skipped):
                    continue
                if len(tensors) == _MAX_TENSORS:
                    raise RefusedPickleError(f'it has more than {_MAX_TENSORS} tensors')
                if not isinstance(tensor, PickledTensor):
                    raise RefusedPickleError(f'{f"{prefix}{name}"[:100]!a} is not a tensor ({_kind(tensor)})')
                tensors[f'{prefix}{name}'] = tensor
        children = _dict(state.get('_modules'), '_modules').items()
        todo += [(f'{prefix}{name}.', depth + 1, child) for name, child in children if child is not None]
    return tensors


def _module_state(module: Any) -> dict[str, Any]:
    if isinstance(module, Record):
        return _dict(module.meta.get('state'), 'state')
    if isinstance(module, Container):
        return getattr(module, 'state', {})
    raise RefusedPickleError(f'its network contains an object that is not a network module ({_kind(module)})')


def _dict(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(_is_name(key) for key in value):
        raise RefusedPickleError(f'it contains an object with malformed data ({what})')
    return value


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isprintable() and len(key) <= _MAX_NAME


def _kind(value: Any) -> str:
    return type(value).__name__.strip('_')


class Record(StandIn):
    """A recorded EDM object: its class name, arguments and state. The recorded source code is not used."""

    __slots__ = ('class_name', 'meta')

    def __init__(self, meta: Any):
        if not isinstance(meta, dict) or meta.get('type') != 'class' or not isinstance(meta.get('class_name'), str):
            raise RefusedPickleError('it contains an object that is not an instance of a named class')
        self.meta, self.class_name = meta, meta['class_name']


class Container(StandIn):
    """A torch module that only contains other modules."""

    __slots__ = ('state',)

    def __setstate__(self, state: Any) -> None:
        self.state = _dict(state, 'state')


class _Dict(dict, StandIn):
    """Stands in for `OrderedDict` and for EDM's `EasyDict`."""

    __slots__ = ()


class _Names(set, StandIn):
    """Stands in for the sets of older pickle protocols; sets in a network's state contain only names."""

    __slots__ = ()

    def __init__(self, items: Any = ()):
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise RefusedPickleError('it contains a set whose items are not all strings')
        super().__init__(items)


class Storage(StandIn):
    """A tensor's data in torch's legacy file format; `load` parses it."""

    __slots__ = ('data',)

    def __init__(self, data: Any):
        if not isinstance(data, bytes):
            raise RefusedPickleError('it contains a tensor without data')
        self.data = data

    def load(self) -> torch.Tensor:
        """The values, [N]. Raises RefusedPickleError if the data is malformed.

        The magic number is followed by four pickles (version, system, storage, keys), the number of values, and the
        values. The pickles are parsed but never executed; the storage pickle names the dtype of the values.
        """
        if not self.data.startswith(_STORAGE_MAGIC):
            raise RefusedPickleError('it contains a tensor that is not in the format EDM writes')
        stream = io.BytesIO(self.data)
        stream.seek(len(_STORAGE_MAGIC))
        try:
            opcodes = [item for _ in range(4) for item in pickletools.genops(stream)]
        except Exception as error:  # corrupt pickles raise many kinds of exceptions
            raise RefusedPickleError(f'it contains a corrupt tensor ({ascii(str(error)[:100])[1:-1]})') from error
        names = [argument for opcode, argument, _ in opcodes if 'GLOBAL' in opcode.name or opcode.name == 'INST']
        if len(names) != 1 or names[0] not in _STORAGE_DTYPES:
            raise RefusedPickleError(f'it contains a tensor that is not numeric ({ascii(str(names)[:100])[1:-1]})')
        dtype, count = np.dtype(_STORAGE_DTYPES[names[0]]), int.from_bytes(stream.read(8), 'little')
        if count * dtype.itemsize != len(self.data) - stream.tell():
            raise RefusedPickleError(
                'it contains a corrupt tensor: the declared size does not match the amount of data'
            )
        return torch.from_numpy(np.frombuffer(self.data, dtype, offset=stream.tell()).copy())


class PickledTensor(StandIn):
    """A tensor whose shape is known but whose values have not been read yet."""

    __slots__ = ('offset', 'shape', 'storage', 'stride')

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any):
        are_sound = isinstance(storage, Storage) and are_sizes((offset,)) and are_sizes(shape) and are_sizes(stride)
        if not are_sound or len(shape) != len(stride):
            raise RefusedPickleError('it contains a tensor that is malformed or has an impossible shape')
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def load(self) -> torch.Tensor:
        """Read the values into new, contiguous memory. Raises RefusedPickleError if the shape does not fit the data."""
        values = self.storage.load()
        reach = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)) + 1
        if math.prod(self.shape) > len(values) or (0 not in self.shape and reach > len(values)):
            raise RefusedPickleError('it contains a tensor whose shape does not fit its data')
        return values.as_strided(self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


class _Parameter(StandIn):
    __slots__ = ()

    def __new__(cls, tensor: Any, *rest: Any) -> Any:
        if not isinstance(tensor, PickledTensor):
            raise RefusedPickleError(f'it contains a parameter that is not a tensor ({_kind(tensor)})')
        return tensor


class _NumberDtype(Dtype):
    """The NumPy dtypes that a pickle may name in the network's arguments."""

    __slots__ = ()
    names = ('b1', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')


class _Number(StandIn):
    """Stands in for a NumPy scalar and becomes a Python number."""

    __slots__ = ()

    def __new__(cls, dtype: Any, data: Any) -> Any:
        if not isinstance(dtype, Dtype) or not isinstance(data, bytes) or len(data) != dtype.value.itemsize:
            raise RefusedPickleError('it contains a malformed number')
        return np.frombuffer(data, dtype.value)[0].item()


STAND_INS: dict[tuple[str, str], type] = {
    **safe_pickle.STAND_INS,
    ('numpy', 'dtype'): _NumberDtype,
    ('numpy.core.multiarray', 'scalar'): _Number,
    ('torch_utils.persistence', '_reconstruct_persistent_obj'): Record,
    ('torch.storage', '_load_from_bytes'): Storage,
    ('torch._utils', '_rebuild_tensor_v2'): PickledTensor,
    ('torch._utils', '_rebuild_parameter'): _Parameter,
    **{('torch.nn.modules.container', name): Container for name in ('ModuleDict', 'ModuleList', 'Sequential')},
    ('collections', 'OrderedDict'): _Dict,
    ('dnnlib.util', 'EasyDict'): _Dict,
    ('builtins', 'set'): _Names,
    ('__builtin__', 'set'): _Names,
}
