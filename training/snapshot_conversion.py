"""Converts network files between formats and describes them."""

import json
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, counted, file_sha256, kimg_text
from training.snapshot import is_pickle, load_network, newest_snapshot, read_info, save_network, save_weights


def convert_network(source: str, dest: str, overwrite: bool = False) -> None:
    """Convert a snapshot or network pickle to a snapshot (.safetensors) or a dictionary of tensors (.pt).

    overwrite: whether to replace an existing file.
    Raises UserError if `dest` has another extension or exists, or if the source does not contain a complete network.
    """
    path = Path(dest)
    if path.suffix not in ('.safetensors', '.pt'):
        raise UserError(f'{dest}: the name must end in .safetensors (a snapshot) or .pt (a dictionary of tensors)')
    if path.exists() and not overwrite:
        raise UserError(f'{dest} already exists; add `overwrite` to replace it, or give another name')
    weights, info = load_network(source).state_dict(), read_info(source)
    if path.suffix == '.pt':
        save_weights(path, weights)
    else:
        save_network(path, weights, info)
    print(f'{dest}: {info.network.class_name}, {len(weights)} tensors')


def describe_network(source: Path) -> dict[str, Any]:
    """The properties of a network file, as text keyed by name. Raises UserError if the file is incomplete."""
    path = newest_snapshot(source)
    net, info = load_network(path), read_info(path)
    epochs = info.epochs()
    progress = 'unknown' if info.kimg is None else kimg_text(info.kimg)
    return {
        'File': f'{path.name}, {"EDM network pickle" if is_pickle(path) else "snapshot"}',
        'SHA-256': file_sha256(path),
        'Architecture': f'{info.network.class_name} with a {type(net.model).__name__}',
        'Arguments': json.dumps(info.network.arguments),
        'Parameters': f'{net.num_parameters:,}',
        'Training': progress if epochs is None else f'{progress}, {counted(epochs, "epoch", digits=6)}',
        'Training set': describe_dataset(info.dataset, info.dataset_size, info.dataset_sha256),
        'Precision': info.precision,
        'EMA': json.dumps(info.ema) if info.ema else 'unknown',
    }


def describe_dataset(name: str | None, size: int | None, sha256: str | None) -> str:
    parts = [
        ascii(name)[1:-1] if name else '',
        counted(size, 'image') if size else '',
        f'SHA-256 {sha256}' if sha256 else '',
    ]
    return ', '.join(filter(None, parts)) or 'unknown'
