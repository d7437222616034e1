"""`python -m dataset_utils info`: contents of a data set, and verification of its manifest."""

import json
from pathlib import Path

import pytest

import dataset_tool
from dataset_utils import open_source
from dataset_utils.command_line import main
from tests.dataset_utils.commands import make
from tests.dataset_utils.making import (
    image_bytes,
    labelled_files,
    random_images,
    read_zip,
    write_files,
    write_zip,
)
from tests.helpers import invoke, refusal


@pytest.fixture
def archive(tmp_path) -> Path:
    make('size', 'digits', tmp_path / 'a.zip', '--max-images=50')
    return tmp_path / 'a.zip'


def forge(archive: Path, **changes) -> Path:
    """Write the same data set with changed entries in its manifest."""
    images, labels, manifest = read_zip(archive)
    content = json.dumps(manifest | changes).encode()
    return write_zip(archive.parent / 'f.zip', labelled_files(images, labels) | {'manifest.json': content})


def test_the_manifest_is_described_in_words(archive):
    text = invoke(main, 'info', archive).stdout
    assert 'Made by the rule "size" (version 1) with max_images=50\n' in text
    assert f'from digits, sha256 {open_source("digits").sha256()}\n' in text
    assert 'labels: those of the source\n' in text


def test_verification_detects_another_source(archive, tmp_path):
    make('size', 'digits', tmp_path / 'other.zip', '--max-images=500', '--seed=1')
    message = refusal(invoke(main, 'info', archive, f'--verify={tmp_path / "other.zip"}'))
    assert 'The source is not the original one: SHA-256' in message
    assert 'images or labels differ' in message


@pytest.mark.parametrize(
    ('changes', 'finding'),
    [
        ({'source_sha256': '00'}, 'The source is not the original one'),
        ({'indices': [0]}, '"indices" in the manifest differs from the result of its rule'),
        ({'labels': 'magic'}, '"labels" in the manifest'),
        ({'class_names': list('abcdefghij')}, '"class_names" in the manifest'),
        ({'arguments': {'max_images': 40}}, 'The data set has 50 images, but the rule in the manifest selects 40'),
        ({'arguments': {'max_images': 60}}, 'The data set has 50 images, but the rule in the manifest selects 60'),
        ({'rule': 'unique-labels'}, '49 of 50 images or labels differ'),
    ],
)
def test_verification_detects_false_manifests(archive, changes, finding):
    assert finding in refusal(invoke(main, 'info', forge(archive, **changes), '--verify=digits'))


@pytest.mark.parametrize(
    'changes',
    [
        {'rule': 'magic'},
        {'arguments': {}},
        {'arguments': {'max_images': 'all'}},
        {'arguments': {'max_images': 50, 'colour': 3}},
        {'arguments': {'max_images': 55}},
        {'rule': 'resolution', 'arguments': {'max_images': 50, 'resolution': [10**6, 10**6]}},
        {'rule': 'resolution', 'arguments': {'max_images': 50, 'resolution': [8.0, 8.0]}},
        {'rule': 'convert', 'arguments': {'max_images': 'all'}},
        {'rule': 'split', 'arguments': {'max_images': 50, 'half': 'c'}},
        {'rule': 'duplicate', 'arguments': {'copies': 10**12, 'fraction': 1}},
    ],
)
def test_an_invalid_manifest_gives_a_one_sentence_error(archive, changes):
    message = refusal(invoke(main, 'info', forge(archive, **changes), '--verify=digits'))
    assert 'cannot be made again' in message or 'this version does not understand its manifest' in message


def test_a_data_set_without_a_manifest_cannot_be_verified(tmp_path):
    archive = write_zip(tmp_path / 'a.zip', labelled_files(random_images(3), None))
    assert 'has no manifest.json' in refusal(invoke(main, 'info', archive, '--verify=digits'))
    assert 'Manifest: none' in invoke(main, 'info', archive).stdout


def test_verifying_a_mixture_requires_both_sources(archive, tmp_path):
    make('mixture', 'digits', tmp_path / 'm.zip', f'--blend={archive}', '--blend-rate=0.5', '--max-images=20')
    message = refusal(invoke(main, 'info', tmp_path / 'm.zip', '--verify=digits'))
    assert 'give --verify 2 times, once for each source: digits, a.zip' in message
    result = invoke(main, 'info', tmp_path / 'm.zip', '--verify=digits', f'--verify={archive}')
    assert result.exit_code == 0, result.output
    message = refusal(invoke(main, 'info', tmp_path / 'm.zip', f'--verify={archive}', '--verify=digits'))
    assert 'The two sources were given in the reverse order; give them in the order of the manifest.' in message


def test_converted_and_split_sets_can_be_verified(tmp_path):
    files = labelled_files(random_images(6, 12), None) | {'00000/img00000002.png': b'broken'}
    source = write_zip(tmp_path / 'a.zip', files)
    options = ['--transform=center-crop', '--resolution=7x7', '--skip-unreadable', '--max-images=4']
    invoke(dataset_tool.main, f'--source={source}', f'--dest={tmp_path / "b.zip"}', *options)
    assert 'Verified' in invoke(main, 'info', tmp_path / 'b.zip', f'--verify={source}').stdout
    invoke(main, 'split', '--source=digits', f'--dest={tmp_path / "half"}', '--max-images=20')
    assert 'Verified' in invoke(main, 'info', tmp_path / 'half-b', '--verify=digits').stdout


def test_images_of_different_sizes_are_refused(tmp_path):
    files = {'a.png': image_bytes(random_images(1)[0]), 'b.png': image_bytes(random_images(1, 9)[0])}
    assert 'b.png is 9x9 RGB, but a.png is 8x8 RGB' in refusal(invoke(main, 'info', write_files(tmp_path / 'p', files)))


def test_a_near_distance_that_is_not_a_number_is_refused():
    assert '--near=nan is not a valid distance' in refusal(invoke(main, 'info', 'digits', '--near=nan'))


def test_a_missing_data_set_is_refused():
    assert 'nowhere: no such file or folder' in refusal(invoke(main, 'info', 'nowhere'))
