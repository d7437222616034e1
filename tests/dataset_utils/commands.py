"""Functions that run a subcommand of `python -m dataset_utils` and check that it succeeds or fails."""

from pathlib import Path

import numpy as np

from dataset_utils.command_line import main
from tests.dataset_utils.making import content_line, folder_state, read_zip
from tests.helpers import invoke, refusal


def make(command: str, source: object, dest: Path, *arguments: object) -> tuple[np.ndarray, list[int] | None, dict]:
    """Run a subcommand; return the images [N, H, W, C], labels and manifest of the archive that it wrote."""
    result = invoke(main, command, f'--source={source}', f'--dest={dest}', *arguments)
    assert result.exit_code == 0, result.output
    images, labels, manifest = read_zip(dest)
    assert result.stdout == content_line(images, labels, dest)
    return images, labels, manifest


def refused(command: str, source: object, dest: Path, *arguments: object, status: int = 1) -> str:
    """Run a subcommand that must fail; check that it changed no files, and return the error message."""
    before = folder_state(dest.parent)
    message = refusal(invoke(main, command, f'--source={source}', f'--dest={dest}', *arguments), status)
    assert folder_state(dest.parent) == before
    assert not list(dest.parent.glob('*.partial'))
    return message
