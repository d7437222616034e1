"""Read a pickle of plain values and uint8 arrays, such as CIFAR's batches, without running anything in it.

A pickle is a program that may call any function it names. Here the few names that numpy needs to rebuild an array stand
for harmless objects of this module, and every other name is refused. `RestrictedUnpickler` and the stand-ins serve
readers of other pickles too.
"""

import io
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# A reader makes at most this many steps; each may cost some 200 bytes of memory for one byte of the file.
_MAX_STEPS = 1_000_000
# Opcodes that name objects by number or by an outer program, or that call classes in other ways than REDUCE. No pickle
# of arrays or networks has them.
_REFUSED_OPCODES = (
    *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ),
    *(pickle.NEWOBJ_EX, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
_MAX_NAME = 100


class RefusedPickleError(ValueError):
    """The pickle is broken, or asks for more than its reader allows; the text says which."""


def load_pickle(data: bytes) -> Any:
    """Return the value of a pickle: plain values, uint8 arrays, or a dict of them.

    Strings that Python 2 wrote come as bytes. Raises RefusedPickleError. Nothing named in the pickle is imported.
    """
    return _finished(read_restricted(data, STAND_INS, encoding='bytes'))


def read_restricted(
    data: bytes, stand_ins: Mapping[tuple[str, str], Callable[[], Any]], encoding: str = 'ASCII'
) -> Any:
    """Return the value of a pickle in which only the names of `stand_ins` may be asked for.

    stand_ins: by module and name, what makes the object in a name's place; numpy._core goes by numpy.core.
    Raises RefusedPickleError, before anything that follows in the pickle is read.
    """
    try:
        return RestrictedUnpickler(data, stand_ins, encoding).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a broken pickle meets its reader with nearly any exception
        reason = ascii(str(error)[:_MAX_NAME])[1:-1] if str(error) else type(error).__name__
        raise RefusedPickleError(f'broken: {reason}') from error


# The reader in Python keeps its memo in a dict; the one in C allocates whatever index a hostile pickle puts there.
class RestrictedUnpickler(pickle._Unpickler):
    """Unpickler that gives stand-ins for the names it knows, and refuses other names, steps and keys."""

    stack: list[Any]
    read: Callable[[int], bytes]

    def __init__(self, data: bytes, stand_ins: Mapping[tuple[str, str], Callable[[], Any]], encoding: str):
        super().__init__(io.BytesIO(data), encoding=encoding)
        self.stand_ins = stand_ins
        self.steps_left = _MAX_STEPS

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self.stand_ins.get((module.replace('numpy._core', 'numpy.core'), name))
        if stand_in is None:
            raise RefusedPickleError(f'it asks for {f"{module}.{name}"[:_MAX_NAME]!a}')
        return stand_in()

    def take_step(self) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise RefusedPickleError(f'it takes more than {_MAX_STEPS} steps to read')

    def make_object(self) -> None:
        """NEWOBJ: call the stand-in as REDUCE does; it is no class, whose __new__ could be called."""
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments)

    def make_bytearray(self) -> None:
        """BYTEARRAY8: reserve no more memory than the file has bytes, whatever size it claims."""
        size = int.from_bytes(self.read(8), 'little')
        self.stack.append(bytearray(self.read(size)))


_Step = Callable[[Any], None]


def _guarded(step: _Step, first_key: int | None = None, stride: int = 1) -> _Step:
    """A step that is counted; the keys it is about to hash, from first_key of the stack on, must be plain.

    Hashing a deeply nested tuple would overflow the stack of the interpreter.
    """

    def run(reader: RestrictedUnpickler) -> None:
        reader.take_step()
        keys = reader.stack[first_key::stride] if first_key is not None else []
        if not all(key is None or isinstance(key, str | bytes | int | float) for key in keys):
            raise RefusedPickleError('it has a key that is neither text nor a number')
        step(reader)

    return run


def _refusing(opcode: bytes) -> _Step:
    def refuse(reader: RestrictedUnpickler) -> None:
        raise RefusedPickleError(f'it uses the opcode {opcode!a}')

    return refuse


def _guarded_dispatch() -> dict[int, _Step]:
    dispatch: dict[int, _Step] = {code: _guarded(step) for code, step in pickle._Unpickler.dispatch.items()}
    for opcode, first_key, stride in [
        *[(pickle.SETITEM, -2, 2), (pickle.SETITEMS, 0, 2), (pickle.DICT, 0, 2)],
        *[(pickle.ADDITEMS, 0, 1), (pickle.FROZENSET, 0, 1)],
    ]:
        dispatch[opcode[0]] = _guarded(pickle._Unpickler.dispatch[opcode[0]], first_key, stride)
    dispatch[pickle.NEWOBJ[0]] = _guarded(RestrictedUnpickler.make_object)
    dispatch[pickle.BYTEARRAY8[0]] = _guarded(RestrictedUnpickler.make_bytearray)
    dispatch.update({opcode[0]: _refusing(opcode) for opcode in _REFUSED_OPCODES})
    return dispatch


RestrictedUnpickler.dispatch = _guarded_dispatch()


class StandIn:
    """Takes a name's place. Empty slots, so that a pickle's BUILD can change nothing but through __setstate__."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickleError(f'it changes {type(self).__name__.strip("_")}')


class _NdarrayClass(StandIn):
    __slots__ = ()


class DtypeClass(StandIn):
    """Makes the number types of arrays: here uint8 alone, by its several names."""

    __slots__ = ()
    names: tuple[str, ...] = ('u1', 'uint8', '|u1')
    meaning = 'uint8'

    def __call__(self, name: Any, *flags: Any) -> 'Dtype':
        text = name.decode('ascii', 'replace') if isinstance(name, bytes) else name
        if text not in self.names:
            raise RefusedPickleError(f'it holds an array of {str(name)[:_MAX_NAME]!a}, not of {self.meaning}')
        return Dtype(np.dtype(text))


class Dtype(StandIn):
    """A number type; its byte order comes in a second step."""

    __slots__ = ('value',)

    def __init__(self, value: np.dtype):
        self.value = value

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class _Reconstruct(StandIn):
    __slots__ = ()

    def __call__(self, *placeholder: Any) -> 'Array':
        return Array()


class Array(StandIn):
    """An array that is made in two steps, as numpy pickles them; `value` is missing before the second."""

    __slots__ = ('value',)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, 'F' if is_fortran else 'C')


class _FromBuffer(StandIn):
    __slots__ = ()

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any) -> Array:
        array = Array()
        array.value = _array(data, dtype, shape, order)
        return array


class _Encode(StandIn):
    """How Python 3 writes bytes for Python 2 to read."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ('latin1', b'latin1'):
            raise RefusedPickleError('it encodes text in an unusual way')
        return text.encode('latin1')


STAND_INS: dict[tuple[str, str], Callable[[], Any]] = {
    ('numpy', 'ndarray'): _NdarrayClass,
    ('numpy', 'dtype'): DtypeClass,
    ('numpy.core.multiarray', '_reconstruct'): _Reconstruct,
    ('numpy.core.numeric', '_frombuffer'): _FromBuffer,
    ('_codecs', 'encode'): _Encode,
}


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    is_sound = isinstance(dtype, Dtype) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)
    if not is_sound or any(type(size) is not int or size < 0 for size in shape):
        raise RefusedPickleError('an array in it is malformed')
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise RefusedPickleError('an array in it does not fit its own shape')
    return np.frombuffer(data, dtype.value).reshape(shape, order='F' if order == 'F' else 'C')


def _finished(value: Any) -> Any:
    """Put arrays in their stand-ins' places."""
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, Array) else item for key, item in value.items()}
    return value.value if isinstance(value, Array) else value
