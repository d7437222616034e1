"""A launcher for tests that writes known ratios instead of training networks."""

import json

from studies.commands import Resources
from studies.points import (
    DONE,
    FAILED,
    Status,
    read_status,
    write_json,
    write_status,
)
from studies.run_study import run_study
from studies.study_file import read_study

BASE = {
    'data': {'selection': 'one-class', 'source': 'digits', 'class-name': '0'},
    'train': {'preset': 'digits'},
    'evaluate': {'seeds': '0-999'},
}


def make_study(**tables):
    return read_study(BASE | tables, 'test', 'test.toml')


class FakeLauncher:
    """Finishes every submitted point immediately, with the ratio curve(size). A point fails if curve(size) is None."""

    def __init__(self, curve, capacity=1):
        self.curve, self.capacity, self.resources = curve, capacity, Resources()
        self.order = []

    def require_resources(self):
        pass

    def submit(self, folders):
        assert self.capacity is None or len(folders) <= self.capacity
        return [self.finish(folder) for folder in folders]

    def finish(self, folder):
        point = json.loads((folder / 'point.json').read_bytes())
        self.order.append((point['size'], point['repeat']))
        ratio = self.curve(point['size'])
        before = read_status(folder)
        if ratio is None:
            write_status(folder, Status(FAILED, 'train', before.failures + 1, 1.0, 'Error: no luck'))
        else:
            write_json(folder / 'result.json', record_of(ratio))
            write_status(folder, Status(DONE, seconds=float(point['size'])))
        return self

    def log_of(self, folder):
        return folder / 'log.txt'

    def script(self, count):
        return ''

    def done(self):
        return True

    def stop(self):
        pass


def record_of(ratio):
    numbers = dict.fromkeys(('ratio', 'ratio_low', 'ratio_high'), ratio)
    counts = {'num_memorized': round(1000 * ratio), 'num_images': 1000, 'num_duplicates': 0}
    origin = {'dataset_sha256': 'a' * 64, 'versions': {'python': '3.11'}}
    return {**numbers, **counts, **origin, 'mean_distance': 1.0, 'epochs': 1, 'kimg': 1}


def run(study, root, curve, retry=False, capacity=1):
    launcher = FakeLauncher(curve, capacity)
    ended = []
    results = run_study(study, root, launcher, retry, lambda *_: None, lambda result, _: ended.append(result))
    assert len(ended) == len(launcher.order)
    return launcher.order, results
