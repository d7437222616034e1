"""The command line of `python snapshot_tool.py`: convert a network between formats, or show what a file holds."""

import json
from pathlib import Path
from typing import Any

import click

from dnnlib.util import UserError, file_sha256, report_errors
from training.snapshot import is_pickle, load_network, read_info, save_network, save_weights


@click.group()
def main() -> None:
    """Convert network snapshots and EDM's network pickles, or show what is in them. Nothing in a file is executed."""


@main.command()
@click.argument('source', metavar='IN', type=str)
@click.argument('dest', metavar='OUT', type=str)
@report_errors
def convert(source: str, dest: str) -> None:
    """Convert a network; the name of OUT chooses the format.

    .safetensors is a snapshot of this toolkit. .pt is a plain dictionary of tensors, which load_state_dict of EDM's own
    classes takes. IN is a snapshot, or a network pickle of EDM.

    \b
    python snapshot_tool.py convert edm-cifar10-32x32-uncond-vp.pkl edm-cifar10.safetensors
    python snapshot_tool.py convert runs/00000-…/network-snapshot-002000.safetensors weights.pt
    """
    path = Path(dest)
    if path.suffix not in ('.safetensors', '.pt'):
        raise UserError(f'{dest}: the name must end in .safetensors (a snapshot) or .pt (a dictionary of tensors)')
    weights, info = load_network(source).state_dict(), read_info(source)
    if path.suffix == '.pt':
        save_weights(path, weights)
    else:
        save_network(path, weights, info)
    print(f'{dest}: {info.network.class_name}, {len(weights)} tensors')


@main.command()
@click.argument('source', metavar='FILE', type=str)
@report_errors
def show(source: str) -> None:
    """Print a network's architecture, arguments, number of parameters, progress of training, and hash."""
    for name, value in describe(Path(source)).items():
        print(f'{name + ":":<14}{value}')


def describe(path: Path) -> dict[str, Any]:
    """What `show` prints, by name. Raises UserError where the file holds no whole network."""
    net, info = load_network(path), read_info(path)
    epochs = info.epochs()
    progress = 'unknown' if info.kimg is None else f'{info.kimg:g} kimg'
    return {
        'File': f'{path.name}, {"network pickle of EDM" if is_pickle(path) else "snapshot"}',
        'SHA-256': file_sha256(path),
        'Architecture': f'{info.network.class_name} of a {type(net.model).__name__}',
        'Arguments': json.dumps(info.network.arguments),
        'Parameters': f'{sum(parameter.numel() for parameter in net.parameters()):,}',
        'Training': progress if epochs is None else f'{progress}, {epochs:g} epochs',
        'Training set': describe_dataset(info.dataset, info.dataset_size, info.dataset_sha256),
        'Precision': info.precision,
        'EMA': json.dumps(info.ema) if info.ema else 'unknown',
    }


def describe_dataset(name: str | None, size: int | None, sha256: str | None) -> str:
    parts = [
        ascii(name)[1:-1] if name else '',
        f'{size:,} images' if size else '',
        f'SHA-256 {sha256}' if sha256 else '',
    ]
    return ', '.join(filter(None, parts)) or 'unknown'


if __name__ == '__main__':
    main()
