"""Entry script: convert a network between formats, or show the contents of a network file."""

from pathlib import Path

import click

from dnnlib.util import report_errors


@click.group()
def main() -> None:
    """Convert network snapshots and EDM network pickles, or show their contents. No code in a file is executed."""


@main.command()
@click.argument('source', metavar='IN', type=str)
@click.argument('dest', metavar='OUT', type=str)
@click.option('--overwrite', is_flag=True, help='Replace an existing file at OUT.')
@report_errors
def convert(source: str, dest: str, overwrite: bool) -> None:
    """Convert a network; the extension of OUT determines the format.

    IN is a snapshot or an EDM network pickle. If OUT ends in .safetensors, a snapshot of this toolkit is written. If
    OUT ends in .pt, a plain dictionary of tensors is written, which EDM's own classes can load with load_state_dict.

    \b
    python snapshot_tool.py convert edm-cifar10-32x32-uncond-vp.pkl edm-cifar10.safetensors
    python snapshot_tool.py convert runs/00000-…/network-snapshot-002000.safetensors weights.pt
    """
    from training.snapshot_conversion import convert_network

    convert_network(source, dest, overwrite)


@main.command()
@click.argument('source', metavar='FILE', type=str)
@report_errors
def show(source: str) -> None:
    """Print a network's architecture, arguments, number of parameters, training progress, and hash."""
    from training.snapshot_conversion import describe_network

    for name, value in describe_network(Path(source)).items():
        print(f'{name + ":":<14}{value}')


if __name__ == '__main__':
    main()
