"""Read a pickle of plain values and uint8 arrays, such as CIFAR's batches, without running anything in it.

A pickle is a program that may call any function it names. Here the few names that numpy needs to rebuild an array stand
for harmless objects of this module, and every other name is refused.
"""

import io
import math
import pickle
from typing import Any

import numpy as np


class RefusedPickleError(ValueError):
    """The pickle is broken, or asks for more than plain values and uint8 arrays; the text says which."""


def load_pickle(data: bytes) -> Any:
    """Return the value of a pickle: plain values, uint8 arrays, or a dict of them.

    Strings that Python 2 wrote come as bytes. Raises RefusedPickleError. Nothing named in the pickle is imported.
    """
    try:
        return _finished(_Unpickler(io.BytesIO(data), encoding='bytes').load())
    except RefusedPickleError:
        raise
    except Exception as error:  # a broken pickle meets its reader with nearly any exception
        raise RefusedPickleError(f'broken: {error or type(error).__name__}') from error


# The reader in Python keeps its memo in a dict; the one in C allocates whatever index a hostile pickle puts there.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = STAND_INS.get((module.replace('numpy._core', 'numpy.core'), name))
        if stand_in is None:
            raise RefusedPickleError(f'it asks for {f"{module}.{name}"!a}')
        return stand_in()


class _StandIn:
    """Takes a name's place. Empty slots, so that a pickle's BUILD can change nothing but through __setstate__."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickleError(f'it changes {type(self).__name__.strip("_")}')


class _NdarrayClass(_StandIn):
    __slots__ = ()


class _DtypeClass(_StandIn):
    __slots__ = ()

    def __call__(self, name: Any, *flags: Any) -> '_Dtype':
        if name not in ('u1', b'u1', 'uint8', b'uint8', '|u1'):
            raise RefusedPickleError(f'it holds an array of {name!a}, not of uint8')
        return _Dtype()


class _Dtype(_StandIn):
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Reconstruct(_StandIn):
    __slots__ = ()

    def __call__(self, *placeholder: Any) -> '_Array':
        return _Array()


class _Array(_StandIn):
    """An array of uint8 that is made in two steps, as numpy pickles them."""

    __slots__ = ('value',)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _uint8_array(data, dtype, shape, 'F' if is_fortran else 'C')


class _FromBuffer(_StandIn):
    __slots__ = ()

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        return _uint8_array(data, dtype, shape, order)


class _Encode(_StandIn):
    """How Python 3 writes bytes for Python 2 to read."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ('latin1', b'latin1'):
            raise RefusedPickleError('it encodes text in an unusual way')
        return text.encode('latin1')


STAND_INS = {
    ('numpy', 'ndarray'): _NdarrayClass,
    ('numpy', 'dtype'): _DtypeClass,
    ('numpy.core.multiarray', '_reconstruct'): _Reconstruct,
    ('numpy.core.numeric', '_frombuffer'): _FromBuffer,
    ('_codecs', 'encode'): _Encode,
}


def _uint8_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    is_sound = isinstance(dtype, _Dtype) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)
    if not is_sound or any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) != len(data):
        raise RefusedPickleError('an array in it does not fit its own shape')
    return np.frombuffer(data, np.uint8).reshape(shape, order='F' if order == 'F' else 'C')


def _finished(value: Any) -> Any:
    """Put arrays in their stand-ins' places."""
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
    return value.value if isinstance(value, _Array) else value
