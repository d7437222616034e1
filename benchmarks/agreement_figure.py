"""Plot agreement against training-set size, as in docs/noise_levels.md, from results of `diagnose.py agreement`.

    python -m benchmarks.agreement_figure docs/figures/agreement_sizes.png pairs/10-r1 pairs/10-r2 …

Each folder contains an agreement.json and is named SIZE-rREPEAT. The script also prints the means and their intervals.
For a study, `emm.py plot` draws this figure.
"""

import json
from pathlib import Path

import click

from dnnlib.util import report_errors
from evaluation.diagnosis.result_files import text_table
from studies.report.diagnosis import AGREEMENT, mean_row
from studies.report.diagnosis_plots import agreement_by_size
from studies.report.drawing import save_figure


@click.command()
@click.argument('dest', type=click.Path(path_type=Path))
@click.argument('folders', type=click.Path(path_type=Path), nargs=-1, required=True)
@report_errors
def main(dest: Path, folders: tuple[Path, ...]) -> None:
    """Draw agreement against training-set size."""
    measured: dict[int, list[dict]] = {}
    for folder in folders:
        size, _, repeat = folder.name.partition('-r')
        for row in json.loads((folder / 'agreement.json').read_bytes())[0]['rows']:
            measured.setdefault(int(size), []).append({**row, 'repeat': int(repeat)})
    rows = [mean_row({'size': size}, own) for size, own in sorted(measured.items())]
    columns = {'size': '|D|', 'repeats': 'repeats'}
    columns |= {
        n + end: label if end == '' else end[1:] for n, (_, label) in AGREEMENT.items() for end in ('', '_low', '_high')
    }
    print(text_table(rows, columns))
    title = 'Agreement of networks trained on disjoint halves'
    save_figure(dest, agreement_by_size(rows, title, '95 % intervals over repeats'))


if __name__ == '__main__':
    main()
