"""Figures: the memorization ratio by size of the training set, and galleries of several runs in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use('Agg')  # files only: no window, no display needed

import matplotlib.pyplot as plt
import PIL.Image
import PIL.ImageDraw

from dnnlib.util import atomic_file

# A model memorizes a training set when it replays this share of it; the largest such size is the EMM.
EMM_RATIO = 0.9
_CAPTION_HEIGHT = 22


@dataclass(frozen=True)
class RatioPoint:
    """A memorization ratio at a training-set size, with its 95 % interval; all shares in [0, 1]."""

    dataset_size: int
    ratio: float
    ratio_low: float
    ratio_high: float


def ratio_figure(path: Path, points: Sequence[RatioPoint], title: str) -> None:
    """Plot ratio against size as a PNG or SVG, by the path's ending: intervals as bars, the EMM's threshold dashed."""
    points = sorted(points, key=lambda point: point.dataset_size)
    sizes = [point.dataset_size for point in points]
    ratios = [100 * point.ratio for point in points]
    below = [100 * (point.ratio - point.ratio_low) for point in points]
    above = [100 * (point.ratio_high - point.ratio) for point in points]
    figure, axes = plt.subplots(figsize=(6.4, 4), layout='constrained')
    axes.errorbar(sizes, ratios, yerr=[below, above], fmt='o-', color='black', capsize=4, label='highest ratio, 95 %')
    axes.axhline(100 * EMM_RATIO, color='grey', linestyle='--', linewidth=1, label='90 %: effective model memorization')
    axes.set_xscale('log')
    axes.set_xticks(sizes, [f'{size:,}' for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.set_xlabel('Training images |D|')
    axes.set_ylabel('Memorized images (%)')
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=120)
    plt.close(figure)


def stack_galleries(path: Path, galleries: Sequence[tuple[str, Path]], max_height: int = 290) -> None:
    """Write pictures one under the other as a PNG, each below its caption; of each the top `max_height` pixels."""
    pictures: list[PIL.Image.Image] = []
    for _, source in galleries:
        with PIL.Image.open(source) as opened:
            pictures.append(opened.crop((0, 0, opened.width, min(opened.height, max_height))))
    width = max(picture.width for picture in pictures)
    height = sum(picture.height + _CAPTION_HEIGHT for picture in pictures)
    stacked = PIL.Image.new('RGB', (width, height), 'white')
    draw = PIL.ImageDraw.Draw(stacked)
    y = 0
    for (caption, _), picture in zip(galleries, pictures, strict=True):
        draw.text((10, y + 6), caption, fill='black', font_size=13)
        stacked.paste(picture, (0, y + _CAPTION_HEIGHT))
        y += picture.height + _CAPTION_HEIGHT
    with atomic_file(path) as file:
        stacked.save(file, format='PNG')
