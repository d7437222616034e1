"""Results on a GPU, compared with the CPU or with naive float64. These tests are skipped without a GPU.

With TEST_DEVICE=cpu, the tests that do not require a GPU run on the CPU, to check the tests themselves.
"""

import os
from typing import Any
from unittest.mock import patch

import pytest
import torch

import diagnose
import fid
import generate
import generate_optim
import mem_ratio
import train
from benchmarks.optimal_denoiser import PlainDenoiser
from evaluation.neighbors import BLOCK, nearest_neighbors
from tests.helpers import TINY, failure_of, invoke
from tests.training.published import NETWORKS, Case, relative_error
from torch_utils.cuda_graphs import Replay
from torch_utils.int8 import device_product_is_exact, int8_matmul
from torch_utils.misc import configure_backends, place
from training.closed_form import make_denoiser, optimal, sums
from training.closed_form.optimal import OptimalDenoiser
from training.loss import EDMLoss, VELoss, VPLoss
from training.sampler_options import SamplerOptions
from training.sampling import StackedRandomGenerator, ablation_sampler, edm_sampler, to_uint8
from training.sampling import generate as generate_with
from training.snapshot import list_snapshots

DEVICE = torch.device(os.environ.get('TEST_DEVICE', 'cuda'))
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE.type == 'cuda' and not torch.cuda.is_available(), reason='no GPU'),
]
gpu_only = pytest.mark.skipif(DEVICE.type != 'cuda', reason='requires a GPU')


@pytest.fixture(autouse=True)
def exact_float32():
    configure_backends('fp32')


@pytest.fixture(params=NETWORKS)
def case(request):
    """A reference network, on the device."""
    case = Case(request.param)
    place(case.net, DEVICE)
    return case


def denoise(case, precision='fp32'):
    case.net.set_precision(precision)
    place(case.net, DEVICE, precision)
    configure_backends(precision)
    x, sigma, labels = (case.tensor(f'in.{name}') for name in ('x', 'sigma', 'class_labels'))
    inputs = [None if value is None else value.to(DEVICE) for value in (x, sigma, labels)]
    with torch.no_grad():
        return case.net(*inputs).cpu()


def test_networks_reproduce_the_published_outputs(case):
    with torch.no_grad():
        expected = case.net.to('cpu')(*(case.tensor(f'in.{name}') for name in ('x', 'sigma', 'class_labels')))
    place(case.net, DEVICE)
    assert relative_error(denoise(case), expected) < 1e-4


@pytest.mark.parametrize(('precision', 'tolerance'), [('tf32', 0.01), ('bf16', 0.03), ('fp16', 0.01)])
def test_lower_precisions_give_similar_images(case, precision, tolerance):
    expected = denoise(case)
    found = denoise(case, precision)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < tolerance


@pytest.mark.parametrize('loss', [VPLoss(), VELoss(), EDMLoss()])
def test_losses_and_gradients_match_the_cpu(loss):
    """The GPU and the CPU use the same random numbers, which are drawn on the CPU."""
    case = Case(NETWORKS[0])
    images = torch.rand([4, case.net.img_channels, case.net.img_resolution, case.net.img_resolution]) * 2 - 1
    results = []
    for device in (torch.device('cpu'), DEVICE):
        random = torch.Generator().manual_seed(0)

        def draw(kind, shape, device=device, random=random):
            return kind(list(shape), generator=random).to(device)

        net = place(case.net, device).eval().requires_grad_(True)
        net.zero_grad()
        with (
            patch('training.loss.torch.rand', lambda shape, draw=draw, **_: draw(RAND, shape)),
            patch('training.loss.torch.randn', lambda shape, draw=draw, **_: draw(RANDN, shape)),
            patch('training.loss.torch.randn_like', lambda like, draw=draw: draw(RANDN, like.shape)),
        ):
            values = loss(net, images.to(device))
        values.mean().backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None])
        results.append((values.detach().cpu(), gradients))
    (expected, slope), (found, found_slope) = results
    assert relative_error(found, expected) < 1e-3
    assert float((found_slope - slope).norm() / slope.norm()) < 1e-3


RAND, RANDN = torch.rand, torch.randn


@pytest.mark.parametrize('sampler', [edm_sampler, ablation_sampler])
def test_sampled_images_match_the_cpu(sampler):
    case: Any = Case(NETWORKS[0])
    shape = [4, case.net.img_channels, case.net.img_resolution, case.net.img_resolution]
    latents = StackedRandomGenerator('cpu', range(4)).randn(shape)
    images = []
    for device in (torch.device('cpu'), DEVICE):
        net: Any = place(case.net, device).eval()
        with torch.inference_mode():
            images.append(to_uint8(sampler(net, latents.to(device), num_steps=8)).cpu().int())
    assert int((images[0] - images[1]).abs().max()) <= 1


@pytest.mark.parametrize('fast', [pytest.param(True, marks=gpu_only), False], ids=['float64', 'digits'])
@pytest.mark.parametrize('count', [20, 1000, 3000])
def test_the_optimal_denoiser_is_exact(count, fast, monkeypatch):
    monkeypatch.setattr(optimal, 'float64_is_fast', lambda _: fast)
    monkeypatch.setattr(optimal, 'FLOAT64_PIXELS', 0)
    monkeypatch.setattr(sums, 'GPU_NUMBERS', 1 << 20)  # three products for 3,000 images
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, [count, 3, 16, 16], dtype=torch.uint8, generator=random)
    denoiser, exact = OptimalDenoiser(images, device=DEVICE), PlainDenoiser(images, dtype=torch.float64)
    for sigma in (80.0, 8.0, 1.0, 0.002):
        noise = torch.randn([8, 3, 16, 16], dtype=torch.float64, generator=random)
        x = images[:8].double() / 127.5 - 1 + sigma * noise
        found = denoiser(x.to(DEVICE), torch.tensor(sigma, device=DEVICE)).cpu()
        expected = exact(x, sigma)
        error = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert float(error.max()) < 1e-5
    latents = StackedRandomGenerator('cpu', range(16)).randn([16, 3, 16, 16])
    found = to_uint8(edm_sampler(denoiser, latents.to(DEVICE))).cpu()
    assert torch.equal(found, to_uint8(edm_sampler(exact, latents)))


@pytest.mark.parametrize(
    'name', ['gaussian', 'smoothed', 'patch:window=3', 'local:window=3', 'equivariant:window=3', 'pca-locality']
)
def test_closed_forms_match_the_cpu(name):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, [30, 1, 8, 8], dtype=torch.uint8, generator=random)
    expected, found = make_denoiser(name, images), make_denoiser(name, images, device=DEVICE)
    for sigma in (5.0, 0.5, 0.05):
        x = images[:4] / 127.5 - 1 + sigma * torch.randn([4, 1, 8, 8], generator=random)
        assert relative_error(found(x.to(DEVICE), sigma).cpu(), expected(x, sigma)) < 1e-4


@pytest.mark.parametrize('block', [BLOCK['cuda'], (32, 1000, 1 << 20)])
def test_nearest_neighbours_are_exact(block, monkeypatch):
    monkeypatch.setitem(BLOCK, DEVICE.type, block)
    random = torch.Generator().manual_seed(0)
    queries, references = (torch.randint(256, [n, 1, 3, 3], dtype=torch.uint8, generator=random) for n in (50, 9000))
    index, squared = nearest_neighbors(queries.to(DEVICE), references.to(DEVICE))
    differences = queries.flatten(1).long()[:, None] - references.flatten(1).long()
    distance, order = differences.square().sum(dim=2).sort(dim=1, stable=True)
    assert torch.equal(index.cpu(), order[:, :2])
    assert torch.equal(squared.cpu(), distance[:, :2])


@pytest.mark.parametrize('shape', [(1, 1, 1), (17, 64, 9), (5, 3072, 1000), (40, 64, 897)])
def test_int8_products_are_exact(shape):
    rows, inner, columns = shape
    random = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, [rows, inner], dtype=torch.int8, generator=random)
    b = torch.randint(-128, 128, [columns, inner], dtype=torch.int8, generator=random).t()
    assert device_product_is_exact(DEVICE.type)
    assert torch.equal(int8_matmul(a.to(DEVICE), b.to(DEVICE)).cpu().long(), a.long() @ b.long())


def train_arguments(folder, data, *more):
    return [f'--outdir={folder}', '--nosubdir', f'--data={data}', *TINY, '--batch=20', '--warmup=0', '--seed=1',
            '--deterministic=1', '--tick=1', '--snap=1', f'--device={DEVICE}', *more]  # fmt: skip


def test_a_resumed_training_ends_with_the_same_bytes(digits_20, tmp_path):
    whole, halves = tmp_path / 'whole', tmp_path / 'halves'
    common = ['--augment=0.5', '--xflip=1']
    assert invoke(train.main, *train_arguments(whole, digits_20, '--epochs=100', *common)).exit_code == 0
    with patch('training.training_loop.StopSignal.agreed', side_effect=[False] * 60 + [True]):
        invoke(train.main, *train_arguments(halves, digits_20, '--epochs=100', *common))
    assert len(list_snapshots(halves)) < len(list_snapshots(whole))
    assert invoke(train.main, *train_arguments(halves, digits_20, '--epochs=100', *common)).exit_code == 0
    (_, expected), (_, found) = list_snapshots(whole)[-1], list_snapshots(halves)[-1]
    assert expected.name == found.name
    assert expected.read_bytes() == found.read_bytes()


@gpu_only
@pytest.mark.parametrize('more', [[], ['--precision=bf16'], ['--cond=1', '--augment=0.5', '--batch-gpu=12']])
def test_replayed_steps_give_the_same_bytes_as_launched_steps(digits_20, tmp_path, more):
    replay, found = Replay(), []
    for name, made in (('replayed', replay), ('launched', None)):
        with patch('training.trainer.Replay', return_value=made):
            arguments = train_arguments(tmp_path / name, digits_20, '--epochs=20', *more)
            assert invoke(train.main, *arguments).exit_code == 0
        found.append(list_snapshots(tmp_path / name)[-1][1].read_bytes())
    assert None not in replay.recordings.values()
    assert len(replay.recordings) == (2 if '--batch-gpu=12' in more else 1)
    assert found[0] == found[1]


@gpu_only
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('sampler', [SamplerOptions(num_steps=6), SamplerOptions(num_steps=6, S_churn=10)])
def test_replayed_evaluations_give_the_same_images(case, sampler, precision):
    """Two batches of different sizes."""
    case.net.eval().requires_grad_(False)
    case.net.set_precision(precision)
    place(case.net, DEVICE, precision)
    found = []
    for replay in (Replay(), lambda function, *inputs: function(*inputs)):
        with patch('training.denoiser.Replay', return_value=replay):
            found.append(generate_with(case.net, range(7), sampler, batch_size=4, device=DEVICE))
        if isinstance(replay, Replay):
            assert len(replay.recordings) == 2
            assert None not in replay.recordings.values()
    assert torch.equal(*found)


@pytest.mark.parametrize('precision', ['tf32', 'bf16', pytest.param('fp16', marks=gpu_only)])
def test_training_works_in_every_precision(digits_20, tmp_path, precision):
    result = invoke(train.main, *train_arguments(tmp_path, digits_20, '--epochs=10', f'--precision={precision}'))
    assert result.exit_code == 0, result.output


@pytest.fixture(scope='module')
def run_dir(digits_20, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'run'
    assert invoke(train.main, *train_arguments(folder, digits_20, '--epochs=100', '--cond=1')).exit_code == 0
    return folder


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        (generate, '--network=RUN --outdir=OUT --seeds=0-15 --batch=12 --grid=OUT/grid.png'),
        (generate_optim, '--data=DATA --outdir=OUT --seeds=0-15 --grid=OUT/grid.png'),
        (generate_optim, '--data=DATA --outdir=OUT --seeds=0-3 --denoiser=local:window=3'),
        (mem_ratio, '--expdir=RUN --seeds=0-39 --batch=32 --metrics=all --test-ref=digits'),
        (mem_ratio, '--expdir=RUN --seeds=0-39 --batch=8 --race=1'),
        (mem_ratio, '--denoiser=optimal --data=DATA --seeds=0-15 --table=OUT/table.csv'),
        (diagnose, 'levels --network=RUN --data=DATA --num=20 --levels=4 --outdir=OUT'),
        (diagnose, 'clocks --expdir=RUN --test=digits --allow-overlap --num=20 --outdir=OUT'),
        (diagnose, 'geometry --data=DATA --levels=4 --outdir=OUT'),
        (diagnose, 'calibrate --network=RUN --data=DATA --num=8 --outdir=OUT'),
        (diagnose, 'agreement --network=RUN --data=DATA --denoiser=optimal --seeds=0-15 --outdir=OUT'),
        (fid, 'calc --network=RUN --ref=digits --num=40'),
    ],
)
def test_the_script_runs(script, arguments, run_dir, digits_20, tmp_path):
    words = arguments.replace('RUN', str(run_dir)).replace('DATA', str(digits_20)).replace('OUT', str(tmp_path)).split()
    result = invoke(script.main, *words, f'--device={DEVICE}')
    assert result.exit_code == 0, result.output


@gpu_only
def test_too_little_memory_gives_a_one_sentence_error_that_names_the_batch(tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        arguments = [f'--outdir={tmp_path}', '--data=digits', '--batch=1024', '--epochs=1', f'--device={DEVICE}']
        assert 'out of memory; lower --batch-gpu' in failure_of(train.main, *arguments)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@gpu_only
def test_training_and_sampling_do_not_synchronize_with_the_device(digits_20, tmp_path):
    steps = []

    def strict(trainer, original):
        steps.append(trainer)
        if len(steps) < 3:  # the first steps may do one-time preparation
            return original(trainer)
        torch.cuda.set_sync_debug_mode('error')
        try:
            return original(trainer)
        finally:
            torch.cuda.set_sync_debug_mode('default')

    from training.trainer import Trainer

    step = Trainer.step
    with patch.object(Trainer, 'step', lambda trainer: strict(trainer, step)):
        result = invoke(train.main, *train_arguments(tmp_path, digits_20, '--epochs=20', '--augment=0.5'))
    assert result.exit_code == 0, result.output
    net: Any = place(Case(NETWORKS[0]).net, DEVICE).eval()
    latents = torch.randn([4, net.img_channels, net.img_resolution, net.img_resolution], device=DEVICE)
    sigmas = torch.full([4], 2.0, device=DEVICE)
    with torch.inference_mode():
        net(latents, sigmas)
        torch.cuda.set_sync_debug_mode('error')
        try:
            edm_sampler(net, latents, num_steps=4)
        finally:
            torch.cuda.set_sync_debug_mode('default')
