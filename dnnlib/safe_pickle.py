"""Read untrusted pickles without running any code in them: `load_pickle` and `read_restricted`.

A pickle is a program that may call any function it names. Here a few names are replaced by harmless classes of this
module, and every other name is refused. A child process reads the pickle first, under limits of memory and time, so a
pickle designed to exhaust them or to crash Python cannot do so here.
"""

import io
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.typed import shown

_MAX_DIMENSIONS, _MAX_SIZE = 8, 2**48
_MAX_SECONDS = 600


class RefusedPickleError(ValueError):
    """The pickle is broken, or requests more than its reader allows; the text names the cause."""


def load_pickle(data: bytes) -> Any:
    """Return the value of a pickle: plain values, uint8 arrays, or a dict of them.

    Strings written by Python 2 are returned as bytes. Nothing named in it is imported. Raises RefusedPickleError.
    """
    value = read_restricted(data, STAND_INS, encoding='bytes')
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, Array) else item for key, item in value.items()}
    return value.value if isinstance(value, Array) else value


def read_restricted(data: bytes, stand_ins: Mapping[tuple[str, str], type], encoding: str = 'ASCII') -> Any:
    """Return the value of a pickle that may name only the keys of `stand_ins`.

    stand_ins: classes by the module and name that they stand for; numpy._core is called numpy.core.
    Raises RefusedPickleError.
    """
    _rehearse(data)
    try:
        return _Unpickler(data, stand_ins, encoding).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a broken pickle can raise nearly any exception
        raise RefusedPickleError(f'broken: {ascii(str(error)[:100])[1:-1] or type(error).__name__}') from error


def _rehearse(data: bytes) -> None:
    command = [sys.executable, '-I', '-S', str(Path(__file__).with_name('pickle_rehearsal.py'))]
    try:
        status = subprocess.run(command, input=data, capture_output=True, timeout=_MAX_SECONDS).returncode
    except subprocess.TimeoutExpired:
        status = 1
    if status:
        raise RefusedPickleError('reading it takes too much memory or time')


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, stand_ins: Mapping[tuple[str, str], type], encoding: str):
        super().__init__(io.BytesIO(data), encoding=encoding)
        self.stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> type:
        stand_in = self.stand_ins.get((module.replace('numpy._core', 'numpy.core'), name))
        if stand_in is None:
            raise RefusedPickleError(f'it asks for {shown(f"{module}.{name}")}')
        return stand_in


class StandIn:
    """Replaces a name. A pickle cannot set its attributes, and changes it only through __setstate__."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickleError(f'it changes {type(self).__name__}')


class Dtype(StandIn):
    """The type of numbers, which must be uint8 under one of its names; the byte order follows in a second step."""

    __slots__ = ('value',)
    names: tuple[str, ...] = ('u1', 'uint8', '|u1')

    def __init__(self, name: Any, *flags: Any):
        text = name.decode('ascii', 'replace') if isinstance(name, bytes) else name
        if not isinstance(text, str) or text not in self.names:
            kind = shown(text) if isinstance(text, str) else type(text).__name__
            raise RefusedPickleError(f'it holds an array of {kind}, which is not supported')
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class Array(StandIn):
    """An array, which numpy pickles in two steps; `value` is missing before the second."""

    __slots__ = ('value',)

    def __init__(self, *placeholder: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, 'F' if is_fortran else 'C')


class _FromBuffer(StandIn):
    __slots__ = ()

    def __new__(cls, data: Any, dtype: Any, shape: Any, order: Any) -> Any:
        array = Array()
        array.value = _array(data, dtype, shape, order)
        return array


class _Encode(StandIn):
    """Bytes as Python 3 pickles them for Python 2."""

    __slots__ = ()

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if not isinstance(text, str) or encoding not in ('latin1', b'latin1'):
            raise RefusedPickleError('it encodes text in an unusual way')
        return text.encode('latin1')


STAND_INS: dict[tuple[str, str], type] = {
    ('numpy', 'ndarray'): StandIn,
    ('numpy', 'dtype'): Dtype,
    ('numpy.core.multiarray', '_reconstruct'): Array,
    ('numpy.core.numeric', '_frombuffer'): _FromBuffer,
    ('_codecs', 'encode'): _Encode,
}


def are_sizes(numbers: Any) -> bool:
    """Whether a value can be the shape or the strides of an array."""
    is_sound = isinstance(numbers, tuple) and len(numbers) <= _MAX_DIMENSIONS
    return is_sound and all(type(number) is int and 0 <= number < _MAX_SIZE for number in numbers)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray) or not are_sizes(shape):
        raise RefusedPickleError('an array in it is malformed')
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise RefusedPickleError('an array in it does not fit its own shape')
    return np.frombuffer(data, dtype.value).reshape(shape, order='F' if order == 'F' else 'C')
