"""The code in docs/python.md: it runs unchanged, and each example is short."""

import dataclasses
import math
import os
import re
import signal
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.memorization import memorization_ratio
from evaluation.metrics import METRICS
from tests.helpers import ROOT
from training.dataset import checked_labels, pixels_of
from training.denoiser import as_denoiser
from training.optim import OptimalDenoiser
from training.sampler_options import SamplerOptions
from training.sampling import generate
from training.snapshot import list_snapshots, list_states, load_network
from training.trainer import Trainer
from training.training_options import PRESETS, TrainingOptions
from training.training_run import train

BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'python.md').read_text(encoding='utf-8'), re.DOTALL)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
TINY = TrainingOptions(**PRESETS['digits'] | {'num_channels': 4, 'batch': 6}, epochs=10)


def test_examples_in_python_md_are_short():
    assert len(BLOCKS) == 7
    for block in BLOCKS:
        assert len([line for line in block.splitlines() if line.strip()]) <= 10, block


def test_examples_in_python_md_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    page = types.ModuleType('page_of_python')
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.setattr('evaluation.metrics.METRICS', METRICS.copy())
    for block in BLOCKS:
        exec(block.replace('epochs=200', 'epochs=20'), page.__dict__)
    assert page.samples.shape == (32, 1, 8, 8)
    assert page.nearest.shape == (32, 1, 8, 8)
    assert page.noise.shape == (8, 1, 8, 8)
    assert str(page.emm) == '42 [30, 48]'
    assert len(repr(page.net)) < 100
    assert len(repr(page.result)) < 200
    assert not list(tmp_path.iterdir())


def test_training_on_arrays_gives_the_same_network_as_a_run_folder(tmp_path):
    labels = np.array([0, 1, 0, 1, 0, 1])
    net = train(IMAGES, labels, TINY)
    assert net.label_dim == 2
    assert not net.training
    again = train(torch.from_numpy(IMAGES), torch.from_numpy(labels), TINY, run_dir=tmp_path / 'run')
    saved = load_network(list_snapshots(tmp_path / 'run')[-1][1])
    for name, weights in net.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
        assert torch.equal(weights, saved.state_dict()[name])


def settings_of_torch():
    cudnn = torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, *deterministic


@pytest.mark.parametrize('in_folder', [False, True])
def test_training_leaves_the_callers_random_state_and_settings_alone(in_folder, tmp_path, monkeypatch):
    options = dataclasses.replace(TINY, deterministic=True, bench=False, precision='bf16')
    run_dirs = iter([tmp_path / 'a', tmp_path / 'b'] if in_folder else [None, None])
    torch.manual_seed(1)
    expected = torch.randn(3)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    before = settings_of_torch()
    torch.set_float32_matmul_precision('medium')
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        own = settings_of_torch()
        torch.manual_seed(1)
        train(IMAGES, options=options, run_dir=next(run_dirs))
        assert torch.equal(torch.randn(3), expected)
        assert settings_of_torch() == own
        torch.manual_seed(1)
        with pytest.raises(UserError, match='the loss or the weights have not been finite'):
            train(IMAGES, options=dataclasses.replace(options, lr=1e30), run_dir=next(run_dirs))
        assert torch.equal(torch.randn(3), expected)
        assert settings_of_torch() == own
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.use_deterministic_algorithms(False)


def test_training_in_another_thread_gives_the_same_network(tmp_path):
    expected = train(IMAGES, options=TINY).state_dict()
    with ThreadPoolExecutor(1) as pool:
        net = pool.submit(train, IMAGES, options=TINY, run_dir=tmp_path).result()
    assert all(torch.equal(weights, expected[name]) for name, weights in net.state_dict().items())


@pytest.mark.parametrize('options', [{'precision': 'fp16'}, {'fp16': True}])
def test_fp16_on_a_cpu_is_refused(options):
    with pytest.raises(UserError, match='`precision`=fp16 requires a GPU; on a CPU choose bf16'):
        train(IMAGES, options=dataclasses.replace(TINY, **options))


LABELS = np.array([0, 1, 0, 1, 0, 1])


def test_a_run_folder_is_not_used_twice(tmp_path):
    train(IMAGES, options=TINY, run_dir=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match='already contains a run; give `resume`=True or another folder'):
        train(IMAGES[::-1].copy(), options=TINY, run_dir=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def stopped(run_dir, number, monkeypatch):
    """Train in a folder, with a signal after three steps."""
    step = Trainer.step

    def interrupted(trainer):
        step(trainer)
        if trainer.steps == 3:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, 'step', interrupted)
        train(IMAGES, LABELS, TINY, run_dir=run_dir)


@pytest.mark.parametrize(('number', 'error'), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_stops_training_and_the_program_after_saving_the_state(number, error, tmp_path, monkeypatch):
    with pytest.raises(error):
        stopped(tmp_path, number, monkeypatch)
    assert len(list_states(tmp_path)) == 1


def test_a_resumed_run_ends_with_the_same_bytes_as_an_uninterrupted_one(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / 'stopped', signal.SIGINT, monkeypatch)
    steps: list[int] = []
    update = Trainer.update

    def counted(trainer):
        steps.append(trainer.steps)
        update(trainer)

    monkeypatch.setattr(Trainer, 'update', counted)
    for run_dir in (tmp_path / 'stopped', tmp_path / 'uninterrupted'):
        train(IMAGES, LABELS, TINY, run_dir=run_dir, resume=True)
    assert steps == [*range(3, 10), *range(10)]
    for name in ('network-snapshot-000000.060.safetensors', 'training_options.json'):
        assert (tmp_path / 'stopped' / name).read_bytes() == (tmp_path / 'uninterrupted' / name).read_bytes()
    train(IMAGES, LABELS, dataclasses.replace(TINY, epochs=12), run_dir=tmp_path / 'stopped', resume=True)
    assert steps[17:] == [10, 11]


def test_resuming_with_other_images_or_options_is_refused(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path, signal.SIGINT, monkeypatch)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = '`images` or `labels` differ from the training set that this run was started with'
    arguments: list[tuple[str, dict[str, Any]]] = [
        (other, {'images': IMAGES[::-1]}),
        (other, {'images': IMAGES[:4], 'labels': LABELS[:4]}),
        (other, {'labels': LABELS[::-1]}),
        ('`cond`=False differs from True, with which the run was started', {'labels': None}),
        ('`lr`=0.5 differs from 0.002, with which the run was', {'options': dataclasses.replace(TINY, lr=0.5)}),
    ]
    for message, changes in arguments:
        with pytest.raises(UserError, match=message):
            train(**{'images': IMAGES, 'labels': LABELS, 'options': TINY, **changes}, run_dir=tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(UserError, match='`resume` has no effect without `run_dir`'):
        train(IMAGES, LABELS, TINY, resume=True)
    list_states(tmp_path)[0][1].rename(tmp_path / 'network-snapshot-000000.018.safetensors')
    with pytest.raises(UserError, match=r'contains no training-state-\*\.pt to resume from; give another folder'):
        train(IMAGES, LABELS, TINY, run_dir=tmp_path, resume=True)


def test_a_run_of_train_py_is_resumed_by_train_py(tmp_path):
    train(IMAGES, options=TINY, run_dir=tmp_path)
    path = tmp_path / 'training_options.json'
    path.write_text(path.read_text().replace('"options": {', '"options": {"data": "digits",'))
    with pytest.raises(UserError, match=r'contains a run of train\.py; resume it with train\.py --resume='):
        train(IMAGES, options=TINY, run_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'preset': 'digit'}, "`options`: preset must be one of .*digits.*, not 'digit'"),
        ({'arch': 'unet'}, "`options`: arch must be one of ddpmpp, .*, not 'unet'"),
        ({'batch': 0}, '`options`: batch is out of range: 0'),
        ({'epochs': -1}, '`options`: epochs is out of range: -1'),
        ({'lr': '1e-3'}, "`options`: lr must be a number, not '1e-3'"),
        ({'cond': True}, '`options`: cond=True requires `labels`'),
        ({'snap': 50}, '`options`: snap has no effect without `run_dir`; remove it'),
        ({'test_data': 'x.zip'}, '`options`: test_data has no effect without `run_dir`; remove it'),
        ({'cache': False}, '`options`: cache has no effect for arrays; remove it'),
        ({'batch': 6.0}, '`options`: batch must be a whole number, not 6.0'),
    ],
)
def test_invalid_options_are_named_in_the_error(values, message):
    with pytest.raises(UserError, match=message):
        train(IMAGES, options=TrainingOptions(**values))
    wrong: Any = values
    with pytest.raises(UserError, match='`options` must be TrainingOptions, not dict'):
        train(IMAGES, options=wrong)


def test_labels_of_an_unconditional_network_are_refused():
    with pytest.raises(UserError, match='`options`: cond=False does not use `labels`; remove one of them'):
        train(IMAGES, np.zeros(6, int), TrainingOptions(preset='digits', cond=False))


def test_numbers_of_numpy_are_options():
    values: dict[str, Any] = {'lr': np.float64(2e-3), 'epochs': np.int64(10), 'attn_resolutions': np.array([4])}
    expected, found = train(IMAGES, options=TINY), train(IMAGES, options=dataclasses.replace(TINY, **values))
    assert all(torch.equal(weights, found.state_dict()[name]) for name, weights in expected.state_dict().items())
    values = {'num_steps': np.int64(5), 'rho': np.float32(7)}
    images = [generate(found, [0], options) for options in (SamplerOptions(num_steps=5), SamplerOptions(**values))]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ('images', 'labels', 'message'),
    [
        (IMAGES.astype(np.float32), None, r'`images` must be uint8 .*, not float32 \[6, 1, 8, 8\]'),
        ('digits', None, r'`images` must be an array of images, uint8 \[N, C, H, W\], not str'),
        (IMAGES[:, :, :4], None, '`images` must be square, not 8x4'),
        (IMAGES[:0], None, r'with N >= 1 .*, not uint8 \[0, 1, 8, 8\]'),
        (IMAGES, np.zeros(5, int), r'`labels` must be one integer for each of the 6 images, not int64 \[5\]'),
        (IMAGES, np.linspace(0, 1, 6), r'`labels` must be one integer .*, not float64 \[6\]'),
        (IMAGES, np.eye(6, 2), r'`labels` must be one integer .*, not float64 \[6, 2\]'),
        (IMAGES, np.full(6, -1), '`labels` contains the label -1'),
        (IMAGES, TINY, '`labels` must be one integer for each of the 6 images, not TrainingOptions'),
        (IMAGES, list('012345'), r'`labels` must be one integer for each of the 6 images, not str32 \[6\]'),
        (IMAGES, [None] * 6, r'`labels` must be one integer for each of the 6 images, not object \[6\]'),
        (IMAGES, [[0], [1, 2]], r'`labels` must be one integer for each of the 6 images, not object \[2\]'),
        (IMAGES.astype(object), None, r'`images` must be uint8 .*, not object \[6, 1, 8, 8\]'),
    ],
)
def test_invalid_arrays_are_named_in_the_error(images, labels, message):
    with pytest.raises(UserError, match=message):
        train(images, labels, TINY)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'seeds': 32}, '`seeds`=32 is not a sequence'),
        ({'seeds': '0-31'}, "`seeds`='0-31' is not a sequence"),
        ({'seeds': []}, r'`seeds`=\[\] is not a sequence of at least one integer'),
        ({'seeds': np.int64(32)}, '`seeds`=.*32.* is not a sequence'),
        ({'seeds': [0.5, 1]}, r'`seeds`=\[0.5, 1\] is not a sequence of at least one integer'),
        ({'seeds': ['1']}, r"`seeds`=\['1'\] is not a sequence of at least one integer"),
        ({'seeds': {0, 1}}, r'`seeds`=\{0, 1\} is not a sequence'),
        ({'seeds': [-1]}, '`seeds`: -1 is not an integer from 0'),
        ({'seeds': [0], 'class_index': -1}, '`class_index`=-1: the denoiser has 2 classes, 0 to 1'),
        ({'seeds': [0], 'class_index': 2}, '`class_index`=2: the denoiser has 2 classes, 0 to 1'),
        ({'seeds': [0, 1], 'class_index': [0, 2]}, '`class_index`=2: the denoiser has 2 classes, 0 to 1'),
        ({'seeds': [0, 1], 'class_index': [0, 1, 1]}, r'`class_index`=\[0, 1, 1\] must be one class, or .* 2 seeds'),
        ({'seeds': [0], 'class_index': '1'}, "`class_index`='1' must be one class"),
        ({'seeds': [0], 'class_index': 0.5}, '`class_index`=0.5 must be one class'),
        ({'seeds': [0], 'net': 'snapshot.safetensors'}, '`net` must be a denoiser, not str; read a snapshot'),
        ({'seeds': [0], 'net': torch.nn.Identity()}, '`net` must be a denoiser, not Identity; .*as_denoiser'),
        ({'seeds': [0], 'classes': [-1]}, r'`classes`=\[-1\]: give at least one class from 0 to 1'),
        ({'seeds': [0], 'classes': [2]}, r'`classes`=\[2\]: give at least one class from 0 to 1'),
        ({'seeds': [0], 'classes': []}, r'`classes`=\[\]: give at least one class from 0 to 1'),
        ({'seeds': [0], 'classes': {0: 0}}, 'the number of images in each class must be at least 1'),
        ({'seeds': [0], 'sampler': SamplerOptions(num_steps=1)}, '`sampler`: num_steps is out of range: 1'),
        ({'seeds': [0], 'sampler': {'num_steps': 18}}, '`sampler` must be SamplerOptions, not dict'),
        ({'seeds': [0], 'batch_size': 0}, '`batch_size`=0 must be at least 1'),
        ({'seeds': [0], 'device': 'gpu'}, '`device`=gpu: no such device'),
    ],
)
def test_invalid_seeds_and_classes_are_named_in_the_error(arguments, message):
    denoiser = as_denoiser(lambda x, sigma, class_labels: x, img_channels=1, img_resolution=4, label_dim=2)
    with pytest.raises(UserError, match=message):
        generate(**{'net': denoiser, **arguments})


def test_classes_of_an_unconditional_denoiser_are_refused():
    denoiser = as_denoiser(lambda x, sigma: x, img_channels=1, img_resolution=4)
    with pytest.raises(UserError, match='`classes`: the denoiser is unconditional'):
        generate(denoiser, seeds=[0], classes=[0])


def classes_as_pixels():
    """A denoiser with three classes whose images show their class: 128, 255 and 0."""
    levels = torch.tensor([0.0, 1.0, -1.0])
    return as_denoiser(lambda x, sigma, labels: levels[labels][:, None, None, None].expand_as(x), 1, 4, label_dim=3)


@pytest.mark.parametrize('classes', [[1], (1,), np.array([1]), torch.tensor([1]), {1: 3}])
def test_classes_are_drawn_from_those_given(classes):
    assert generate(classes_as_pixels(), seeds=[0, 1], classes=classes).unique().tolist() == [255]


@pytest.mark.parametrize('kind', [list, tuple, np.array, torch.tensor])
def test_each_image_can_have_its_own_class(kind):
    images = generate(classes_as_pixels(), [5, 5, 6, 7, 8], class_index=kind([2, 0, 1, 1, 2]), batch_size=2)
    assert images[:, 0, 0, 0].tolist() == [0, 128, 255, 255, 0]


@pytest.mark.parametrize('seeds', [(i for i in range(3)), np.arange(3), torch.arange(3), [np.int64(0), 1, 2]])
def test_seeds_can_be_any_ordered_integers(seeds):
    net = as_denoiser(lambda x, sigma: x / (1 + sigma[:, None, None, None] ** 2), img_channels=1, img_resolution=4)
    assert torch.equal(generate(net, seeds), generate(net, range(3)))


def test_closed_forms_draw_only_classes_with_training_images():
    optimum = OptimalDenoiser(IMAGES, np.array([1, 3, 1, 3, 1, 3]))
    assert torch.equal(generate(optimum, range(8)), generate(optimum, range(8), classes=[1, 3]))
    with pytest.raises(
        UserError, match='`class_index`=0: no training image has this class; give one with training images, such as 1'
    ):
        generate(optimum, range(8), class_index=0)


def test_a_module_is_sampled_without_dropout():
    class Dropped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Dropout(0.5), torch.nn.Dropout(0.5).eval()

        def forward(self, x, sigma):
            return self.second(self.first(x))

    module, plain = Dropped(), as_denoiser(lambda x, sigma: x, img_channels=1, img_resolution=4)
    assert torch.equal(generate(as_denoiser(module, 1, 4), range(2)), generate(plain, range(2)))
    assert [part.training for part in module.modules()] == [True, True, False]


@pytest.mark.parametrize(('low', 'high'), [(5, 1), (1, 1), (-1, 1), (math.nan, 1)])
def test_a_denoiser_without_noise_levels_is_refused(low, high):
    with pytest.raises(UserError, match=f'`sigma_min`={low} must be at least 0 and below `sigma_max`=1'):
        as_denoiser(lambda x, sigma: x, 1, 4, low, high)


def test_only_classes_with_training_images_are_drawn(tmp_path):
    labels, seeds, sampler = np.array([0, 2, 0, 2, 4, 4]), range(16), SamplerOptions(num_steps=2)
    nets = [train(IMAGES, labels, TINY), train(IMAGES, labels, TINY, run_dir=tmp_path), load_network(tmp_path)]
    for net in nets:
        expected = generate(net, seeds, sampler, classes=[0, 2, 4])
        assert torch.equal(generate(net, seeds, sampler), expected)
        assert not torch.equal(generate(net, seeds, sampler, classes=range(5)), expected)
        with pytest.raises(UserError, match=r'`class_index`=1: no training image has this class; .* such as 0'):
            generate(net, [0], class_index=1)
        assert generate(net, [0], classes=[1]).shape == (1, 1, 8, 8)


def test_mirrored_views_of_arrays_are_accepted():
    assert memorization_ratio(IMAGES[..., ::-1], IMAGES[..., ::-1].copy()).num_memorized == len(IMAGES)


@pytest.mark.parametrize(
    'labels', [np.arange(6, dtype=np.uint16), np.arange(6, dtype='>u8'), np.arange(5, -1, -1)[::-1],
               [0, 1, 2, 3, 4, 5], torch.arange(6).to(torch.uint16)],
)  # fmt: skip
def test_labels_are_any_integers(labels):
    found = checked_labels(labels, 6)
    assert found is not None
    assert (found.dtype, found.tolist()) == (torch.int64, [0, 1, 2, 3, 4, 5])


@pytest.mark.filterwarnings('error')
def test_images_in_a_memory_map_are_accepted(tmp_path):
    np.save(tmp_path / 'images.npy', IMAGES)
    mapped = np.load(tmp_path / 'images.npy', mmap_mode='r')
    assert torch.equal(pixels_of(mapped, 'images'), torch.from_numpy(IMAGES))


def test_training_on_a_missing_device_is_refused():
    with pytest.raises(UserError, match='`device`=gpu: no such device'):
        train(IMAGES, options=TINY, device='gpu')


def test_a_function_that_returns_another_shape_is_refused():
    wrong: Any = lambda x, sigma: [x]  # noqa: E731
    denoiser = as_denoiser(lambda x, sigma: x[:, :1], img_channels=3, img_resolution=4)
    with pytest.raises(UserError, match=r'the shape of x, \[2, 3, 4, 4\], not \[2, 1, 4, 4\]'):
        generate(denoiser, seeds=[0, 1])
    with pytest.raises(UserError, match=r'the shape of x, \[1, 3, 4, 4\], not list'):
        generate(as_denoiser(wrong, img_channels=3, img_resolution=4), seeds=[0])


def test_a_function_can_be_used_as_a_denoiser():
    seen = []

    def function(x, sigma, class_labels):
        seen.append((x.dtype, sigma.shape, class_labels.tolist()))
        return torch.full_like(x, 0.5)

    denoiser = as_denoiser(function, img_channels=1, img_resolution=4, label_dim=3)
    images = generate(denoiser, seeds=[0, 1], class_index=2)
    assert torch.equal(images, torch.full((2, 1, 4, 4), 191, dtype=torch.uint8))  # 0.5 * 127.5 + 128, truncated
    assert set(map(str, seen)) == {str((torch.float32, torch.Size([2]), [2, 2]))}
    one_hot = torch.eye(3)[[2, 2]]
    denoiser(torch.zeros(2, 1, 4, 4), 1.0, one_hot)
    assert seen[-1][2] == [2, 2]
