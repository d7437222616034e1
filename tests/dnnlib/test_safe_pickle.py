import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from dnnlib.safe_pickle import Dtype, RefusedPickleError, load_pickle


@pytest.mark.parametrize('protocol', range(6))
def test_arrays_of_every_protocol_are_read(protocol):
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    value = load_pickle(pickle.dumps({'data': rows, 'labels': [1, 2, 3], 'name': 'x'}, protocol))
    key = {name if isinstance(name, str) else name.decode(): item for name, item in value.items()}
    assert np.array_equal(key['data'], rows)
    assert key['labels'] == [1, 2, 3]


@pytest.mark.parametrize('protocol', range(6))
def test_arrays_in_column_order_keep_their_values(protocol):
    rows = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(load_pickle(pickle.dumps({'data': rows}, protocol))['data'], rows)


def test_a_pickle_of_python_2_and_old_numpy_is_read():
    # Protocol 2 as written by Python 2, with byte strings (opcode U) and NumPy's old module names.
    data = (
        b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
        b'(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
        b'\x89U\x02ABtbu.'
    )
    value = load_pickle(data)
    assert np.array_equal(value[b'data'], [[65, 66]])


class _Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_calls_a_function_is_refused_and_not_executed(tmp_path):
    victim = tmp_path / 'victim'
    data = pickle.dumps({'data': _Payload(os.system, f'touch {victim}')})
    pickle.loads(data)
    assert victim.exists(), 'the payload has no effect in the pickle module'
    victim.unlink()
    with pytest.raises(RefusedPickleError, match=r'system'):
        load_pickle(data)
    assert not victim.exists()


@pytest.mark.parametrize(
    'value',
    [
        _Payload(eval, '1+1'),
        _Payload(np.load, 'x.npy'),
        _Payload(getattr, 'text', 'format'),
        OrderedDict(a=1),
        np.float64(1),
        np.zeros(3, np.float32),
        np.array([None, 1], dtype=object),
    ],
    ids=['eval', 'np.load', 'getattr', 'OrderedDict', 'scalar', 'float32', 'object'],
)
@pytest.mark.parametrize('protocol', [2, 5])
def test_everything_except_plain_values_and_byte_arrays_is_refused(value, protocol):
    with pytest.raises(RefusedPickleError):
        load_pickle(pickle.dumps({'data': value}, protocol))


def test_dotted_names_inside_an_allowed_module_are_refused():
    # Protocol 4 resolves dotted names, so _reconstruct.__globals__ would give access to any object.
    data = b'\x80\x04\x8c\x15numpy.core.multiarray\x8c\x18_reconstruct.__globals__\x93.'
    with pytest.raises(RefusedPickleError, match=r'__globals__'):
        load_pickle(data)


def test_setting_the_state_of_an_allowed_name_is_refused():
    data = b'\x80\x02cnumpy\ndtype\nN}U\x08__call__K\x01s\x86b.'
    with pytest.raises(RefusedPickleError, match='corrupt'):
        load_pickle(data)
    with pytest.raises(RefusedPickleError, match='sets the state of StandIn'):
        load_pickle(data.replace(b'dtype\n', b'ndarray\n)R'))
    assert '__call__' not in vars(Dtype)


def test_a_valid_pickle_stays_within_the_limits_of_the_child_process():
    rows = np.zeros((10_000, 3072), np.uint8)
    assert load_pickle(pickle.dumps({'data': rows}, 4))['data'].shape == rows.shape


def test_an_array_with_a_shape_larger_than_its_data_is_refused():
    good = pickle.dumps(np.zeros(4, np.uint8), 2)
    with pytest.raises(RefusedPickleError, match=r'fit'):
        load_pickle(good.replace(b'K\x04\x85', b'K\x05\x85'))


@pytest.mark.parametrize('data', [b'', b'\x80', b'hello', b'\x80\x02}(', b'\x80\x63.', b'P1\n.', b'\x80\x02\x82\x01.'])
def test_damaged_pickles_are_refused(data):
    with pytest.raises(RefusedPickleError):
        load_pickle(data)


# numpy.dtype of a nested tuple with 2^60 leaves: each of 60 tuples contains the previous one twice.
NESTED = b'\x80\x04cnumpy\ndtype\nN' + b'2\x86' * 60 + b'\x85R.'


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'\x80\x04}N' + b'\x85' * 900_000 + b'Ns.', 'too much memory or time'),  # hashing overflows the C stack
        (b'\x80\x04(' + b'\x8f' * 2_000_000 + b'l.', 'too much memory or time'),  # takes 200 bytes of memory per byte
        (b'\x80\x02K\x01r\xff\xff\xff\xff.', 'too much memory or time'),  # would need a memo of 64 GB
        (b'\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.', 'corrupt|too much'),  # announces a bytearray of 1 TB
        (b'\x80\x04\x8c\x01xQ.', 'corrupt'),
        (NESTED, 'it contains an array of dtype tuple'),
    ],
    ids=['key', 'objects', 'memo', 'bytearray', 'persistent name', 'dtype'],
)
def test_pickle_bombs_are_refused(data, message):
    with pytest.raises(RefusedPickleError, match=message):
        load_pickle(data)
