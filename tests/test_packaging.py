"""`pip install` installs exactly the scripts and packages of the toolkit, with their data files."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

from tests.helpers import ROOT

SETUPTOOLS = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['tool']['setuptools']
PACKAGES = sorted(path.parent for path in ROOT.glob('*/__init__.py') if path.parent.name not in ('tests', 'benchmarks'))


def installed(package: str) -> bool:
    return any(fnmatch.fnmatch(package, pattern) for pattern in SETUPTOOLS['packages']['find']['include'])


def test_every_script_is_installed():
    assert SETUPTOOLS['py-modules'] == sorted(path.stem for path in ROOT.glob('*.py'))


def test_the_readme_lists_every_top_level_module_that_is_installed():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    text = text.partition('installs these top-level modules:')[2].partition('. ')[0]
    assert set(text.split('`')[1::2]) == {*SETUPTOOLS['py-modules'], *(path.name for path in PACKAGES)}


def test_every_package_is_installed_except_tests_and_benchmarks():
    assert all(installed(path.name) for path in PACKAGES)
    assert len(SETUPTOOLS['packages']['find']['include']) == len(PACKAGES)
    assert not installed('tests')
    assert not installed('benchmarks')


@pytest.mark.parametrize('package', PACKAGES, ids=lambda path: path.name)
def test_data_files_of_a_package_are_installed(package):
    patterns = [
        f'{name.replace(".", "/")}/{pattern}'
        for name, patterns in SETUPTOOLS['package-data'].items()
        for pattern in patterns
    ]
    for path in package.rglob('*'):
        if path.is_file() and path.suffix not in ('.py', '.pyc'):
            name = path.relative_to(ROOT).as_posix()
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.parametrize('package', PACKAGES, ids=lambda path: path.name)
def test_every_folder_with_code_is_a_package(package):
    folders: set[Path] = {path.parent for path in package.rglob('*.py')}
    assert all((folder / '__init__.py').is_file() for folder in folders)


def test_the_architecture_page_lists_every_package():
    text = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    rooms = [path.parent.relative_to(ROOT).as_posix() for package in PACKAGES for path in package.rglob('__init__.py')]
    assert [room for room in rooms if f'| `{room}/` |' not in text] == []
