import builtins
import collections
import io
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.helpers import DATA
from tests.training.edm_pickles import SMALL, Call, Record, dumps, network, record_of
from tests.training.published import PICKLES, write_pickle
from training.snapshot import NetworkConfig, list_snapshots, load_network, read_info


def write(folder, value, protocol=4, name='network-snapshot-000012.pkl'):
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else dumps(value, protocol))
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        load_network(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert '\n' not in message
    assert len(message) < len(str(path)) + 400
    return message


@pytest.mark.parametrize('name', PICKLES)
def test_pickles_in_edms_format_give_edms_outputs(name, tmp_path):
    net = load_network(write_pickle(name, tmp_path))
    with np.load(DATA / 'edm_snapshots' / f'{name}.npz') as data:
        values = {key: torch.from_numpy(data[key]) for key in ('x', 'sigma', 'denoised', 'class_labels') if key in data}
    denoised = net(values['x'], values['sigma'], values.get('class_labels'))
    assert (denoised - values['denoised']).norm() < 1e-4 * values['denoised'].norm()
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_pickle_without_a_file_extension_is_recognized_by_its_content(tmp_path):
    named, path = write_pickle(PICKLES[0], tmp_path), tmp_path / 'weights'
    shutil.copyfile(named, path)
    expected, loaded = load_network(named).state_dict(), load_network(path).state_dict()
    assert all(torch.equal(expected[name], loaded[name]) for name in expected)


NCSNPP = {
    'embedding_type': 'fourier',
    'encoder_type': 'residual',
    'channel_mult_noise': 2,
    'resample_filter': [1, 3, 3, 1],
}
ADM = {'model_type': 'DhariwalUNet', 'model_channels': 64, 'augment_dim': 9}


@pytest.mark.parametrize('class_name', ['VPPrecond', 'VEPrecond', 'iDDPMPrecond', 'EDMPrecond'])
@pytest.mark.parametrize('arguments', [{}, NCSNPP, ADM], ids=['ddpmpp', 'ncsnpp', 'adm'])
@pytest.mark.parametrize('is_bare', [False, True])
def test_networks_of_every_class_are_read_from_pickles(tmp_path, class_name, arguments, is_bare):
    net, record = network(class_name, **arguments)
    others = {
        'loss_fn': Record('EDMLoss', {'P_mean': -1.2}),
        'augment_pipe': None,
        'dataset_kwargs': {'path': 'a/b.zip', 'xflip': True},
    }
    path = write(tmp_path, record if is_bare else {'ema': record, **others})
    loaded = load_network(path)
    assert type(loaded) is type(net)
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0]), torch.tensor([2, 0])
    torch.testing.assert_close(loaded(x, sigma, labels), net(x, sigma, labels), rtol=1e-5, atol=1e-5)
    info = read_info(path)
    assert (info.images, info.kimg, info.epochs(), info.epochs(4000)) == (12000, 12, None, 3)
    assert (info.dataset, info.xflip) == ((None, False) if is_bare else ('b.zip', True))


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_every_pickle_protocol_and_numpy_version_is_read(tmp_path, protocol):
    net, _ = network()
    keywords = {**SMALL, 'img_resolution': np.int64(8), 'dropout': np.float32(0.25), 'channel_mult': np.array([1, 1]),
                'attn_resolutions': (4,)}  # fmt: skip
    data = dumps({'ema': record_of(net, keywords=keywords)}, protocol)
    assert b'numpy._core' in data
    if protocol < 4:  # protocols 2 and 3 do not store the lengths of names
        data = data.replace(b'numpy._core', b'numpy.core')
    path = write(tmp_path, data)
    assert read_info(path).network.arguments == {**SMALL, 'dropout': 0.25}
    expected, loaded = net.state_dict(), load_network(path).state_dict()
    assert all(torch.equal(expected[name], loaded[name]) for name in expected)


def test_positional_arguments_are_matched_to_the_constructors_parameters(tmp_path):
    net, _ = network()
    rest = {name: value for name, value in SMALL.items() if name not in ('img_resolution', 'img_channels', 'label_dim')}
    path = write(tmp_path, record_of(net, arguments=(8, 1, 3), keywords=rest))
    assert read_info(path).network.arguments == SMALL
    assert load_network(path).label_dim == 3
    assert 'arguments do not fit the constructor' in refusal(
        write(tmp_path, record_of(net, arguments=(8, 1, 3), keywords=SMALL))
    )
    assert 'arguments do not fit the constructor' in refusal(write(tmp_path, record_of(net, arguments=(8,) * 30)))


def test_skip_connections_are_read_and_default_to_enabled(tmp_path):
    masked, record = network(skip_connections=[1, 0, 1, 1])
    net, plain = network()
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    loaded = load_network(write(tmp_path, record))
    torch.testing.assert_close(loaded(x, sigma), masked(x, sigma), rtol=1e-5, atol=1e-5)
    full = load_network(write(tmp_path, plain))
    torch.testing.assert_close(full(x, sigma), net(x, sigma), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(full(x, sigma), loaded(x, sigma), rtol=1e-3)


def test_a_half_precision_network_computes_in_float32_on_the_cpu(tmp_path):
    _net, record = network(use_fp16=True)
    path = write(tmp_path, record)
    loaded = load_network(path)
    assert read_info(path).precision == 'fp16'
    assert loaded.compute_dtype == torch.float16
    x = torch.randn(2, 1, 8, 8)
    plain = load_network(path, precision='fp32')
    torch.testing.assert_close(loaded(x, 1.0), plain(x, 1.0), rtol=0, atol=0)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def test_the_source_code_in_a_pickle_is_not_run(tmp_path):
    victim = tmp_path / 'victim'
    net, _ = network()
    source = f'open({str(victim)!r}, "w").close()\nclass VPPrecond: pass\n'
    load_network(write(tmp_path, record_of(net, keywords=SMALL, source=source)))
    assert not victim.exists()


def test_snapshots_take_precedence_over_pickles_of_the_same_kimg(tmp_path):
    for name in ('network-snapshot-000010.pkl', 'network-snapshot-000002.safetensors', 'network-snapshot-000002.pkl',
                 'training-state-000003.pt', 'network-snapshot-final.pkl'):  # fmt: skip
        (tmp_path / name).touch()
    names = [(kimg, path.name) for kimg, path in list_snapshots(tmp_path)]
    assert names == [(2, 'network-snapshot-000002.safetensors'), (10, 'network-snapshot-000010.pkl')]


class Chain:
    """Pickled as getattr(getattr(value, name), name)…, which could bypass a list of allowed names."""

    def __init__(self, value, *names):
        self.value, self.names = value, names

    def __reduce__(self):
        inner = Chain(self.value, *self.names[:-1]) if len(self.names) > 1 else self.value
        return getattr, (inner, self.names[-1])


BY_HAND = 'pathlib.Path.touch'  # a dotted name, which pickle.dumps never writes
PAYLOADS = {
    'os.system': lambda victim: Call(os.system, f'touch {victim}'),
    'builtins.eval': lambda victim: Call(eval, f'open({str(victim)!r}, "w")'),
    'builtins.exec': lambda victim: Call(exec, f'open({str(victim)!r}, "w")'),
    'builtins.open': lambda victim: Call(open, str(victim), 'w'),
    'subprocess.Popen': lambda victim: Call(subprocess.Popen, ['touch', str(victim)]),
    'builtins.getattr': lambda victim: Chain(collections.OrderedDict, '__init__', '__globals__'),
    'builtins.__import__': lambda victim: Call(builtins.__import__, 'os'),
    'torch.load': lambda victim: Call(torch.load, str(victim)),
    'numpy.load': lambda victim: Call(np.load, str(victim)),
    'shutil.copyfile': lambda victim: Call(shutil.copyfile, __file__, str(victim)),
    BY_HAND: None,
    'torch.storage.UntypedStorage': lambda victim: Call(torch.UntypedStorage, 10**9),
}
SPELLED_OTHERWISE = {'os.system': 'posix.system', 'builtins.open': 'io.open', 'torch.load': 'torch.serialization.load'}


def payload(name, victim):
    if name == BY_HAND:
        text = str(victim).encode()
        return (
            b'\x80\x04\x8c\x07pathlib\x8c\x0aPath.touch\x93\x8c\x07pathlib\x8c\x04Path\x93\x8c'
            + bytes([len(text)]) + text + b'\x85R\x85R.'
        )  # fmt: skip
    return PAYLOADS[name](victim)


PLACES = [(name, 'alone') for name in PAYLOADS] + [
    (name, place) for name in PAYLOADS for place in ('before', 'inside', 'after') if name != BY_HAND
]


@pytest.mark.parametrize(('name', 'place'), PLACES)
def test_the_call_in_a_hostile_pickle_is_named_in_the_error_and_not_made(tmp_path, name, place):
    victim = tmp_path / 'victim'
    value = payload(name, victim)
    _, record = network()
    if place == 'before':
        value = {'a': value, 'ema': record}
    elif place == 'after':
        value = {'ema': record, 'z': value}
    elif place == 'inside':
        record.meta['state']['_init_kwargs']['dropout'] = value
        value = {'ema': record}
    message = refusal(write(tmp_path, value))
    assert any(spelling in message for spelling in (name, SPELLED_OTHERWISE.get(name, name), 'numpy')), message
    assert 'nothing in it was executed' in message
    assert not victim.exists()


def test_the_hostile_payloads_do_their_damage_in_the_standard_pickle_module(tmp_path):
    for name in (
        'os.system',
        'builtins.eval',
        'builtins.exec',
        'builtins.open',
        'shutil.copyfile',
        'pathlib.Path.touch',
    ):
        victim = tmp_path / name
        value = payload(name, victim)
        pickle.loads(value if isinstance(value, bytes) else dumps(value))
        assert victim.exists(), name


def test_tensor_data_that_hide_a_payload_are_refused(tmp_path):
    victim = tmp_path / 'victim'
    magic = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
    evil = pickle.dumps(Call(os.system, f'touch {victim}'), 2)
    for data in (evil, magic + evil, magic + b'\x80\x02M\xe9\x03.' + b'\x80\x02}.' + evil + b'\x80\x02].'):
        message = refusal(write(tmp_path, {'ema': with_storage(data)}))
        assert 'tensor' in message
    assert not victim.exists()


def with_storage(data, shape=(24,)):
    """The Record of a network in which one tensor has the given bytes and shape."""
    _, record = network()
    arguments: tuple = (Call(torch.storage._load_from_bytes, data), 0, shape, (1,), False, collections.OrderedDict())
    model = record.meta['state']['_modules']['model']
    linear = model.meta['state']['_modules']['map_layer0']
    linear.meta['state']['_parameters']['bias'] = Call(torch._utils._rebuild_tensor_v2, *arguments)
    return record


def legacy_bytes(storage):
    stream = io.BytesIO()
    torch.save(storage, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def test_tensor_data_that_are_an_archive_or_another_object_are_refused(tmp_path):
    stream = io.BytesIO()
    torch.save(torch.zeros(24), stream)
    assert 'not in the format EDM writes' in refusal(write(tmp_path, with_storage(stream.getvalue())))
    assert 'it contains a tensor that is not numeric' in refusal(write(tmp_path, with_storage(legacy_bytes({'a': 1}))))
    data = legacy_bytes(torch.zeros(24)._typed_storage())
    assert 'it contains a corrupt tensor' in refusal(write(tmp_path, with_storage(data[:-5])))
    assert 'it contains a corrupt tensor' in refusal(write(tmp_path, with_storage(data[:100])))


def test_a_tensor_with_a_shape_larger_than_its_data_takes_no_memory(tmp_path):
    good = legacy_bytes(torch.zeros(24)._typed_storage())
    size = struct.pack('<q', 24)
    assert good.count(size) == 1
    claimed = good.replace(size, struct.pack('<q', 2**40))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 'the declared size does not match the amount of data' in refusal(write(tmp_path, with_storage(claimed)))
    huge = with_storage(legacy_bytes(torch.zeros(24)._typed_storage()), shape=(2**40,))
    assert 'whose shape does not fit its data' in refusal(write(tmp_path, huge))
    assert 'impossible shape' in refusal(write(tmp_path, with_storage(b'', shape=(2**60,))))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_many_tensors_that_share_the_same_data_are_refused(tmp_path):
    net, _ = network()
    shared = torch.zeros(64 * 64)
    for parameter in net.parameters():
        parameter.data = shared[: parameter.numel()].view(parameter.shape)
    data = legacy_bytes(shared._typed_storage())
    record = record_of(net, keywords=SMALL)
    share_storages(record, Call(torch.storage._load_from_bytes, data))
    assert 'more memory than the file' in refusal(write(tmp_path, record))


def share_storages(record, storage):
    state = record.meta['state'] if isinstance(record, Record) else record.__dict__
    for name, parameter in state['_parameters'].items():
        if parameter is not None:
            shape, stride = tuple(parameter.shape), parameter.stride()
            hooks: dict = collections.OrderedDict()
            state['_parameters'][name] = Call(torch._utils._rebuild_tensor_v2, storage, 0, shape, stride, False, hooks)
    for child in state['_modules'].values():
        share_storages(child, storage)


BOMBS = {
    'deep lists': b'\x80\x04' + b']' * 900_000 + b'a' * 899_999 + b'.',
    'deep tuples': b'\x80\x04N' + b'\x85' * 900_000 + b'.',
    'a deep tuple as a key': b'\x80\x04}N' + b'\x85' * 900_000 + b'Ns.',
    'a deep tuple in a set': b'\x80\x04\x8f(N' + b'\x85' * 900_000 + b'\x90.',
    'many objects': b'\x80\x04(' + b'\x8f' * 2_000_000 + b'l.',
    'a huge memo': b'\x80\x04Nr\xff\xff\xff\xff.',
    'huge bytes': b'\x80\x04\x8e' + b'\xff' * 7 + b'\x0f.',
    'a huge bytearray': b'\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.',
    'a huge frame': b'\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f.',
    'a persistent name': b'\x80\x04\x8c\x01xQ.',
    'an extension': b'\x80\x04\x82\x01.',
    'old instances': b'(ios\nsystem\n.',
    'nothing': b'',
    'text': b'hello, this is not a pickle at all',
    'an early end': b'\x80\x04.',
}


@pytest.mark.parametrize('name', BOMBS)
def test_a_pickle_bomb_is_refused(tmp_path, name):
    assert 'that can be read safely' in refusal(write(tmp_path, BOMBS[name]))


def test_modules_that_share_their_tensors_are_refused(tmp_path):
    _, record = network()
    shared = Record(
        'Linear', {'_parameters': {str(i): torch.ones(1) for i in range(400)}, '_buffers': {}, '_modules': {}}
    )
    record.meta['state']['_modules'].update({f'm{i}': shared for i in range(400)})
    assert 'more than 100000 tensors' in refusal(write(tmp_path, record))


def test_endlessly_nested_modules_are_refused(tmp_path):
    _, record = network()
    modules = record.meta['state']['_modules']
    modules['again'] = endless = torch.nn.ModuleDict()
    endless.__dict__['_modules'] = {'again': endless}
    assert 'nested too deeply' in refusal(write(tmp_path, record))
    doubled = Record('Linear', {'_parameters': {}, '_buffers': {}, '_modules': {}})
    for _ in range(30):  # 2^30 modules in total
        doubled = Record('Linear', {'_parameters': {}, '_buffers': {}, '_modules': {'a': doubled, 'b': doubled}})
    modules['again'] = doubled
    assert 'nested too deeply' in refusal(write(tmp_path, record))


def changed(**values):
    def change(record):
        record.meta['state']['_init_kwargs'].update(values)

    return change


def drop_parameter(record):
    record.meta['state']['_modules']['model'].meta['state']['_parameters'] = {}
    del record.meta['state']['_modules']['model'].meta['state']['_modules']['map_layer0']


def add_parameter(record):
    record.meta['state']['_parameters']['surprise'] = torch.ones(1)


def halve(record):
    layer = record.meta['state']['_modules']['model'].meta['state']['_modules']['map_layer0']
    parameters = layer.meta['state']['_parameters']
    parameters['weight'] = parameters['weight'].half()


def set_meta(name, value):
    return lambda record: record.meta.__setitem__(name, value)


def set_state(name, value):
    return lambda record: record.meta['state'].__setitem__(name, value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            set_meta('class_name', 'UnknownPrecond'),
            "class_name must be one of VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond, not 'UnknownPrecond'",
        ),
        (set_meta('class_name', 7), 'it contains an object that is not an instance of a named class'),
        (set_meta('type', 'function'), 'it contains an object that is not an instance of a named class'),
        (set_meta('state', None), 'malformed data (state)'),
        (set_state('_parameters', 5), 'malformed data (_parameters)'),
        (set_state('_parameters', {'a': 5}), "'a' is not a tensor (int)"),
        (set_state('_modules', {'model': 5}), 'its network contains an object that is not a network module (int)'),
        (set_state('_modules', {'a\x1b[31m': 5}), 'malformed data (_modules)'),
        (set_state('_init_args', 5), 'arguments are malformed'),
        (set_state('_init_kwargs', None), 'malformed data (arguments)'),
        (changed(dropout={}), 'an argument of its network is not a number, a string or a list (dict)'),
        (changed(channel_mult=[[[1]]]), 'not a number, a string or a list (list)'),
        (changed(surprise=1), 'cannot be built|must be a number'),
        (changed(model_type='EfficientNet'), 'model_type must be one of'),
        (changed(img_resolution='8'), "img_resolution must be a whole number of at least 1, not '8'"),
        (changed(model_channels=16), 'do not fit the network'),
        (changed(model_channels=10**30), 'cannot be built|must be a number'),
        (changed(label_dim=10**12), 'do not fit the network|cannot be built|must be a number'),
        (changed(num_blocks=10**9), 'num_blocks must be at most 256'),
        (changed(channel_mult=[1] * 1000), 'channel_mult must be at most 12 values'),
        (changed(channel_mult=5), 'cannot be built|must be a number'),
        (changed(skip_connections=[1, 0]), '4 skip connections'),
        (drop_parameter, 'lacks model.map_layer0.bias'),
        (add_parameter, 'has surprise, which the network does not'),
        (halve, 'float16'),
    ],
)
def test_a_pickled_network_with_invalid_contents_is_refused(tmp_path, change, message):
    _, record = network()
    change(record)
    found = refusal(write(tmp_path, {'ema': record}))
    assert any(part in found for part in message.split('|')), found


@pytest.mark.parametrize('value', [{}, {'ema': None}, {'G_ema': 1}, 5, [], None, {'ema': {'a': 1}}])
def test_a_pickle_without_a_network_is_refused(tmp_path, value):
    assert 'it contains no network' in refusal(write(tmp_path, value))


def test_a_truncated_pickle_is_refused(tmp_path):
    _, record = network()
    data = dumps({'ema': record})
    for kept in [1, 2, 11, 50, 1000, len(data) // 2, len(data) - 1]:
        assert 'corrupt' in refusal(write(tmp_path, data[:kept])), kept


def test_a_damaged_pickle_gives_a_clear_error_or_a_network(tmp_path):
    """Randomly changed bytes cause no other exception than UserError."""
    _, record = network()
    data, numbers = dumps({'ema': record}), random.Random(0)
    messages = []
    for _ in range(80):
        damaged = bytearray(data)
        for _ in range(numbers.randint(1, 8)):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        try:
            load_network(write(tmp_path, bytes(damaged)))
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.isprintable() for message in messages)


def test_a_network_without_preconditioning_is_refused(tmp_path):
    net = NetworkConfig('VPPrecond', SMALL).build()
    keywords = {'img_resolution': 8, 'in_channels': 1, 'out_channels': 1}
    assert "not 'SongUNet'" in refusal(write(tmp_path, record_of(net.model, keywords=keywords)))
