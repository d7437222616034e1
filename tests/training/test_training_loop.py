"""The training loop, with stand-ins for the trainer and the files: what it saves, when, and in which order."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from training.training_loop import drop_later_lines, loop


def events(snapshots, states, tick_images, total_images, images=0, stop_after=10**9):
    """Log of a training run with 10 images per step. stop_after: number of images after which a stop is requested."""
    done: list[str] = []
    config = SimpleNamespace(
        snapshots=snapshots, states=states, tick_images=tick_images, schedule=SimpleNamespace(total_images=total_images)
    )
    trainer: Any = SimpleNamespace(images=images, config=config)

    def step():
        trainer.images += 10

    def note(what):
        return lambda: done.append(f'{what} {trainer.images}')

    trainer.step = step
    journal: Any = SimpleNamespace(
        progress=lambda count: done.append(f'progress {count}') if count != 10 else None,
        end_tick=note('tick'),
        save_snapshot=note('snapshot'),
        save_state=note('state'),
    )
    loop(trainer, journal, SimpleNamespace(agreed=lambda: trainer.images >= stop_after))  # type: ignore[arg-type]
    return done


@pytest.mark.parametrize(
    ('case', 'expected'),
    [
        (([0, 25, 40], [40], 1000, 45), ['snapshot 0', 'tick 30', 'snapshot 30', 'tick 40', 'snapshot 40', 'state 40',
                                         'tick 50']),
        (([30], [30], 20, 40), ['tick 20', 'tick 30', 'snapshot 30', 'state 30', 'tick 40']),
        (([0, 30], [], 1000, 40, 20), ['tick 30', 'snapshot 30', 'tick 40']),
        (([30], [50], 1000, 60, 0, 20), ['tick 20', 'state 20']),
        (([20], [50], 1000, 60, 0, 20), ['tick 20', 'snapshot 20', 'state 20']),
        (([20], [20], 1000, 20, 0, 20), ['tick 20', 'snapshot 20', 'state 20']),
        (([20], [20], 1000, 20, 20), []),
    ],
)  # fmt: skip
def test_files_are_saved_after_the_first_step_that_reaches_their_image_count(case, expected, capsys):
    assert events(*case) == expected
    stopped = 'state 20' in expected and case[3] > 20
    assert ('Stopped at 0.02 kimg' in capsys.readouterr().out) == stopped


def test_resuming_drops_later_and_damaged_lines_of_the_statistics(tmp_path):
    path = tmp_path / 'stats.jsonl'
    lines = [json.dumps({'Progress/kimg': kimg}) for kimg in (1.0, 2.0, 2.1, 3.0)]
    path.write_text('\n'.join([lines[0], '{"Progress/ki', '{}', '7', *lines[1:], '{"Progress/kimg": 1']))
    drop_later_lines(path, 2000)
    assert path.read_text() == f'{lines[0]}\n{lines[1]}\n'
    drop_later_lines(tmp_path / 'none.jsonl', 0)
    assert not (tmp_path / 'none.jsonl').exists()
