"""Contents of a study's page, and protection against hostile text in it."""

import base64
import hashlib
import html.parser
import io
import json
import math
import re
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from dataset_utils import open_source
from dnnlib.util import write_json
from evaluation.best_images import BestSnapshot, write_best
from evaluation.memorization import memorization_ratio
from evaluation.records import SETTINGS
from studies.points import DONE, FAILED, Status, write_status
from studies.report.gallery import read_gallery
from studies.report.page import TEMPLATES, Page, Sentences, entries, render_page, write_page
from studies.report.run_files import point_records, run_records
from studies.report.run_history import run_history
from studies.report.sections import SECTIONS, clock_cell, metrics_table, study_page
from studies.report.trainings import headline, point_figure
from studies.results import collect
from studies.study_file import read_study
from tests.studies.report.sample_page import COPIES, HOSTILE, OTHERS, PAIRS, sample_page
from tests.studies.stand_in import make_study, record_of, run

SEEDS = list(range(100, 140))


class Reader(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes, its text, and the content of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.scripts, self.open_script = [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open_script = tag == 'script'

    def handle_endtag(self, tag):
        self.open_script = False

    def handle_data(self, data):
        (self.scripts if self.open_script else self.text).append(data)


def test_names_cannot_break_out_of_the_page():
    page = render_page(sample_page(hostile=True))
    reader = Reader(page)
    assert HOSTILE not in page
    assert HOSTILE in ''.join(reader.text)
    assert reader.scripts == [(TEMPLATES / 'page.js').read_text(encoding='utf-8')]
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith('on')]
    assert all(attributes['src'].startswith('data:image/') for tag, attributes in reader.tags if tag == 'img')


def test_tiles_have_the_same_names_as_the_columns_of_galleries():
    assert set(re.findall(r'<figcaption>(\w+) <b>', render_page(sample_page()))) == {'generated', 'nearest', 'second'}


def test_the_page_loads_no_other_files():
    reader = Reader(render_page(sample_page(hostile=True)))
    references = [a[key] for _, a in reader.tags for key in ('src', 'href', 'action', 'data', 'srcset') if key in a]
    assert references
    assert all(reference.startswith(('data:', '#')) for reference in references)
    assert 'url(' not in (TEMPLATES / 'page.css').read_text(encoding='utf-8')
    policy = next(a['content'] for tag, a in reader.tags if a.get('http-equiv') == 'Content-Security-Policy')
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(reader.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_gallery_contains_every_image_unchanged():
    page = sample_page()
    shown = [a['src'] for tag, a in Reader(render_page(page)).tags if tag == 'img' and 'width' in a]
    strips: Any = page.sections[0].blocks[-1]
    trainings: Any = page.sections[-1].blocks[0]
    expected = [image for _, items in strips.rows for item in items for image in (item.generated, item.nearest)]
    expected += [image for item in trainings.gallery for image in (item.generated, item.nearest, item.second)]
    assert len(shown) == len(expected) == 2 * PAIRS + 3 * (COPIES + OTHERS)
    for source, image in zip(shown, expected, strict=True):
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(source.removeprefix('data:image/png;base64,'))))
        np.testing.assert_array_equal(np.atleast_3d(np.asarray(picture)), image.transpose(1, 2, 0))


def test_an_empty_page_is_valid(tmp_path):
    path = tmp_path / 'new' / 'report.html'
    write_page(path, Page('Empty'))
    reader = Reader(path.read_text(encoding='utf-8'))
    assert 'Empty' in reader.text
    assert not [tag for tag, _ in reader.tags if tag in ('img', 'table', 'details', 'button')]


def test_the_same_contents_give_the_same_page_byte_for_byte():
    assert render_page(sample_page()) == render_page(sample_page())


def test_settings_are_shown_in_words_and_long_lists_are_shortened():
    shown = dict(entries({'a': [1, 2], 'b': list(range(100)), 'c': None, 'd': True, 'e': {'f': 1}, 'g': []}))
    assert shown == {
        'a': '1, 2',
        'b': ', '.join(map(str, range(24))) + ', … (100 in total)',
        'c': 'none',
        'd': 'yes',
        'e': {'f': 1},
        'g': 'none',
    }


def fill_point(folder, data, mirrored=False):
    """Write the files of a finished point whose images are noisy training images; return images and training set."""
    rng = np.random.default_rng(0)
    training = open_source(data).load().transpose(0, 3, 1, 2)  # [N, 1, 8, 8]
    noise = rng.normal(size=[len(SEEDS), 1, 8, 8]) * np.linspace(5, 60, len(SEEDS))[:, None, None, None]
    images = np.clip(training[rng.integers(20, size=len(SEEDS))] + noise, 0, 255).astype(np.uint8)
    result = memorization_ratio(torch.from_numpy(images), torch.from_numpy(training), mirrored=mirrored)
    record = dict.fromkeys(SETTINGS) | {
        'snapshot': 'network-snapshot-000002.safetensors', 'seeds': '100-139', 'kimg': 2.0, 'epochs': 100.0,
        'num_images': len(SEEDS), 'num_memorized': result.num_memorized, 'ratio': result.ratio,
        'ratio_low': result.interval[0], 'ratio_high': result.interval[1], 'mean_distance': result.mean_distance,
        'num_duplicates': 0, 'dataset_size': 20,
    }  # fmt: skip
    earlier = record | {'snapshot': 'network-snapshot-000001.safetensors', 'kimg': 1.0, 'epochs': 50.0, 'ratio': 0.0}
    run = folder / 'run'
    run.mkdir(parents=True)
    (folder / 'data.zip').write_bytes(data.read_bytes())
    (run / 'mem_traj.jsonl').write_text(f'{json.dumps(earlier)}\n{json.dumps(record)}\n')
    lines = [{'Progress/kimg': kimg, 'Loss/loss': {'mean': 1 / kimg}} for kimg in (1, 2)]
    (run / 'stats.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n{"cut short')
    write_json(run / 'training_options.json', {'dataset': {'channels': 1, 'resolution': 8}, 'seed': 1024})
    best = BestSnapshot(
        torch.tensor(SEEDS), torch.from_numpy(images), torch.full([len(SEEDS)], -1), result.indices,
        result.squared_distances,
    )  # fmt: skip
    write_best(run / 'mem_best.npz', record, best)
    write_json(folder / 'result.json', record)
    write_status(folder, Status(DONE, seconds=61.0))
    return images, training


def test_a_gallery_starts_with_the_images_closest_to_the_threshold(tmp_path, digits_20):
    images, training = fill_point(tmp_path, digits_20)
    expected = []
    for seed, image in zip(SEEDS, images, strict=True):
        distances = np.sqrt(((training.astype(np.float64) - image) ** 2).mean(axis=(1, 2, 3)))
        near, second = np.argsort(distances)[:2]
        closeness = abs(math.log(3 * distances[near] / distances[second]))
        expected.append((closeness, seed, image, training[near], training[second], distances[near], distances[second]))
    expected.sort(key=lambda entry: entry[0])
    items = read_gallery(tmp_path, 12)
    assert len(items) == 12
    assert {item.memorized for item in items} == {True, False}
    for item, (_, seed, image, near, second, distance, second_distance) in zip(items, expected, strict=False):
        assert item.seed == seed
        for shown, image_of in ((item.generated, image), (item.nearest, near), (item.second, second)):
            np.testing.assert_array_equal(shown, image_of)
        assert (item.distance, item.second_distance) == pytest.approx((distance, second_distance))
        assert item.memorized == (distance < second_distance / 3)


def test_a_gallery_shows_training_images_as_they_were_compared(tmp_path, digits_20):
    _, training = fill_point(tmp_path, digits_20, mirrored=True)
    items = read_gallery(tmp_path, 12)
    for item in items:
        for shown, distance in ((item.nearest, item.distance), (item.second, item.second_distance)):
            assert np.sqrt(((shown - item.generated.astype(float)) ** 2).mean()) == pytest.approx(distance)
    assert {any(np.array_equal(item.second, image) for image in training) for item in items} == {True, False}


@pytest.mark.parametrize('name', ['data.zip', 'run/mem_best.npz'])
def test_a_point_with_a_missing_or_damaged_file_has_no_gallery(tmp_path, digits_20, name):
    fill_point(tmp_path, digits_20)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[100 : len(content) // 2] + b'\n{}')
    assert read_gallery(tmp_path, 12) == []
    (tmp_path / name).unlink()
    assert read_gallery(tmp_path, 12) == []


def test_the_curve_of_a_damaged_log_is_left_out(tmp_path, digits_20):
    fill_point(tmp_path, digits_20)
    for name in ('mem_traj.jsonl', 'stats.jsonl'):
        (tmp_path / 'run' / name).write_bytes(b'\xff\xfe not JSON\n[1]\n{"Loss/loss": 3}\n')
    assert point_figure(tmp_path) is None


def test_an_evaluation_that_the_user_ran_by_hand_is_not_shown(tmp_path, digits_20):
    fill_point(tmp_path, digits_20)
    path = tmp_path / 'run' / 'mem_traj.jsonl'
    own = path.read_text()
    figure, records = point_figure(tmp_path), point_records(tmp_path)
    assert [record['kimg'] for record in records] == [1.0, 2.0]
    for line in own.splitlines():
        path.write_text(path.read_text() + json.dumps(json.loads(line) | {'seeds': '0-9', 'ratio': 1.0}) + '\n')
    assert point_records(tmp_path) == records
    assert point_figure(tmp_path).data == figure.data
    assert len(read_gallery(tmp_path, 12)) == 12


@pytest.fixture
def study():
    document = {
        'title': HOSTILE,
        'data': {'selection': 'size', 'source': 'digits'},
        'train': {'preset': 'digits', 'epochs': 2},
        'sizes': {'values': [10, 20]},
        'factors': {'width': {'label': 'Channels', 'option': 'train.num-channels', 'values': [8, 16]}},
    }
    return read_study(document, 'test', 'test.toml')


@pytest.mark.parametrize(
    ('measured', 'end'),
    [
        ({'num_far': 200}, ']'),
        ({'num_far': 230}, '], 23 % far from any data'),
        ({'mean_distance': 90.0, 'reference_distance': 10.0}, '], far from any data'),  # a record without num_far
    ],
)
def test_the_headline_of_a_run_gives_the_share_of_images_far_from_any_data(measured, end):
    text = headline(record_of(0.0) | measured)
    assert text == f'0.0 % copies [0.0, 0.0{end}'


def test_the_page_of_an_unfinished_study_shows_the_results_so_far(tmp_path, study, digits_20):
    narrow, wide = collect(study, tmp_path).outcomes
    done, failed = narrow.at(20)[0].point, wide.at(10)[0].point
    for point in (done, failed):
        point.prepare()
    fill_point(done.folder, digits_20)
    write_status(failed.folder, Status(FAILED, step='train', failures=1, message='Error: no space <left>'))
    page = study_page(collect(study, tmp_path))
    blocks: dict[str, Any] = {section.name: section.blocks for section in page.sections}
    assert list(blocks) == list(SECTIONS)
    shown, broken = blocks['trainings'][0].points
    assert (shown.state, shown.group, shown.name) == ('done', 'Channels 8', '20 training images')
    assert shown.figure.data.startswith(b'<?xml')
    assert shown.configuration['seed'] == 1024
    assert [command.split()[1] for command in shown.commands] == ['-m', 'train.py', 'mem_ratio.py']
    assert 0 < len(shown.gallery) <= 36
    assert (broken.state, broken.message, broken.gallery) == ('failed', 'Error: no space <left>', [])
    assert page.updated.endswith('Training runs: 1 done, 1 failed, 2 left.')
    assert not page.refreshes
    emm, ratios = blocks['tables']
    assert emm.rows[0][0].text == '8'
    assert [cell.text for cell in ratios.rows[0][:2]] == ['8', '20']
    assert ratios.rows[0][1].anchor == shown.anchor
    lead, *rest = blocks['finding']
    assert lead.style == 'lead'
    assert [block.kind for block in rest] == ['sentences', 'figure', 'strips', 'sentences']
    reader = Reader(render_page(page))
    assert HOSTILE in reader.text
    assert 'Error: no space <left>' in reader.text


def test_a_strip_shows_images_spread_evenly_over_the_set(tmp_path, digits_20):
    fill_point(tmp_path, digits_20)
    assert [item.seed for item in read_gallery(tmp_path, 4, spread=True)] == [100, 113, 126, 139]


def test_the_history_of_a_run_is_read_from_its_files(tmp_path, digits_20):
    fill_point(tmp_path, digits_20)
    history = run_history(tmp_path / 'run', run_records(tmp_path / 'run'))
    assert history.losses == ((1, 1), (2, 0.5))
    assert history.ratios[0][:2] == (1.0, 0.0)
    assert history.ratios[1][0] == 2.0


def test_metrics_are_shown_with_a_column_for_each_size(tmp_path):
    _, results = run(make_study(sizes={'values': [10, 20]}), tmp_path, lambda size: 0.5)
    measured = {'test_gap': {'mean_gap': 16234.5, 'gap_low': None}, 'precision_recall': {'recall': 0.125}}
    write_json(results.points[0].point.folder / 'result.json', record_of(0.5) | {'metrics': measured})
    table = metrics_table(collect(results.study, tmp_path))
    assert table.header == ['metric', '10', '20']
    assert [[cell.text for cell in row] for row in table.rows] == [
        ['test_gap: mean gap', '16,234', '–'],
        ['precision_recall: recall', '0.125', '–'],
    ]


def test_large_clocks_are_shown_without_an_exponent():
    row = {'tau_gen': 40_000.0, 'tau_gen_low': 38_123.4, 'tau_gen_high': None}
    cell = clock_cell(row, 'tau_gen')
    assert (cell.text, cell.detail) == ('40,000', '38,123\xa0to\xa0…')


def test_a_study_without_results_has_a_page(tmp_path, study):
    page = study_page(collect(study, tmp_path))
    assert page.updated.endswith('Training runs: 4 left.')
    (section,) = page.sections
    assert section.blocks == [Sentences(['No training run is finished yet.'], 'lead')]
    render_page(page)


def test_a_new_section_needs_one_entry_in_the_registry(tmp_path, study, monkeypatch):
    monkeypatch.setitem(
        SECTIONS, 'colours', ('Colours', lambda results: [Sentences([f'{len(results.points)} points'])])
    )
    assert '4 points' in Reader(render_page(study_page(collect(study, tmp_path)))).text


def gallery_of(page):
    return page.sections[-1].blocks[0].gallery


def test_galleries_are_smaller_if_a_page_has_many_images(monkeypatch, tmp_path, study, digits_20):
    point = collect(study, tmp_path).outcomes[0].at(20)[0].point
    point.prepare()
    fill_point(point.folder, digits_20)
    monkeypatch.setattr('studies.report.trainings.MOST_IMAGES', 9)
    assert len(gallery_of(study_page(collect(study, tmp_path)))) == 9
    monkeypatch.setattr('studies.report.trainings.MOST_PIXEL_BYTES', 1)
    assert len(gallery_of(study_page(collect(study, tmp_path)))) == 4
