"""Progress of a computation, as another process reads it."""

from dnnlib.progress import PROGRESS_FILE, Progress, ProgressBar, read_progress


def test_progress_is_in_a_file_until_the_bar_is_closed(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr('dnnlib.progress.time.monotonic', lambda: now[0])
    with ProgressBar('train', 1000, tmp_path, done=200, hidden=True) as bar:
        assert read_progress(tmp_path) == Progress('train', 200, 1000, 0.0)
        assert read_progress(tmp_path).seconds_left is None
        bar.update(100)
        assert read_progress(tmp_path).done == 200
        now[0] += 4
        bar.update(100)
        assert read_progress(tmp_path) == Progress('train', 400, 1000, 50.0)
        assert read_progress(tmp_path).seconds_left == 12
    assert read_progress(tmp_path) is None


def test_a_damaged_file_gives_no_progress(tmp_path):
    for text in ('', '[]', '{"phase": "train", "done": "1"}'):
        (tmp_path / PROGRESS_FILE).write_text(text)
        assert read_progress(tmp_path) is None
