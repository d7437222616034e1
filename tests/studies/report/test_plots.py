import itertools

import numpy as np
import PIL.Image
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from evaluation.effective_memorization import EMM, Bound
from studies.report.drawing import figure_bytes, save_figure
from studies.report.emm_plots import emm_figure
from studies.report.quality_plots import quality_figure
from studies.report.ratio_plots import (
    Curve,
    RatioPoint,
    RunHistory,
    TrainingCurve,
    ratio_figure,
    run_figure,
    skip_figure,
    training_figure,
    value_figure,
)

POINTS = [RatioPoint(400, 0, 0, 0.01), RatioPoint(20, 0.99, 0.97, 1), RatioPoint(50, 0.25, 0.2, 0.3)]
HOSTILE = ['$\\frac{', '_hidden', '', 'two\nlines\x00', '<script>alert(1)</script>', 'word ' * 40, 'x' * 200, '7 µ 漢']
EMMS = [
    EMM(Bound(40), Bound(36), Bound(46)),
    EMM(Bound(400, '≥'), Bound(300), Bound(400, '≥')),
    EMM(Bound(20, '<'), Bound(20, '<'), Bound(20, '<')),
]


def placements(num_places):
    masks = [[1] * num_places] + [[int(i == j) for j in range(num_places)] for i in range(num_places)]
    return [(mask, RatioPoint(400, 0.5, 0.4, 0.6)) for mask in masks]


def figures(names):
    runs = [TrainingCurve(name, [100, 200], [0.1, 0.5], [0, 0.4], [0.2, 0.6], [False, False]) for name in names]
    title = ' '.join(names)
    return [
        ratio_figure([Curve(name, POINTS) for name in names], title, label=title),
        training_figure(runs, title, label=names[0]),
        run_figure(RunHistory([(1, 0.5), (9, 0.01)], [(5, 0.1, 0, 0.2)]), title),
        emm_figure(list(zip(names, itertools.cycle(EMMS), strict=False)), title),
        value_figure([(name, point) for name, point in zip(names, itertools.cycle(POINTS), strict=False)], title),
        skip_figure(placements(9), [32, 16, 8], title),
    ]


class NotingRenderer(RendererAgg):
    """Records the bounding box, in pixels, of every line of text that it draws."""

    def __init__(self, *size):
        super().__init__(*size)
        self.boxes = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        upright = Bbox([[x, y - height + descent], [x + width, y + descent]])
        turned = Bbox([[x - height + descent, y - width], [x + descent, y]])
        self.boxes.append(turned if angle == 90 else upright)


def text_boxes(figure):
    renderer = NotingRenderer(*figure.get_size_inches() * figure.dpi, figure.dpi)
    figure.draw(renderer)
    return renderer.boxes


def overlap(one, other):
    return min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1


@pytest.mark.filterwarnings('ignore:Glyph')
@pytest.mark.parametrize('names', [['32×32', '16×16', '8×8'], HOSTILE, [str(i) for i in range(12)]])
def test_no_text_overlaps_other_text_or_leaves_the_figure(names):
    for figure in figures(names):
        boxes = text_boxes(figure)
        width, height = figure.get_size_inches() * figure.dpi
        assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)
        assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]


def test_labels_of_close_sizes_do_not_overlap():
    sizes = [20, 50, 55, 58, 60, 61, 62, 64, 66, 70, 395, 400]
    figure = ratio_figure([Curve('', [RatioPoint(size, 0.5, 0.4, 0.6) for size in sizes])], '')
    boxes = text_boxes(figure)
    assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]


def test_ratios_are_plotted_in_percent_against_size_with_the_threshold():
    axes = ratio_figure([Curve('a', POINTS)], 'title').axes[0]
    curve, threshold = axes.lines
    drawn = np.asarray(curve.get_xydata())
    np.testing.assert_allclose(drawn[:: curve.get_markevery()], [[20, 99], [50, 25], [400, 0]])
    emm = 20 + 30 * (99 - 90) / (99 - 25)  # interpolated linearly in |D|
    assert drawn[np.abs(drawn[:, 0] - emm).argmin(), 1] == pytest.approx(90, abs=2)
    assert np.asarray(threshold.get_ydata())[0] == pytest.approx(90)
    assert axes.get_xscale() == 'log'


def test_axes_show_large_numbers_without_an_exponent():
    losses = [(float(kimg), 1e7 / kimg) for kimg in range(1, 3_000_000, 100_000)]
    upper, lower = run_figure(RunHistory(losses, [(5, 0.1, 0, 0.2), (3e6, 0.1, 0, 0.2)]), '').axes
    figure_bytes(lower.get_figure(root=True), 'svg')
    assert lower.xaxis.get_offset_text().get_text() == ''
    assert '1000000' in [label.get_text() for label in lower.get_xticklabels()]
    assert '10,000,000' in [label.get_text() for label in upper.get_yticklabels()]


def test_long_names_that_end_differently_have_different_labels():
    names = [f'Learning rate 0.0002, Batch size {batch}' for batch in (32, 64)]
    curves = [Curve(name, POINTS) for name in names]
    (legend,) = ratio_figure(curves, '').legends
    rows = emm_figure([(name, EMMS[0]) for name in names], '').axes[0].get_yticklabels()
    for texts in (legend.get_texts(), rows):
        assert [' '.join(text.get_text().split()) for text in texts] == names


def test_fractions_of_an_epoch_are_written_out():
    curve = TrainingCurve('', [1, 2], [0.5, 0.5], [0.4, 0.4], [0.6, 0.6], [False, False])
    figure = training_figure([curve], '')
    figure.canvas.draw()
    texts = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(set(texts)) == len(texts)
    assert '0.25' in texts or '0.5' in texts


def test_curves_can_be_distinguished_without_colour():
    figure = ratio_figure([Curve(str(i), POINTS) for i in range(12)], '')
    curves = figure.axes[0].lines[:12]
    looks = {(str(c.get_linestyle()), c.get_marker(), c.get_markerfacecolor() == 'white') for c in curves}
    assert len(looks) == 12


def test_an_emms_marker_shows_whether_it_is_a_value_or_a_bound():
    axes = emm_figure([(str(emm), emm) for emm in EMMS], '').axes[0]
    marks = [(line.get_marker(), line.get_markerfacecolor()) for line in axes.lines if line.get_marker() in list('o><')]
    assert [marker for marker, _ in marks] == ['o', '>', '<']
    assert [face == 'white' for _, face in marks] == [False, True, True]


def test_ratios_by_factor_value_are_plotted_in_percent_with_intervals():
    axes = value_figure([('a', POINTS[1]), ('b', POINTS[2])], '', threshold=0.8).axes[0]
    lines = [np.asarray(line.get_xdata()) for line in axes.lines]
    assert [pytest.approx(list(x)) for x in lines] == [[97, 100], [99], [20, 30], [25], [80, 80]]


@pytest.mark.parametrize(('num_places', 'resolutions'), [(9, [32, 16, 8]), (6, [8, 4, 2]), (4, [8, 4])])
def test_the_cells_below_a_bar_show_its_skip_mask(num_places, resolutions):
    shown = placements(num_places)
    cells = [p for p in skip_figure(shown, resolutions, '').axes[1].patches if isinstance(p, Rectangle)]
    filled = [to_rgb(cell.get_facecolor()[:3]) != to_rgb('white') for cell in cells]
    assert filled == [bool(kept) for mask, _ in shown for kept in mask]


def test_skip_masks_that_do_not_match_the_resolutions_are_refused():
    with pytest.raises(ValueError, match='do not fit'):
        skip_figure(placements(4), [32, 16, 8], '')
    with pytest.raises(ValueError, match='do not fit'):
        skip_figure([*placements(4), *placements(6)], [8, 4], '')


def test_figure_files_match_their_extension_and_are_reproducible(tmp_path):
    for name in ('figure.png', 'figure.svg'):
        path = tmp_path / 'new' / name
        save_figure(path, ratio_figure([Curve('a', POINTS)], 'title'))
        assert path.read_bytes() == figure_bytes(ratio_figure([Curve('a', POINTS)], 'title'), path.suffix[1:])
    with PIL.Image.open(tmp_path / 'new' / 'figure.png') as picture:
        assert picture.format == 'PNG'
        assert 640 <= picture.width <= 800
    assert '<dc:date>' not in (tmp_path / 'new' / 'figure.svg').read_text(encoding='utf-8')


def test_a_run_is_plotted_as_far_as_its_history_is_known():
    losses, ratios = [(5, 0.1), (10, 0.01), (7, float('nan'))], [(10, 1, 0.5, 1), (5, 0.5, 0, 1)]
    above, below = run_figure(RunHistory(losses, ratios), '').axes
    np.testing.assert_allclose(np.asarray(above.lines[0].get_xydata()), [[5, 0.1], [10, 0.01]])
    assert above.get_yscale() == 'log'
    np.testing.assert_allclose(np.asarray(below.lines[0].get_xydata()), [[5, 50], [10, 100]])
    assert len(run_figure(RunHistory([], ratios), '').axes) == 1
    assert run_figure(RunHistory(losses[:1], []), '') is None
    assert run_figure(RunHistory(losses, []), '').get_suptitle() == ''
    name = 'Distance to the closed forms: network-snapshot-000024.safetensors'
    assert run_figure(RunHistory(losses, []), name).get_suptitle().split('\n')[1].startswith('network-snapshot-')


def test_curves_that_coincide_remain_visible():
    first, last = ratio_figure([Curve('a', POINTS), Curve('b', POINTS)], '').axes[0].lines[:2]
    assert first.get_linewidth() > last.get_linewidth()
    assert (np.asarray(first.get_xdata(), float) < np.asarray(last.get_xdata(), float)).all()


@pytest.mark.parametrize('losses', [[0.99, 1.02], [1, 0.3], [1, 0.001]])
def test_the_axis_of_losses_is_labelled_with_plain_numbers(losses):
    figure = run_figure(RunHistory([(1, losses[0]), (2, losses[1])], []), '')
    figure.canvas.draw()
    texts = [label.get_text() for label in figure.axes[0].get_yticklabels(which='both') if label.get_text()]
    assert len(texts) >= 2
    assert all(float(text.replace('−', '-')) > 0 for text in texts)


def crosses(figure):
    """Data coordinates of all crosses in a figure."""
    lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() == 'x']
    return [place for line in lines for place in zip(*line.get_data(), strict=True)]


def test_every_figure_of_ratios_marks_points_with_images_far_from_any_data():
    far, near = RatioPoint(20, 0, 0, 0.1, far=True), RatioPoint(50, 0.5, 0.4, 0.6)
    training = TrainingCurve('net', [100, 200], [0, 0.5], [0, 0.4], [0.1, 0.6], [True, False])
    history = RunHistory([(1, 0.5), (9, 0.01)], [(5, 0, 0, 0.2), (9, 0.5, 0.4, 0.6)], far=[5])
    skips = [([1, 1], near), ([0, 0], far)]
    evaluations = [
        (20, {'ratio': 0, 'num_images': 100, 'num_far': 90, 'metrics': {'frechet': {'to_test': 9}}}),
        (50, {'ratio': 0.5, 'num_images': 100, 'num_far': 0, 'metrics': {'frechet': {'to_test': 3}}}),
    ]
    found = {
        'ratio': (ratio_figure([Curve('net', [far, near])], ''), (20, 0)),
        'epochs': (training_figure([training], ''), (100, 0)),
        'run': (run_figure(history, ''), (5, 0)),
        'skips': (skip_figure(skips, [8, 4], ''), (1, 0)),
        'quality': (quality_figure([('net', evaluations)], '', 'images', 'to_test', 'distance'), (20, 0)),
    }
    for name, (figure, place) in found.items():
        assert crosses(figure) == [place], name
        labels = [axes.get_xlabel() for axes in figure.axes]
        assert any('crosses: images far from any data' in label for label in labels), name
