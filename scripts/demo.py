"""The main job on real images in minutes: training sets of three sizes, a network on each, and how much each replays.

`make demo` runs it. Every step is a command that is printed first and can be typed as well; what is done is not done again.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from dataset_utils import open_source
from dnnlib.util import format_time, report_errors
from evaluation.images import rms_per_pixel
from evaluation.neighbors import nearest_neighbors
from evaluation.report import Curve, RatioPoint, ratio_figure, save_figure, stack_galleries

ROOT = Path(__file__).resolve().parents[1]
SIZES = [20, 50, 400]
# Equally many epochs, the paper's rule, would take the largest set 20 times as long as the smallest.
TRAINING_IMAGES = 76_800
BATCH_SIZE = 32
WARMUP_KIMG, EMA_KIMG = 8, 5
NUM_SEEDS = 512


@click.command()
@click.option(
    '--outdir',
    metavar='DIR',
    type=click.Path(path_type=Path),
    default='demo-out',
    show_default=True,
    help='Where to save everything.',
)
@click.option(
    '--precision',
    metavar='fp32|bf16',
    type=click.Choice(['fp32', 'bf16']),
    default='fp32',
    show_default=True,
    help='Arithmetic of the networks.',
)
@report_errors
def main(outdir: Path, precision: str) -> None:
    """Train a small diffusion model on 20, 50 and 400 handwritten digits, and count the copies that each makes."""
    start = time.monotonic()
    results = []
    for number, size in enumerate(SIZES, start=1):
        print(f'\n=== {number} of {len(SIZES)}: {size} training images ===', flush=True)
        data, run_dir = outdir / f'digits-{size}.zip', outdir / f'digits-{size}'
        epochs = TRAINING_IMAGES // size
        if not data.exists():
            run('-m', 'dataset_utils', 'size', '--source=digits', f'--dest={data}', f'--max-images={size}')
        run(
            'train.py', f'--outdir={run_dir}', '--nosubdir', f'--data={data}', '--preset=digits', f'--epochs={epochs}',
            '--snapshots=2', f'--batch={BATCH_SIZE}', f'--warmup={WARMUP_KIMG * 1000 // size}',
            f'--ema={EMA_KIMG * 50 / size:g}', f'--precision={precision}',
        )  # fmt: skip
        run('mem_ratio.py', f'--expdir={run_dir}', f'--knn-ref={data}', f'--seeds=0-{NUM_SEEDS - 1}', '--batch=256')
        results.append({**best_record(run_dir), 'unseen_distance': unseen_distance(data)})
    report(outdir, results)
    print(f'Everything took {format_time(time.monotonic() - start)}.')


def run(*arguments: str) -> None:
    """Print a command and run it; its failure ends the demo."""
    print(f'\n$ python {shlex.join(arguments)}', flush=True)
    script = arguments if arguments[0] == '-m' else (str(ROOT / arguments[0]), *arguments[1:])
    finished = subprocess.run([sys.executable, *script], env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def best_record(run_dir: Path) -> dict[str, Any]:
    """The record of the snapshot with the highest ratio."""
    lines = (run_dir / 'mem_traj.jsonl').read_text(encoding='utf-8').splitlines()
    return max((json.loads(line) for line in lines), key=lambda record: (record['ratio'], record['kimg']))


def unseen_distance(data: Path) -> float:
    """Mean distance of the digits that are not in a training set to their nearest in it, in pixel levels."""
    trained = open_source(str(data)).load()
    known = {image.tobytes() for image in trained}
    unseen = np.stack([image for image in open_source('digits').load() if image.tobytes() not in known])
    _, squared_distances = nearest_neighbors(unseen, trained, k=1)
    return float(rms_per_pixel(squared_distances[:, 0], trained[0].size).mean())


def report(outdir: Path, results: list[dict[str, Any]]) -> None:
    """Print the table, and write the figure and the gallery."""
    print(f'\nHighest memorization ratio by training-set size ({NUM_SEEDS} generated images each)\n')
    print('    |D|   epochs   memorized   95 % interval    distance to nearest   of unseen digits')
    for r in results:
        print(
            f'{r["dataset_size"]:>7} {r["epochs"]:>8.0f} {100 * r["ratio"]:>9.1f} %   '
            f'{100 * r["ratio_low"]:>4.1f} to {100 * r["ratio_high"]:>5.1f} % {r["mean_distance"]:>16.1f} '
            f'{r["unseen_distance"]:>20.1f}'
        )
    print(
        f'\nAll three saw equally many images ({TRAINING_IMAGES:,}), not equally many epochs as in the paper: that would '
        f'take the\nlargest set {SIZES[-1] // SIZES[0]} times as long as the smallest. Distances are root mean squares per '
        f'pixel, of 255 levels.'
    )
    points = [RatioPoint(r['dataset_size'], r['ratio'], r['ratio_low'], r['ratio_high']) for r in results]
    figure, gallery = outdir / 'ratio.png', outdir / 'gallery.png'
    curve = Curve('highest ratio', points)
    save_figure(figure, ratio_figure([curve], 'Handwritten digits: small training sets are replayed'))
    captions = [
        f'{r["dataset_size"]} training images: {100 * r["ratio"]:.1f} % copies. '
        f'Generated (left) beside the nearest training image (right); copies in a red frame.'
        for r in results
    ]
    sources = [outdir / f'digits-{r["dataset_size"]}' / 'mem_gallery.png' for r in results]
    stack_galleries(gallery, list(zip(captions, sources, strict=True)))
    print(f'\nFigure:  {figure}\nGallery: {gallery}')


if __name__ == '__main__':
    main()
