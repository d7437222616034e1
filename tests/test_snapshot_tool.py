import hashlib
import json
import os
import pickle
import re
from functools import partial

import pytest
import torch

from snapshot_tool import main
from tests.helpers import ROOT, failure_of, invoke, run_script
from tests.training.edm_pickles import Call, dumps, network
from tests.training.published import NETWORKS, Case
from training.snapshot import SnapshotInfo, load_network, read_info, save_network

run = partial(invoke, main)
failure = partial(failure_of, main)


@pytest.mark.parametrize('class_name', ['VPPrecond', 'VEPrecond', 'iDDPMPrecond', 'EDMPrecond'])
def test_weights_are_unchanged_after_converting_there_and_back(tmp_path, class_name):
    net, record = network(class_name)
    source, snapshot, plain = (tmp_path / name for name in ('network-snapshot-000012.pkl', 'a.safetensors', 'a.pt'))
    source.write_bytes(dumps({'ema': record}))
    assert run('convert', source, snapshot).exit_code == 0
    assert run('convert', snapshot, plain).exit_code == 0
    before = plain.read_bytes()
    assert f'{plain} already exists; add --overwrite to replace it' in failure('convert', snapshot, plain)
    assert plain.read_bytes() == before
    assert run('convert', snapshot, plain, '--overwrite').exit_code == 0
    assert read_info(snapshot) == read_info(source)
    weights = torch.load(plain, weights_only=True)
    for found in (load_network(snapshot).state_dict(), weights):
        assert found.keys() == net.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_network(snapshot)(x, 1.0), net(x, 1.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_exported_weights_have_the_names_and_shapes_of_edm(tmp_path, name):
    case = Case(name)
    expected = case.net.state_dict()
    source, plain = tmp_path / 'a.safetensors', tmp_path / 'a.pt'
    save_network(source, expected, SnapshotInfo(case.config, 1000, 'fp32', 'x', 'ab' * 32, 20, {}))
    assert run('convert', source, plain).exit_code == 0
    weights = torch.load(plain, weights_only=True)
    shapes = {key: list(tensor.shape) for key, tensor in weights.items()}
    assert shapes == {**case.facts['parameters'], **case.facts['buffers']}
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


def test_show_describes_the_contents_of_a_file(tmp_path):
    net, record = network()
    path = tmp_path / 'network-snapshot-000012.pkl'
    path.write_bytes(dumps({'ema': record, 'dataset_kwargs': {'path': '/data/cifar10.zip'}}))
    shown = dict(re.split(r':\s+', line, maxsplit=1) for line in run('show', path).stdout.splitlines())
    assert shown['File'] == f'{path.name}, EDM network pickle'
    assert shown['SHA-256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert shown['Architecture'] == 'VPPrecond with a SongUNet'
    assert json.loads(shown['Arguments']) == read_info(path).network.arguments
    assert shown['Parameters'] == f'{sum(parameter.numel() for parameter in net.parameters()):,}'
    assert (shown['Training'], shown['Training set'], shown['EMA']) == ('12 kimg', 'cifar10.zip', 'unknown')
    snapshot = tmp_path / 'a.safetensors'
    info = SnapshotInfo(read_info(path).network, 12000, 'bf16', 'digits', 'ab' * 32, 4000, {'mode': 'mode2'})
    save_network(snapshot, net.state_dict(), info)
    text = run('show', snapshot).stdout
    for expected in ('12 kimg, 3 epochs', f'digits, 4,000 images, SHA-256 {"ab" * 32}', 'bf16', '{"mode": "mode2"}'):
        assert expected in text


def test_failed_conversions_give_a_one_sentence_error_and_leave_no_files(tmp_path):
    victim, source, dest = tmp_path / 'victim', tmp_path / 'evil.pkl', tmp_path / 'a.safetensors'
    source.write_bytes(pickle.dumps({'ema': Call(os.system, f'touch {victim}')}))
    assert "asks for 'posix.system'" in failure('convert', source, dest)
    assert "asks for 'posix.system'" in failure('show', source)
    assert 'no such file' in failure('show', tmp_path / 'nothing.pkl')
    assert 'must end in .safetensors' in failure('convert', source, tmp_path / 'a.onnx')
    assert sorted(tmp_path.iterdir()) == [source]


def test_snapshot_tool_runs_as_a_script():
    result = run_script('snapshot_tool.py', 'show', 'nothing.pkl', check=False, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith('Error: nothing.pkl: no such file')
    assert 'Traceback' not in result.stderr
