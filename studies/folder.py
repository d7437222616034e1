"""The folder of a study: the study it belongs to, and data sets made once for all points."""

import math
import subprocess
from pathlib import Path

from dnnlib.locks import locked
from dnnlib.util import UserError, read_json, remove_partial_files, write_json
from studies.commands import Resources, environment, process_arguments, selection_command, shell_line
from studies.points import set_aside
from studies.results import StudyResults, collect
from studies.study import Options, Study
from studies.study_file import read_study

STUDY_FILE = 'study.json'
PAGE = 'report.html'


def claim(root: Path, study: Study) -> None:
    """Claim a folder for a study. Raises UserError if it belongs to another study, or holds other files."""
    path = root / STUDY_FILE
    others = [] if path.exists() or not root.exists() else [other for other in root.iterdir() if not _partial(other)]
    if others:
        raise UserError(f'`outdir`={root}: not empty, and not the folder of a study; choose another')
    saved = read_json(path)  # a damaged file is written again
    if isinstance(saved, dict) and saved.get('name') != study.name:
        raise UserError(
            f'`outdir`={root}: the folder of the study {saved.get("name")}, not of {study.name}; choose another'
        )
    root.mkdir(parents=True, exist_ok=True)
    write_json(path, {'name': study.name, 'document': study.document, 'steps': study.steps})
    remove_partial_files(root, STUDY_FILE)


def _partial(path: Path) -> bool:
    """Whether a file is an incomplete study file of a killed process."""
    return path.name.startswith(f'{STUDY_FILE}.') and path.suffix == '.partial'


def open_study(root: Path) -> Study:
    """The study that a folder belongs to. Raises UserError if there is none."""
    saved = read_json(root / STUDY_FILE)
    if not isinstance(saved, dict) or not isinstance(saved.get('document'), dict):
        raise UserError(f'{root}: no {STUDY_FILE} in it; give a folder that emm.py sweep or search made')
    study = read_study(saved['document'], str(saved.get('name')), str(root / STUDY_FILE))
    steps = saved.get('steps')
    if not isinstance(steps, dict) or not all(type(step) is int and step > 0 for step in steps.values()):
        raise UserError(f'{root / STUDY_FILE}: damaged; run the study again with emm.py, which writes it again')
    study.steps.update(steps)
    return study


def open_results(root: Path) -> StudyResults:
    """The results so far of the study that a folder belongs to. Raises UserError if it belongs to none."""
    return collect(open_study(root), root)


def make_sources(root: Path, study: Study) -> None:
    """Make the study's own data sets that do not exist yet, by commands that are printed."""
    folder = root / 'sources'
    folder.mkdir(parents=True, exist_ok=True)
    # The command inherits the lock: another emm.py waits for it, even if this one is killed.
    with locked(folder / 'lock', math.inf) as descriptor:
        assert descriptor is not None
        for name, options in study.sources.items():
            make_source(folder, name, options, descriptor)


def make_source(folder: Path, name: str, options: Options, descriptor: int) -> None:
    path, made_by = folder / f'{name}.zip', folder / f'{name}.json'
    if path.exists() and read_json(made_by) == options:
        return
    if path.exists():
        print(f'{set_aside(path)}: kept, since it was made with other options')
    command = selection_command(options, path, folder)
    print(f'$ {shell_line(command, Resources())}', flush=True)
    words = process_arguments(command, Resources(), {})
    if subprocess.run(words, env=environment(), pass_fds=[descriptor], check=False).returncode:
        raise UserError(f'[sources.{name}]: the data set could not be made; see the message above')
    write_json(made_by, options)
