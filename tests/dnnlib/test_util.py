import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnnlib import util
from dnnlib.util import UserError, atomic_file, counted, format_time, kimg_text, report_errors, significant, tee_output
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ('number', 'noun', 'spec', 'text'),
    [
        (1, 'image', ',', '1 image'),
        (0, 'class', ',', '0 classes'),
        (2000, 'copy', ',', '2,000 copies'),
        (2000, 'step', 'd', '2000 steps'),
        (0.5, 'epoch', '.4g', '0.5 epochs'),
    ],
)
def test_nouns_are_singular_or_plural_to_match_their_number(number, noun, spec, text):
    assert counted(number, noun, spec) == text


@pytest.mark.parametrize(
    ('number', 'text'),
    [(1.0, '1 epoch'), (0.99999, '1 epoch'), (0.5, '0.5 epochs'), (1234.56, '1,235 epochs'), (20000, '20,000 epochs')],
)
def test_counts_with_significant_digits_have_no_exponent(number, text):
    assert counted(number, 'epoch', digits=4) == text


@pytest.mark.parametrize(
    ('kimg', 'text'), [(0.512, '0.512 kimg'), (51.2, '51.2 kimg'), (40000, '40,000 kimg'), (2e6, '2,000,000 kimg')]
)
def test_kimg_have_no_exponent(kimg, text):
    assert kimg_text(kimg) == text


def write_half(path):
    with atomic_file(path) as file:
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'the disk is full')


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    with pytest.raises(OSError, match='full'):
        write_half(path)
    assert path.read_bytes() == b'old'
    with atomic_file(path) as file:
        file.write(b'new')
        assert path.read_bytes() == b'old'
    assert path.read_bytes() == b'new'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (UserError('--data=x: no such file'), 'Error: --data=x: no such file\n'),
        (
            OSError(errno.ENOSPC, 'No space left on device', 'out'),
            'Error: out: No space left on device; free some space, and run the command again\n',
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'Error: out of memory; lower --batch\n'),
        (MemoryError(), 'Error: out of memory; lower --batch\n'),
    ],
)
def test_a_mistake_gives_a_one_sentence_error_and_exit_status_1(error, message):
    @click.command()
    @click.option('--batch', 'batch_size')
    @report_errors
    def command(batch_size):
        raise error

    result = CliRunner().invoke(command)
    assert (result.exit_code, result.stderr, result.stdout) == (1, message, '')


@pytest.mark.parametrize('use', [Path.mkdir, lambda path: list(path.iterdir())])
def test_a_file_given_instead_of_a_folder_is_named_in_the_error(tmp_path, use):
    @click.command()
    @report_errors
    def command():
        use(tmp_path / 'file')

    (tmp_path / 'file').touch()
    result = CliRunner().invoke(command)
    assert result.stderr == f'Error: {tmp_path / "file"} is a file, not a folder; give a folder\n'


def test_a_mistake_that_another_rank_has_reported_is_not_reported_again(monkeypatch):
    @click.command()
    @report_errors
    def command():
        raise UserError('no such file')

    monkeypatch.setattr(util, 'first_to_report', lambda text: text != 'no such file')
    result = CliRunner().invoke(command)
    assert (result.exit_code, result.stderr) == (1, '')


def test_links_and_devices_are_written_to_instead_of_being_replaced(tmp_path):
    (tmp_path / 'link').symlink_to('target')
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    for name in ('link', 'pipe'):
        with atomic_file(tmp_path / name) as file:
            file.write(b'new')
    assert os.read(reader, 10) == b'new'
    os.close(reader)
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'target').read_bytes() == b'new'
    assert (tmp_path / 'pipe').is_fifo()


def test_a_link_to_itself_gives_a_system_error_that_names_it(tmp_path):
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(OSError, match='symbolic links') as caught, atomic_file(tmp_path / 'loop'):
        pass
    assert caught.value.filename == str(tmp_path / 'loop')


def test_the_error_for_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match='full') as caught:
        write_half(tmp_path / 'file')
    assert caught.value.filename == str(tmp_path / 'file')


def test_text_that_the_terminal_cannot_show_is_escaped():
    @click.command()
    @report_errors
    def command():
        click.echo('1 … 2 \udcff')

    assert CliRunner(charset='latin-1').invoke(command).stdout == '1 \\u2026 2 \\udcff\n'


def test_an_unexpected_exception_keeps_its_traceback():
    @click.command()
    @report_errors
    def command():
        raise RuntimeError('a bug')

    assert isinstance(CliRunner().invoke(command).exception, RuntimeError)


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0s'), (59.6, '1m 00s'), (3661, '1h 01m 01s'), (90061, '1d 01h 01m')]
)
def test_durations_are_written_in_words(seconds, text):
    assert format_time(seconds) == text


@pytest.mark.parametrize(
    ('value', 'text'), [(0.01234, '0.0123'), (12.345, '12.3'), (999.6, '1,000'), (1421.3, '1,421'), (47230, '47,230')]
)
def test_large_numbers_are_written_without_an_exponent(value, text):
    assert significant(value) == text


def test_output_is_also_written_to_the_log(tmp_path, capsys):
    for word in ('one', 'two'):
        with tee_output(tmp_path / 'log.txt'):
            print(word)
    assert capsys.readouterr().out == (tmp_path / 'log.txt').read_text() == 'one\ntwo\n'


def test_a_reader_of_the_output_that_ends_early_causes_no_error(capsys):
    @click.command()
    @report_errors
    def speak():
        raise BrokenPipeError(errno.EPIPE, 'Broken pipe')

    with pytest.raises(SystemExit):
        speak([])
    assert capsys.readouterr().err == ''


def test_arguments_in_backticks_become_the_options_of_the_command():
    @click.command()
    @click.option('--knn-ref', 'reference')
    @report_errors
    def command(reference):
        raise UserError('`reference`=x.zip: other images; give `resize`')

    result = CliRunner().invoke(command, [])
    assert result.exit_code == 1
    assert result.output == 'Error: --knn-ref=x.zip: other images; give `resize`\n'


def test_the_hash_of_the_code_equals_that_of_a_shell_command():
    packages = 'cli dataset_utils dnnlib evaluation studies torch_utils training'
    line = f"find {packages} -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    root = Path(util.__file__).parents[1]
    output = subprocess.run(['bash', '-c', line], cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert util.code_sha256() == output.split()[0]


def test_progress_bars_work_if_the_error_stream_is_closed(tmp_path):
    data = tmp_path / 'data.zip'
    make = f'{sys.executable} dataset_tool.py --source=digits --dest={data} --max-images=20 2>&-'
    subprocess.run(['bash', '-c', make], cwd=ROOT, check=True)
    evaluate = f'{sys.executable} mem_ratio.py --images={data} --knn-ref={data} --json 2>&-'
    found = subprocess.run(['bash', '-c', evaluate], cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(found.stdout)['ratio'] == 1
