"""Pipelines from diffusers: they give the same images as in diffusers, and no code in their folders is run."""

import itertools
import json
import shutil
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

import mem_ratio
from dnnlib.util import UserError
from evaluation.memorization import memorization_ratio
from tests.helpers import failure_of
from training.dataset import load_dataset
from training.pipeline import WEIGHTS_NAME, load_pipeline, read_pipeline

failure = partial(failure_of, mem_ratio.main)

diffusers = pytest.importorskip('diffusers')
SCHEDULERS = ['DDPMScheduler', 'DDIMScheduler', 'EDMEulerScheduler', 'EDMDPMSolverMultistepScheduler']


def save_pipeline(folder, scheduler='DDIMScheduler', kind='DDIMPipeline', **arguments):
    torch.manual_seed(0)
    defaults = {
        'sample_size': 8, 'in_channels': 1, 'out_channels': 1, 'block_out_channels': (8, 16), 'layers_per_block': 1,
        'norm_num_groups': 4, 'down_block_types': ('DownBlock2D', 'AttnDownBlock2D'),
        'up_block_types': ('AttnUpBlock2D', 'UpBlock2D'),
    }  # fmt: skip
    net = diffusers.UNet2DModel(**(defaults | arguments))
    getattr(diffusers, kind)(unet=net, scheduler=getattr(diffusers, scheduler)()).save_pretrained(folder)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folders of saved pipelines, by scheduler name."""
    folders = {}
    for scheduler in SCHEDULERS:
        folders[scheduler] = tmp_path_factory.mktemp(scheduler)
        kind = 'DDIMPipeline' if scheduler == 'DDIMScheduler' else 'DDPMPipeline'
        save_pipeline(folders[scheduler], scheduler, kind)
    return folders


@pytest.fixture
def folder(saved, tmp_path):
    """Folder of a pipeline that the test may modify."""
    return shutil.copytree(saved['DDIMScheduler'], tmp_path / 'pipeline')


def sampled(folder, seeds, num_steps, batch_size=64):
    pipeline = load_pipeline(read_pipeline(folder), 'cpu')
    batches = [seeds[start : start + batch_size] for start in range(0, len(seeds), batch_size)]
    return torch.cat([batch.images for batch in pipeline.generate(batches, num_steps)])


@pytest.mark.parametrize(('kind', 'scheduler'), [('DDPMPipeline', SCHEDULERS[0]), ('DDIMPipeline', SCHEDULERS[1])])
def test_images_equal_those_of_diffusers(saved, kind, scheduler):
    theirs = getattr(diffusers, kind).from_pretrained(saved[scheduler], local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    expected = theirs(batch_size=3, generator=generators, num_inference_steps=8, output_type='np').images
    found = sampled(saved[scheduler], [5, 6, 7], 8).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.1
    assert np.abs(found.astype(int) - np.floor(expected * 255 + 0.5).astype(int)).max() <= 1


@pytest.mark.parametrize('scheduler', SCHEDULERS)
def test_an_image_depends_only_on_its_seed(saved, scheduler):
    together = sampled(saved[scheduler], list(range(6)), 5).int()
    apart = sampled(saved[scheduler], [4, 5, 0, 1, 2, 3], 5, batch_size=4).int()
    assert (together[[4, 5, 0, 1, 2, 3]] - apart).abs().max() <= 1
    assert (together[0] - together[1]).abs().max() > 10


def test_the_edm_schedulers_integrate_edms_equation(saved):
    """The expected Euler and Heun steps are written out with EDM's preconditioning around the raw network."""
    description = read_pipeline(saved['EDMEulerScheduler'])
    pipeline = load_pipeline(description, 'cpu')
    sigma_data, num_steps = 0.5, 4
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    sigmas = [*((high + ramp * (low - high)) ** 7).tolist(), 0.0]
    x = torch.randn([1, 8, 8], generator=torch.Generator().manual_seed(3))[None].double()
    x = x * (80**2 + 1) ** 0.5  # diffusers starts at sqrt(sigma_max² + 1), EDM at sigma_max
    with torch.inference_mode():
        for sigma, sigma_next in itertools.pairwise(sigmas):
            scale = (sigma**2 + sigma_data**2) ** 0.5
            raw = pipeline.net((x / scale).float(), torch.tensor(np.log(sigma) / 4).float()).sample.double()
            denoised = sigma_data**2 / scale**2 * x + sigma * sigma_data / scale * raw
            x = x + (sigma_next - sigma) * (x - denoised) / sigma
    expected = (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
    assert (sampled(saved['EDMEulerScheduler'], [3], num_steps).int() - expected.int()).abs().max() <= 1


def test_a_pipeline_is_evaluated_like_a_snapshot(folder, digits_20):
    common = f'--pipeline={folder}', f'--knn-ref={digits_20}', '--seeds=0-9', '--steps=4', '--json'
    result = CliRunner().invoke(mem_ratio.main, [*common, '--metrics=authenticity'])
    assert result.exit_code == 0, result.output
    (record,) = map(json.loads, result.stdout.splitlines())
    expected = memorization_ratio(sampled(folder, list(range(10)), 4), load_dataset(str(digits_20)).images)
    assert record['num_memorized'] == expected.num_memorized
    assert record['mean_distance'] == pytest.approx(expected.mean_distance, rel=1e-3)
    assert record['sampler'] == {'name': 'DDIMScheduler', 'num_steps': 4}
    assert (record['snapshot'], record['kimg'], record['epochs']) == ('pipeline', None, None)
    assert record['metrics'].keys() == {'authenticity'}


def test_attention_weights_with_the_names_of_2022_are_read(folder):
    expected = sampled(folder, [0, 1], 4)
    path = folder / 'unet' / WEIGHTS_NAME
    old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value'}
    weights = {}
    for name, value in safetensors.torch.load_file(path).items():
        name = name.replace('to_out.0', 'proj_attn')
        weights['.'.join(old.get(part, part) for part in name.split('.'))] = value
    assert any('.query.' in name for name in weights)
    safetensors.torch.save_file(weights, path)
    for part in ('unet', 'scheduler'):  # also move all files into one folder
        for file in list((folder / part).iterdir()):
            file.rename(folder / file.name)
        (folder / part).rmdir()
    assert torch.equal(sampled(folder, [0, 1], 4), expected)


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


INDEX_CHANGES: dict[str, dict] = {
    "names 'StableDiffusionPipeline'": {'_class_name': 'StableDiffusionPipeline'},
    "with 'scheduler, unet, vae'": {'vae': ['diffusers', 'AutoencoderKL']},
    "asks for ['pipeline', 'MyUNet']": {'unet': ['pipeline', 'MyUNet']},
    "asks for ['diffusers', 'UNet2DConditionModel']": {'unet': ['diffusers', 'UNet2DConditionModel']},
    "asks for ['os', 'system']": {'scheduler': ['os', 'system']},
    "asks for ['diffusers', 'PNDMScheduler']": {'scheduler': ['diffusers', 'PNDMScheduler']},
    'asks for None': {'scheduler': None},
}


@pytest.mark.parametrize('message', INDEX_CHANGES)
def test_unsupported_pipeline_classes_are_refused_before_anything_is_loaded(folder, message, monkeypatch):
    change(folder / 'model_index.json', **INDEX_CHANGES[message])
    trace = folder / 'trace'
    for name in ('pipeline.py', 'my_pipeline.py', 'unet/pipeline.py'):
        (folder / name).write_text(f'open({str(trace)!r}, "w")')
    monkeypatch.setattr('training.pipeline.importlib', None)
    monkeypatch.setattr('training.pipeline.safetensors', None)
    with pytest.raises(UserError) as error:
        load_pipeline(read_pipeline(folder), 'cpu')
    assert message in str(error.value)
    assert not trace.exists()


CONFIG_CHANGES: dict[str, dict] = {
    "config.json describes 'UNet1DModel'": {'_class_name': 'UNet1DModel'},
    'does not specify sample_size': {'sample_size': None},
    'only square images': {'sample_size': [8, 16]},
    'with 4 channels': {'in_channels': 4},
    'is class-conditional': {'num_class_embeds': 10},
    'more levels or layers': {'layers_per_block': 1000},
    'norm_eps = nan in unet/config.json is outside': {'norm_eps': float('nan')},
    'layers_per_block = 1000000000 in unet': {'layers_per_block': 10**9},
    "unexpected keyword argument 'surprise'": {'surprise': 1},
    'its weights do not fit its unet': {'block_out_channels': [8, 24]},
}


@pytest.mark.parametrize('message', CONFIG_CHANGES)
def test_a_network_that_cannot_be_built_is_named_in_the_error(folder, message):
    change(folder / 'unet' / 'config.json', **CONFIG_CHANGES[message])
    with pytest.raises(UserError) as error:
        load_pipeline(read_pipeline(folder), 'cpu')
    assert message in str(error.value)


def test_weights_in_a_pickle_are_not_read(folder):
    path = folder / 'unet' / WEIGHTS_NAME
    path.with_name('diffusion_pytorch_model.bin').write_bytes(b'cos\nsystem\n(S"false"\ntR.')
    path.unlink()
    with pytest.raises(UserError, match=r'safetensors is missing, and no other weight format is supported'):
        read_pipeline(folder)


@pytest.mark.parametrize('size', [0, 7, 3000])
def test_truncated_weights_are_named_in_the_error(folder, size):
    path = folder / 'unet' / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match='are incomplete'):
        load_pipeline(read_pipeline(folder), 'cpu')


@pytest.mark.parametrize('text', ['', '{', '[1]', '[' * 100_000, '"' + 'a' * (1 << 21) + '"'])
def test_an_invalid_model_index_is_named_in_the_error(folder, text):
    (folder / 'model_index.json').write_text(text)
    with pytest.raises(UserError, match=r'model_index\.json (is not valid JSON|does not describe)'):
        read_pipeline(folder)


def test_user_mistakes_with_a_pipeline_give_a_one_sentence_error(folder, digits_20, tmp_path, monkeypatch):
    reference = f'--knn-ref={digits_20}'
    assert f'--pipeline={tmp_path}/none: no such folder' in failure(f'--pipeline={tmp_path}/none', reference)
    assert 'model_index.json is missing' in failure(f'--pipeline={tmp_path}', reference)
    assert '--steps=5000 is not accepted by the pipeline' in failure(f'--pipeline={folder}', reference, '--steps=5000')
    save_pipeline(tmp_path / 'large', sample_size=16)
    assert 'makes 16x16 with 1' in failure(f'--pipeline={tmp_path}/large', reference)
    monkeypatch.setitem(__import__('sys').modules, 'diffusers', None)
    assert '--pipeline requires diffusers; install it with: pip install' in failure(f'--pipeline={folder}', reference)


@pytest.mark.parametrize(
    'values', [{'num_train_timesteps': 10**9}, {'steps_offset': 10**9}, {'beta_start': float('inf')}]
)
def test_scheduler_settings_out_of_bounds_are_refused(folder, values):
    change(folder / 'scheduler' / 'scheduler_config.json', **values)
    with pytest.raises(UserError, match=f'{next(iter(values))} = .* is outside -10000 to 10000'):
        read_pipeline(folder)


@pytest.mark.parametrize('values', [{'clip_sample_range': 'x'}, {'prediction_type': 'zz'}])
def test_settings_that_fail_during_sampling_give_a_one_sentence_error(folder, values):
    change(folder / 'scheduler' / 'scheduler_config.json', **values)
    with pytest.raises(UserError, match=r'cannot be sampled with its arguments|cannot be built'):
        sampled(folder, [0, 1], 4)


def test_weights_and_images_that_are_not_finite_are_refused(folder):
    path = folder / 'unet' / WEIGHTS_NAME
    weights = safetensors.torch.load_file(path)
    weights['conv_in.bias'][0] = torch.nan
    safetensors.torch.save_file(weights, path)
    with pytest.raises(UserError, match=r'conv_in\.bias contains values that are not finite'):
        sampled(folder, [0], 4)
    weights['conv_in.bias'][0] = 3e38  # makes activations overflow
    safetensors.torch.save_file(weights, path)
    with pytest.raises(UserError, match='images that are not finite for the seeds 0 to 1'):
        sampled(folder, [0, 1], 4)
