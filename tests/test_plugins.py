"""Plugins: the examples in docs/plugins.md, an extractor, an architecture, and a plugin file that raises an error."""

import os
import re
import subprocess
import sys

import numpy as np

from dataset_utils import open_source
from tests.helpers import ROOT, environment

PAGE = (ROOT / 'docs' / 'plugins.md').read_text(encoding='utf-8')


def run(plugin, *arguments):
    environ = {**environment(), 'MEMORIZATION_PLUGINS': os.pathsep.join([str(plugin)])}
    return subprocess.run(
        [sys.executable, *arguments], env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_example_plugin_in_the_docs_adds_selections_and_a_metric(tmp_path):
    plugin = tmp_path / 'my_plugin.py'
    plugin.write_text(re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)[0])
    digits = open_source('digits').load().astype(np.float64)
    orders = {
        'brightest': -digits.mean(axis=(1, 2, 3)),
        'most-typical': ((digits - digits.mean(axis=0)) ** 2).sum(axis=(1, 2, 3)),
    }
    for name, order in orders.items():
        dest = tmp_path / f'{name}.zip'
        done = run(plugin, '-m', 'dataset_utils', name, '--source=digits', f'--dest={dest}', '--max-images=5')
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(open_source(dest).load(), digits[order.argsort(kind='stable')[:5]])
    images = ['--images=digits', f'--knn-ref={tmp_path}/brightest.zip', '--metrics=largest_distance']
    done = run(plugin, 'mem_ratio.py', *images, '--device=cpu')
    assert done.returncode == 0, done.stderr
    assert re.search(r'largest_distance\.largest +\d', done.stdout)


def test_the_example_denoiser_in_the_docs_generates_training_images(tmp_path):
    example = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    plugin = tmp_path / 'nearest.py'
    plugin.write_text(example)
    arguments = ['generate_optim.py', '--data=digits', '--denoiser=nearest', f'--outdir={tmp_path}/out', '--seeds=0-3']
    done = run(plugin, *arguments, '--device=cpu')
    assert done.returncode == 0, done.stderr
    assert '4 (100 %) are copies' in done.stdout
    assert len(list((tmp_path / 'out').glob('0*.png'))) == 4


def test_a_plugin_adds_an_architecture(tmp_path):
    plugin = tmp_path / 'narrow.py'
    plugin.write_text(
        'from training.architectures import ARCHITECTURES\n'
        "ARCHITECTURES['narrow'] = ARCHITECTURES['adm'] | {'model_channels': 32, 'channel_mult': [1]}\n"
    )
    arguments = ['train.py', '--dry-run', f'--outdir={tmp_path}', '--data=digits', '--augment=0']
    done = run(plugin, *arguments, '--arch=narrow')
    assert done.returncode == 0, done.stderr
    assert 'EDMPrecond' in done.stdout
    done = run(plugin, *arguments, '--arch=wide')
    assert "'wide' is not one of 'ddpmpp', 'ncsnpp', 'adm', 'narrow'" in done.stderr


EXTRACTOR = """
import torch

from evaluation.features.extractors import EXTRACTORS, Extractor


class Extremes(Extractor):
    def __init__(self, argument, preprocess, device):
        self.name = 'extremes'

    def __call__(self, images):
        pixels = images.flatten(1).float()
        return torch.stack([pixels.amin(dim=1), pixels.amax(dim=1)], dim=1)


EXTRACTORS['extremes'] = Extremes
"""


def test_a_plugin_adds_a_feature_extractor(tmp_path):
    plugin = tmp_path / 'extremes.py'
    plugin.write_text(EXTRACTOR)
    arguments = ['extract', '--source=digits', f'--dest={tmp_path}/features.npy', '--device=cpu']
    done = run(plugin, '-m', 'evaluation.features', *arguments, '--extractor=extremes')
    assert done.returncode == 0, done.stderr
    digits = open_source('digits').load()
    expected = np.stack([digits.min(axis=(1, 2, 3)), digits.max(axis=(1, 2, 3))], axis=1)
    np.testing.assert_array_equal(np.load(tmp_path / 'features.npy'), expected)
    done = run(plugin, '-m', 'evaluation.features', *arguments, '--extractor=minima')
    assert 'minima is not a known extractor' in done.stderr
    assert done.stderr.strip().endswith('extremes')


def test_a_plugin_that_fails_gives_a_one_sentence_error(tmp_path):
    plugin = tmp_path / 'broken.py'
    plugin.write_text('import nowhere')
    done = run(plugin, 'mem_ratio.py', '--images=digits', '--knn-ref=digits')
    assert done.returncode == 1
    assert done.stderr.startswith('Error: the plug-in')
    assert "No module named 'nowhere'" in done.stderr
