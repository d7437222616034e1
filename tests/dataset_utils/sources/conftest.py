import pytest

from dataset_utils import open_source
from tests.dataset_utils.making import write_files, write_zip


@pytest.fixture(params=['folder', 'archive'])
def open_files(request, tmp_path):
    """A function that opens the given files (a dict from name to bytes) as a source: a folder or an archive."""

    def open_them(content: dict[str, bytes]):
        if request.param == 'folder':
            return open_source(write_files(tmp_path / 'set', content))
        return open_source(write_zip(tmp_path / 'set.zip', content))

    return open_them
