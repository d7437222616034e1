"""Progress: lines in the terminal, and a file through which another process can read it."""

from dnnlib.progress import PROGRESS_FILE, Progress, ProgressBar, read_progress


def test_the_progress_file_exists_until_the_bar_is_closed(tmp_path, monkeypatch):
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


def test_without_a_terminal_a_line_is_printed_every_20_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr('dnnlib.progress.time.monotonic', lambda: now[0])
    with ProgressBar('evaluate', 2000, done=500) as bar:
        for _ in range(5):  # 50 images in 10 s
            now[0] += 10
            bar.update(50)
    # After 20 s and 40 s: 5 images/s, so the remaining 1,400 and 1,300 images take 280 s and 260 s.
    assert capsys.readouterr().err.splitlines() == [
        'evaluate: 600 of 2,000 img, 5 img/s, 4m 40s left',
        'evaluate: 700 of 2,000 img, 5 img/s, 4m 20s left',
    ]
    for hidden, lines in ((True, True), (False, False)):
        with ProgressBar('train', 2000, hidden=hidden, lines=lines) as bar:
            now[0] += 30
            bar.update(50)
    assert capsys.readouterr().err == ''


def test_a_damaged_progress_file_is_ignored(tmp_path):
    for text in ('', '[]', '{"phase": "train", "done": "1"}'):
        (tmp_path / PROGRESS_FILE).write_text(text)
        assert read_progress(tmp_path) is None
