"""A study page with every kind of content, optionally with names that contain hostile HTML."""

import numpy as np

from evaluation.effective_memorization import EMM, Bound
from studies.report.drawing import figure_bytes
from studies.report.emm_plots import emm_figure
from studies.report.gallery import GalleryItem
from studies.report.page import (
    Cell,
    Page,
    PageFigure,
    PagePoint,
    PageTable,
    Section,
    Sentences,
    Strips,
    Trainings,
)
from studies.report.ratio_plots import Curve, RatioPoint, RunHistory, ratio_figure, run_figure

HOSTILE = '<script>document.title = "taken"</script>"><img src=x onerror=alert(1)>'
LONG = 'an_option_whose_name_has_no_place_to_break_' * 4
COPIES, OTHERS = 5, 7
PAIRS, FIGURES = 16, 4


def sample_page(hostile: bool = False) -> Page:
    """A page of four runs. The galleries of two runs contain COPIES copies and OTHERS other images in total. The strips
    contain PAIRS pairs of a generated image and its nearest training image."""
    name = f'{HOSTILE} {LONG}' if hostile else 'width 16'
    points = [
        RatioPoint(size, ratio, ratio - 0.02, ratio + 0.01) for size, ratio in ((20, 0.97), (50, 0.55), (400, 0.1))
    ]
    curves = [Curve('width 16', points), Curve('width 32', [RatioPoint(50, 0.93, 0.9, 0.95), points[2]])]
    bars = [('width 16', EMM(Bound(25), Bound(23), Bound(27))), ('width 32', EMM(*[Bound(400, '≥')] * 3))]
    return Page(
        title=name if hostile else 'Width of the network',
        description=name if hostile else 'Three sizes of the built-in digits, two widths, one repeat each.',
        updated='Updated 3 May 2026, 12:00 UTC. Training runs: 2 done, 1 running, 1 failed.',
        sections=[
            Section(
                'finding',
                'Finding',
                [
                    Sentences(['The EMM ranges from 25 to 400.'], 'lead'),
                    Sentences(
                        ['50 training images are memorized more than 20, and their intervals do not overlap.', name],
                        'warning',
                    ),
                    PageFigure('Ratio by size.', 'Two curves.', figure_bytes(ratio_figure(curves, 'Width'), 'svg')),
                    Strips(
                        [(name, gallery(3, 5, channels=3)), ('50 training images', gallery(1, 7, channels=1))], name
                    ),
                ],
            ),
            Section(
                'figures',
                'Figures',
                [PageFigure('EMM by width.', 'Two intervals.', figure_bytes(emm_figure(bars, 'Width'), 'png'))],
            ),
            Section('tables', 'Tables', [sample_table(name)]),
            Section('trainings', 'Training runs', [Trainings(sample_points(name))]),
        ],
    )


def sample_points(name: str) -> list[PagePoint]:
    return [
        sample_point('point-1', name, 0.97, gallery(3, 2, channels=1)),
        sample_point('point-2', name, 0.55, gallery(2, 5, channels=3)),
        PagePoint('point-3', '400 training images', group=name, state='running', message=f'tick 3 {name}'),
        PagePoint('point-4', '800 training images', group=name, state='failed', message='Error: no space left'),
    ]


def sample_table(name: str) -> PageTable:
    header = ['width', '|D|', 'ratio', 'copies', 'mean distance']
    row = [Cell('97.0 %', '95.0 to 98.0', share=0.97), Cell('15,000', 'of 30,000'), Cell('7.5')]
    rows = [[Cell(name), Cell(f'{size:,}', '3 repeats', anchor='point-2'), *row] for size in (20, 50, 4000)]
    return PageTable('Memorization ratio by |D|', header, rows, note='Intervals: Wilson over images.')


def sample_point(anchor: str, name: str, ratio: float, items: list[GalleryItem]) -> PagePoint:
    rng = np.random.default_rng(0)
    kimg = np.arange(1, 101) * 0.5
    losses = list(zip(kimg.tolist(), (0.5 / kimg * rng.uniform(0.8, 1.2, 100)).tolist(), strict=True))
    ratios = [(10, 0.1, 0.05, 0.2), (20, 0.6, 0.55, 0.65), (50, ratio, ratio - 0.02, ratio + 0.02)]
    figure = run_figure(RunHistory(losses, ratios), '')
    assert figure is not None
    return PagePoint(
        anchor=anchor,
        name='50 training images, repeat 1',
        group=name,
        ratio=ratio,
        headline=f'{100 * ratio:.1f} % copies [95.0, 98.0]',
        facts=[('Copies', '497 of 512 images'), ('Mean distance to nearest', '7.51 grey levels'), ('Time', '1m 20s')],
        figure=PageFigure('Loss and ratio', 'Two curves.', figure_bytes(figure, 'svg')),
        configuration={
            'dataset': {'path': name, 'size': 50},
            'network': {
                'class_name': 'VPPrecond',
                'arguments': {'channel_mult': [2, 2, 2], 'dropout': 0.0, LONG: LONG},
            },
            'seed': 1024,
            'snapshots': list(range(0, 4000, 10)),
            'ema': None,
            'xflip': False,
        },
        commands=[f'python train.py --outdir=runs/{name} --data=data.zip --preset=digits --epochs=500 --snapshots=2'],
        gallery=items,
        gallery_note=f'{len(items)} of 512 images, closest to the threshold first.',
    )


def gallery(copies: int, others: int, channels: int) -> list[GalleryItem]:
    rng = np.random.default_rng(channels)
    edge = 8 if channels == 1 else 32

    def image() -> np.ndarray:
        return rng.integers(256, size=[channels, edge, edge], dtype=np.uint8)

    memorized = [True] * copies + [False] * others
    return [
        GalleryItem(seed, image(), image(), image(), 10.0, 35.0 - 10 * (not m), m) for seed, m in enumerate(memorized)
    ]
