"""Read the network pickles of NVlabs/edm, such as network-snapshot-002000.pkl, without running anything in them.

Such a pickle is made of records: source text, the name of a class in it, the arguments that an object was made with,
and its state. Nothing of the text is compiled or imported. `read_edm_pickle` takes from the outermost network its class
name, its arguments and its tensors; `training.snapshot` builds our class of that name with them. All that a pickle may
ask for is in `STAND_INS`.
"""

import dataclasses
import inspect
import io
import math
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dnnlib.safe_pickle as safe_pickle
from dnnlib.safe_pickle import Array, Dtype, DtypeClass, RefusedPickleError, StandIn, read_restricted
from dnnlib.util import UserError

# How torch's format from before its archives begins: protocol 2, and a pickled magic number.
_STORAGE_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
# Bounds on what is read of a file; far above any network in use.
_MAX_MODULES = 100_000
_MAX_DEPTH = 16
_MAX_DIMENSIONS = 8
_MAX_ARGUMENT_VALUES = 10_000
_MAX_NAME = 200
_MAX_HEADER_NUMBER = 4096  # the version number that precedes a tensor is 1001


@dataclasses.dataclass(frozen=True)
class EDMPickle:
    """What a network pickle says. dataset: the name of its training set, None where it has none.

    class_name: of the outermost network. arguments, keywords: what it was made with, plain values.
    """

    class_name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    tensors: dict[str, 'PickledTensor']
    dataset: str | None

    def bound_arguments(self, network_class: type) -> dict[str, Any]:
        """All arguments by the names that a class gives them. Raises ValueError where they do not fit it."""
        names = [name for name in inspect.signature(network_class).parameters if name != 'model_kwargs']
        positional = dict(zip(names, self.arguments, strict=False))
        twice = positional.keys() & self.keywords.keys()
        if twice or len(self.arguments) > len(names):
            raise ValueError(f'its arguments are not those of {self.class_name}')
        return {**positional, **self.keywords}

    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers under their module names, each in memory of its own, on the CPU.

        Raises RefusedPickleError where a tensor does not fit its bytes.
        """
        return {name: tensor.load() for name, tensor in self.tensors.items()}


def is_pickle(path: Path) -> bool:
    """Whether a file holds a pickle by its name, or by its first bytes where its name does not say it."""
    if path.suffix in ('.pkl', '.safetensors'):
        return path.suffix == '.pkl'
    with open(path, 'rb') as file:
        start = file.read(9)
    return start[:1] == b'\x80' and start[8:9] != b'{'  # a safetensors file has its size there, then JSON


def read_edm_pickle(path: str | Path) -> EDMPickle:
    """Read a network pickle of EDM: a dict with an 'ema' network, or the network itself.

    Raises UserError where it is broken, or asks for anything that such a pickle does not need.
    """
    data = Path(path).read_bytes()
    try:
        return _parse(read_restricted(data, STAND_INS), len(data))
    except RefusedPickleError as error:
        raise UserError(
            f'{path}: not a network pickle of EDM that can be read safely: {error}; nothing in it was executed'
        ) from error


def _parse(root: Any, num_bytes: int) -> EDMPickle:
    network = root.get('ema') if isinstance(root, dict) else root
    if not isinstance(network, Record):
        raise RefusedPickleError("it holds no network, neither as 'ema' of a dict nor by itself")
    state = _dict(network.meta.get('state'), 'state')
    arguments, keywords = state.get('_init_args', ()), _dict(state.get('_init_kwargs'), 'arguments')
    if not isinstance(arguments, tuple | list):
        raise RefusedPickleError('its arguments are malformed')
    tensors = _collect_tensors(network)
    if sum(len(tensor.storage.data) for tensor in tensors.values()) > num_bytes:
        raise RefusedPickleError('its tensors take more memory than the file has bytes')  # some share their bytes
    return EDMPickle(
        class_name=network.class_name,
        arguments=tuple(_plain(value) for value in arguments),
        keywords={name: _plain(value) for name, value in keywords.items()},
        tensors=tensors,
        dataset=_dataset_name(root),
    )


def _dataset_name(root: Any) -> str | None:
    keywords = root.get('dataset_kwargs') if isinstance(root, dict) else None
    path = keywords.get('path') if isinstance(keywords, dict) else None
    return path.replace('\\', '/').rstrip('/').rpartition('/')[2] if isinstance(path, str) else None


def _plain(value: Any, depth: int = 0) -> Any:
    """A recorded argument: a number, text, None, or a list of such; arrays and tuples become lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Array) and hasattr(value, 'value') and value.value.size <= _MAX_ARGUMENT_VALUES:
        return value.value.tolist()
    if isinstance(value, tuple | list) and depth == 0:
        return [_plain(item, depth + 1) for item in value]
    raise RefusedPickleError(f'an argument of its network is neither a number, a text nor a list ({_kind(value)})')


def _collect_tensors(network: 'Record') -> dict[str, 'PickledTensor']:
    """Parameters and buffers of a module and of all modules in it, by their names in its state_dict."""
    tensors: dict[str, PickledTensor] = {}
    todo: list[tuple[str, int, Any]] = [('', 0, network)]
    modules = 0
    while todo:
        prefix, depth, module = todo.pop()
        modules += 1
        if modules > _MAX_MODULES or depth > _MAX_DEPTH:
            raise RefusedPickleError('its modules are nested without end')
        state = _module_state(module)
        skipped = state.get('_non_persistent_buffers_set')
        for kind in ('_parameters', '_buffers'):
            for name, tensor in _dict(state.get(kind), kind).items():
                if tensor is None or (isinstance(skipped, set) and name in skipped):
                    continue
                if not isinstance(tensor, PickledTensor):
                    raise RefusedPickleError(f'{f"{prefix}{name}"[:100]!a} is no tensor ({_kind(tensor)})')
                tensors[f'{prefix}{name}'] = tensor
        children = _dict(state.get('_modules'), '_modules').items()
        todo += [(f'{prefix}{name}.', depth + 1, child) for name, child in children if child is not None]
    return tensors


def _module_state(module: Any) -> dict[str, Any]:
    if isinstance(module, Record):
        return _dict(module.meta.get('state'), 'state')
    if isinstance(module, Container):
        return module.state
    raise RefusedPickleError(f'a module of its network is no record ({_kind(module)})')


def _dict(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(_is_name(key) for key in value):
        raise RefusedPickleError(f'a record in it has a malformed {what}')
    return value


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isprintable() and len(key) <= _MAX_NAME


def _kind(value: Any) -> str:
    return type(value).__name__.strip('_')


class Record(StandIn):
    """An object of EDM's, as its class name, arguments and state. Its source text is never looked at."""

    __slots__ = ('class_name', 'meta')

    def __init__(self, meta: dict[str, Any]):
        self.meta, self.class_name = meta, meta['class_name']


class _MakeRecord(StandIn):
    __slots__ = ()

    def __call__(self, meta: Any) -> Record:
        if not isinstance(meta, dict) or meta.get('type') != 'class' or not isinstance(meta.get('class_name'), str):
            raise RefusedPickleError('a record in it is of no class')
        return Record(meta)


class Container(StandIn):
    """A module of torch's that only holds others."""

    __slots__ = ('state',)

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = _dict(state, 'state')


class _MakeContainer(StandIn):
    __slots__ = ()

    def __call__(self) -> Container:
        return Container()


class _MakeDict(StandIn):
    """Ordered and attribute dictionaries; their items come in a later step."""

    __slots__ = ()

    def __call__(self) -> dict:
        return {}


class _MakeSet(StandIn):
    """How older protocols write sets; those of a network's state hold names."""

    __slots__ = ()

    def __call__(self, items: Any = ()) -> set[str]:
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise RefusedPickleError('a set in it holds more than names')
        return set(items)


class Storage(StandIn):
    """The bytes of a tensor, in torch's own format of a file; not looked at before they are needed."""

    __slots__ = ('data',)

    def __init__(self, data: bytes):
        self.data = data

    def load(self) -> tuple[torch.UntypedStorage, torch.dtype]:
        """The bytes in memory and the type of their values, read by torch with weights_only.

        Raises RefusedPickleError.
        """
        try:
            _check_storage(self.data)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # torch warns of typed storages, which is what such files hold
                storage = torch.load(io.BytesIO(self.data), map_location='cpu', weights_only=True)
                return storage.untyped(), storage.dtype
        except RefusedPickleError:
            raise
        except Exception as error:  # torch.load has no error of its own for a broken file
            raise RefusedPickleError(f'a tensor in it is broken ({_first_line(error)})') from error


def _first_line(error: Exception) -> str:
    return ascii(str(error).split('\n')[0][:100])[1:-1] or type(error).__name__


def _check_storage(data: bytes) -> None:
    """Refuse what makes torch reserve memory beyond the bytes given: archives, and sizes larger than the bytes.

    After the magic number come four pickles: version, system, storage and keys.
    """
    if not data.startswith(_STORAGE_MAGIC):
        raise RefusedPickleError('a tensor in it is in another format than EDM writes')
    stream = io.BytesIO(data)
    stream.seek(len(_STORAGE_MAGIC))
    for _ in range(4):
        for _, argument, _ in pickletools.genops(stream):
            if isinstance(argument, int) and argument > max(len(data), _MAX_HEADER_NUMBER):
                raise RefusedPickleError('a tensor in it claims to be larger than it is')


class _MakeStorage(StandIn):
    __slots__ = ()

    def __call__(self, data: Any) -> Storage:
        if not isinstance(data, bytes):
            raise RefusedPickleError('a tensor in it has no bytes')
        return Storage(data)


class PickledTensor(StandIn):
    """A tensor whose shape is known and whose values are not yet read."""

    __slots__ = ('offset', 'shape', 'storage', 'stride')

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]):
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def load(self) -> torch.Tensor:
        """Its values, contiguous, in memory of their own. Raises RefusedPickleError where it does not fit its bytes."""
        values, dtype = self.storage.load()
        num_values = values.nbytes() // dtype.itemsize
        reach = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)) + 1
        if math.prod(self.shape) > num_values or (0 not in self.shape and reach > num_values):
            raise RefusedPickleError('a tensor in it does not fit its own shape')
        view = torch.empty(0, dtype=dtype).set_(values, self.offset, self.shape, self.stride)  # type: ignore[call-overload]
        return view.clone(memory_format=torch.contiguous_format)


class _MakeTensor(StandIn):
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> PickledTensor:
        is_sound = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)
        if not is_sound or len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
            raise RefusedPickleError('a tensor in it is malformed')
        if any(type(number) is not int or not 0 <= number < 2**48 for number in (offset, *shape, *stride)):
            raise RefusedPickleError('a tensor in it has an impossible shape')
        return PickledTensor(storage, offset, shape, stride)


class _MakeParameter(StandIn):
    __slots__ = ()

    def __call__(self, tensor: Any, *rest: Any) -> PickledTensor:
        if not isinstance(tensor, PickledTensor):
            raise RefusedPickleError(f'a parameter in it is no tensor ({_kind(tensor)})')
        return tensor


class _NumberClass(DtypeClass):
    """Makes the types of numbers that numpy may have left among the arguments."""

    __slots__ = ()
    names = ('b1', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')
    meaning = 'numbers'


class _MakeNumber(StandIn):
    """A number of numpy's, as Python's."""

    __slots__ = ()

    def __call__(self, dtype: Any, data: Any) -> int | float | bool:
        if not isinstance(dtype, Dtype) or not isinstance(data, bytes) or len(data) != dtype.value.itemsize:
            raise RefusedPickleError('a number in it is malformed')
        return np.frombuffer(data, dtype.value)[0].item()


STAND_INS: dict[tuple[str, str], Callable[[], Any]] = {
    **safe_pickle.STAND_INS,
    ('numpy', 'dtype'): _NumberClass,
    ('numpy.core.multiarray', 'scalar'): _MakeNumber,
    ('torch_utils.persistence', '_reconstruct_persistent_obj'): _MakeRecord,
    ('torch.storage', '_load_from_bytes'): _MakeStorage,
    ('torch._utils', '_rebuild_tensor_v2'): _MakeTensor,
    ('torch._utils', '_rebuild_parameter'): _MakeParameter,
    ('torch.nn.modules.container', 'ModuleDict'): _MakeContainer,
    ('torch.nn.modules.container', 'ModuleList'): _MakeContainer,
    ('torch.nn.modules.container', 'Sequential'): _MakeContainer,
    ('collections', 'OrderedDict'): _MakeDict,
    ('dnnlib.util', 'EasyDict'): _MakeDict,
    ('builtins', 'set'): _MakeSet,
    ('__builtin__', 'set'): _MakeSet,
}
