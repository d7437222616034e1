"""`load_pickle` and `read_restricted` read untrusted pickles without executing any code from them.

A pickle is a program that can call any function it names. Here a few names are replaced by harmless classes, and every
other name is refused. A child process first reads the pickle under memory and time limits, so that a pickle designed to
exhaust memory or crash Python affects only that process.
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
    """The pickle is corrupt, is too expensive to read, or uses something forbidden; the message gives the reason."""


def load_pickle(data: bytes) -> Any:
    """Return the value of a pickle that contains plain values, uint8 arrays, or a dict of these.

    Strings written by Python 2 are returned as bytes. Nothing that the pickle names is imported. Raises
    RefusedPickleError.
    """
    value = read_restricted(data, STAND_INS, encoding='bytes')
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, Array) else item for key, item in value.items()}
    return value.value if isinstance(value, Array) else value


def read_restricted(data: bytes, stand_ins: Mapping[tuple[str, str], type], encoding: str = 'ASCII') -> Any:
    """Return the value of a pickle that is allowed to use only the names in `stand_ins`.

    stand_ins: maps each allowed (module, name) to the class that stands in for it; write numpy._core as numpy.core.
    Raises RefusedPickleError.
    """
    _rehearse(data)
    try:
        return _Unpickler(data, stand_ins, encoding).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a corrupt pickle can raise nearly any exception
        raise RefusedPickleError(f'it is corrupt: {ascii(str(error)[:100])[1:-1] or type(error).__name__}') from error


def _rehearse(data: bytes) -> None:
    command = [sys.executable, '-I', '-S', str(Path(__file__).with_name('pickle_rehearsal.py'))]
    try:
        status = subprocess.run(command, input=data, capture_output=True, timeout=_MAX_SECONDS).returncode
    except subprocess.TimeoutExpired:
        status = 1
    if status:
        raise RefusedPickleError('reading it would take too much memory or time')


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
    """Base class of stand-ins. A pickle cannot set their attributes, except through __setstate__."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickleError(f'it sets the state of {type(self).__name__}')


class Dtype(StandIn):
    """Stands in for a NumPy dtype, whose name must be in `names`; `__setstate__` then sets the byte order."""

    __slots__ = ('value',)
    names: tuple[str, ...] = ('u1', 'uint8', '|u1')

    def __init__(self, name: Any, *flags: Any):
        text = name.decode('ascii', 'replace') if isinstance(name, bytes) else name
        if not isinstance(text, str) or text not in self.names:
            kind = shown(text) if isinstance(text, str) else type(text).__name__
            raise RefusedPickleError(f'it contains an array of dtype {kind}, which is not supported')
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class Array(StandIn):
    """Stands in for a NumPy array, which is unpickled in two steps; the second step, `__setstate__`, sets `value`."""

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
    """Stands in for `_codecs.encode`, which restores bytes that Python 3 pickled in a format for Python 2."""

    __slots__ = ()

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if not isinstance(text, str) or encoding not in ('latin1', b'latin1'):
            raise RefusedPickleError('it encodes a string in an unsupported way')
        return text.encode('latin1')


STAND_INS: dict[tuple[str, str], type] = {
    ('numpy', 'ndarray'): StandIn,
    ('numpy', 'dtype'): Dtype,
    ('numpy.core.multiarray', '_reconstruct'): Array,
    ('numpy.core.numeric', '_frombuffer'): _FromBuffer,
    ('_codecs', 'encode'): _Encode,
}


def are_sizes(numbers: Any) -> bool:
    """Whether a value is a plausible shape or tuple of strides."""
    is_sound = isinstance(numbers, tuple) and len(numbers) <= _MAX_DIMENSIONS
    return is_sound and all(type(number) is int and 0 <= number < _MAX_SIZE for number in numbers)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray) or not are_sizes(shape):
        raise RefusedPickleError('it contains a malformed array')
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise RefusedPickleError('it contains an array whose shape does not fit its data')
    return np.frombuffer(data, dtype.value).reshape(shape, order='F' if order == 'F' else 'C')
