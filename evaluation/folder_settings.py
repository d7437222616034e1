"""`settings.json` in a folder of generated images: everything that determines the images except their seeds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib.text_tables import write_text
from dnnlib.typed import parse_json
from dnnlib.util import UserError

SETTINGS_NAME = 'settings.json'


def require_settings(
    folder: Path,
    settings: Mapping[str, Any],
    subdirs: bool,
    where: str | None = None,
    remedy: str = 'choose another folder',
) -> None:
    """Raise UserError if the folder holds images with different settings, or without settings, or in another layout.

    subdirs: whether images belong in subfolders (see `evaluation.pictures.image_path`); otherwise none may be there.
    where, remedy: the folder, and what to do, in the message.
    """
    path, where = folder / SETTINGS_NAME, where or f'`outdir`={folder}'
    if not path.exists():
        if next(folder.glob('**/*.png'), None):
            raise UserError(f'{where} contains images of unknown origin; {remedy}')
        return
    try:
        old = parse_json(path.read_bytes(), dict[str, Any], '')
    except UserError as error:
        raise UserError(f'{path} cannot be read; {remedy}') from error
    new = json.loads(json.dumps(settings))  # infinity and tuples become what JSON stores for them
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            # Only the settings of a closed form have `dataset`.
            is_network = name in ('generator', 'sha256') and 'dataset' not in new
            kind = 'made with another network' if is_network else 'made with other settings'
            raise UserError(
                f'{where} contains images {kind} ({name} was {old.get(name)}, not {new.get(name)}); {remedy}'
            )
    seed = '[0-9]' * 6 + '*'
    if next(folder.glob(f'{seed}.png' if subdirs else f'{seed}/{seed}.png'), None):
        layout, change = ('outside', 'remove') if subdirs else ('in', 'add')
        raise UserError(f'{where} contains images {layout} subfolders; {change} `subdirs`, or {remedy}')


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write settings.json unless it exists."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(dict(settings), indent=2) + '\n')
