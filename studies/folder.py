"""The folder of a study: what study it is of, and the data sets that the study makes once for all of its points."""

import subprocess
from pathlib import Path

from dnnlib.util import UserError
from studies.commands import Resources, environment, process_arguments, selection_command, shell_line
from studies.points import read_json, set_aside, write_json
from studies.study import Study, read_study

STUDY_FILE = 'study.json'


def claim(root: Path, study: Study) -> None:
    """Make the folder a study's, or keep it so. Raises UserError where it is another study's, or holds other files."""
    saved = read_json(root / STUDY_FILE)
    if saved is None and root.exists() and any(root.iterdir()):
        raise UserError(f'--outdir={root}: not empty, and not the folder of a study; choose another')
    if saved is not None and saved.get('name') != study.name:
        raise UserError(
            f'--outdir={root}: the folder of the study {saved.get("name")}, not of {study.name}; choose another'
        )
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / STUDY_FILE, {'name': study.name, 'document': study.document, 'steps': study.steps})


def open_study(root: Path) -> Study:
    """The study that a folder is of. Raises UserError where it is none's."""
    saved = read_json(root / STUDY_FILE)
    if not isinstance(saved, dict) or not isinstance(saved.get('document'), dict):
        raise UserError(f'{root}: no {STUDY_FILE} in it; give a folder that emm.py sweep or search made')
    study = read_study(saved['document'], str(saved.get('name')), str(root / STUDY_FILE))
    study.steps.update({str(name): int(step) for name, step in dict(saved.get('steps') or {}).items()})
    return study


def make_sources(root: Path, study: Study) -> None:
    """Make the study's own data sets that are not there yet, by commands that are printed."""
    folder = root / 'sources'
    for name, options in study.sources.items():
        path, made_by = folder / f'{name}.zip', folder / f'{name}.json'
        if path.exists() and read_json(made_by) == options:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            print(f'{set_aside(path)}: made with other options, and kept')
        command = selection_command(options, path, folder)
        print(f'$ {shell_line(command, Resources())}', flush=True)
        finished = subprocess.run(process_arguments(command, Resources(), {}), env=environment(), check=False)
        if finished.returncode:
            raise UserError(f'[sources.{name}]: the data set could not be made; see the message above')
        write_json(made_by, options)
