"""A study's folder: its record `study.json`, and the study's own data sets, which are made once for all points."""

import math
import subprocess
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, to_builtins

from dnnlib.locks import locked
from dnnlib.typed import Typed, parse_json, read_json
from dnnlib.util import UserError, remove_partial_files, write_json
from studies.commands import Resources, environment, process_arguments, selection_command, shell_line
from studies.points import set_aside
from studies.results import StudyResults, collect
from studies.study import Options, Study, made_by
from studies.study_file import read_study

STUDY_FILE = 'study.json'
PAGE = 'report.html'


class SavedStudy(Typed, frozen=True):
    """The content of `study.json`; see `studies.study.Study`."""

    name: str
    document: dict[str, Any]
    steps: dict[str, Annotated[int, Meta(ge=1)]]


def require_folder_for(study: Study, root: Path) -> None:
    """Raise UserError if a folder contains another study or unrelated files."""
    path = root / STUDY_FILE
    others = [] if path.exists() or not root.exists() else [other for other in root.iterdir() if not _partial(other)]
    if others:
        raise UserError(f'`outdir`={root} is neither empty nor the folder of a study; choose another folder')
    saved = read_json(path, SavedStudy)  # a corrupt file is replaced
    if saved is not None and saved.name != study.name:
        raise UserError(f'`outdir`={root} contains the study {saved.name!r}, not {study.name!r}; choose another folder')


def claim(root: Path, study: Study) -> None:
    """Write a study to its folder. Raises UserError if the folder contains another study or unrelated files."""
    require_folder_for(study, root)
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / STUDY_FILE, to_builtins(SavedStudy(study.name, study.document, study.steps)))
    remove_partial_files(root, STUDY_FILE)


def require_unchanged(root: Path, study: Study) -> None:
    """Raise UserError if another process has replaced the study in its folder by another version."""
    path = root / STUDY_FILE
    saved = read_json(path, SavedStudy)
    if saved is not None and saved.document != to_builtins(study.document):
        raise UserError(
            f'another emm.py has started another version of this study (see {path}), so this one has stopped; run one '
            f'version at a time'
        )


def _partial(path: Path) -> bool:
    """Whether a file is an incomplete study file left by a killed process."""
    return path.name.startswith(f'{STUDY_FILE}.') and path.suffix == '.partial'


def open_study(root: Path) -> Study:
    """Read the study from its folder. Raises UserError if the folder has no study, or a corrupt one."""
    path = root / STUDY_FILE
    if not path.exists():
        raise UserError(
            f'{root} contains no {STUDY_FILE}; give a folder made by emm.py sweep or search '
            f'(or, for plot, a run folder)'
        )
    try:
        saved = parse_json(path.read_bytes(), SavedStudy, str(path))
    except UserError as error:
        raise UserError(f'{error}; run the study again with emm.py, which replaces the file') from error
    study = read_study(saved.document, saved.name, str(path))
    study.steps.update(saved.steps)
    return study


def open_results(root: Path) -> StudyResults:
    """The current results of the study in a folder. Raises UserError if the folder has no study."""
    return collect(open_study(root), root)


def make_sources(root: Path, study: Study) -> None:
    """Make each of the study's own data sets, unless it was already made with these options; print the commands."""
    folder = root / 'sources'
    folder.mkdir(parents=True, exist_ok=True)
    # Each command inherits the lock, so another emm.py waits for the command even if this process is killed.
    with locked(folder / 'lock', math.inf) as descriptor:
        assert descriptor is not None
        for name, options in study.sources.items():
            make_source(folder, name, options, descriptor)


def make_source(folder: Path, name: str, options: Options, descriptor: int) -> None:
    record = folder / f'{name}.json'
    paths = [folder / f'{made}.zip' for made in made_by({name: options})]
    if all(path.exists() for path in paths) and read_json(record, dict[str, Any]) == options:
        return
    for path in paths:
        if path.exists():
            print(f'{path} was made with other options; renamed to {set_aside(path).name}')
    command = selection_command(options, folder / f'{name}.zip', folder)
    print(f'$ {shell_line(command, Resources())}', flush=True)
    words = process_arguments(command, Resources(), {})
    if subprocess.run(words, env=environment(), pass_fds=[descriptor], check=False).returncode:
        raise UserError(f'[sources.{name}]: the data set could not be made; see the message above')
    write_json(record, options)
