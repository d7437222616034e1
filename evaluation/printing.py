"""Records as readable text: a log line, and tables of records and their metrics."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dnnlib.text_tables import aligned
from dnnlib.util import counted, format_time, significant
from evaluation.metrics import METRICS
from evaluation.records import FAR

FAR_SHARE = 0.2
FAR_TEXT = 'far from any data'


def log_line(record: Mapping[str, Any]) -> str:
    return (
        f'{record["snapshot"]}  kimg {_known(record["kimg"]):<9} epochs {_known(record["epochs"]):<9} '
        f'memorized {record["num_memorized"]}/{record["num_images"]}  ratio {100 * record["ratio"]:.2f} % '
        f'[{100 * record["ratio_low"]:.2f}, {100 * record["ratio_high"]:.2f}]  '
        f'mean distance {distance_text(record)}  {quality_text(record)}time {format_time(record["seconds"])}'
    )


def quality_text(record: Mapping[str, Any]) -> str:
    """The record's Fréchet distances for a log line; empty if the record has none."""
    found = record.get('metrics', {}).get('frechet')
    if found is None:
        return ''
    sets = {'training': found['to_training'], 'held-out': found['to_test']}
    return (
        f'Fréchet {", ".join(f"{significant(value, 5)} {name}" for name, value in sets.items() if value is not None)}  '
    )


def far_share(record: Mapping[str, Any]) -> float | None:
    """The share of generated images that are far from any data, like noise; None in old records, which lack num_far."""
    return None if record.get('num_far') is None else record['num_far'] / record['num_images']


def is_far(record: Mapping[str, Any]) -> bool:
    """Whether more than FAR_SHARE = 20 % of the generated images are far from any data; the ratio then means little.

    For training sets of 20 to 5,000 images, 0 to 13 % of new photographs and digits of the same kind were far. For a
    record without num_far, the images count as far if the mean distance exceeds FAR reference distances.
    """
    share, reference = far_share(record), record.get('reference_distance')
    if share is not None:
        return share > FAR_SHARE
    return reference is not None and record['mean_distance'] > FAR * reference


def distance_text(record: Mapping[str, Any]) -> str:
    """Format the mean distance, such as '7.51', or '90.12 (85 % of images far from any data)'."""
    text, share = f'{record["mean_distance"]:.2f}', far_share(record)
    if not is_far(record):
        return text
    return f'{text} ({FAR_TEXT})' if share is None else f'{text} ({100 * share:.0f} % of images {FAR_TEXT})'


def _known(value: float | None) -> str:
    return 'unknown' if value is None else f'{value:.1f}'


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """The ratio in each record, and a table of metrics if there are any."""
    if len(records) == 1:
        (record,) = records
        parts = [f'Memorization ratio: {ratio_text(record)} of {counted(record["num_images"], "image", "d")}']
        parts += [f'Mean distance: {distance_text(record)}'] * is_far(record)
    else:
        parts = [table_of_records(records)]
    return '\n'.join([*parts, *measured_lines(records)])


def measured_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines about the parts that the records have: copies under a second rule; copied images; metrics; noise."""
    lines = []
    if 'copies' in records[0]:
        lines.append(copies_text(records[0]['copies'], is_alone=len(records) == 1))
    if len(records) == 1 and 'copied' in records[0]:
        lines.append(copied_text(records[0]['copied']))
    lines += [table_of_metrics(records)] * any('metrics' in record for record in records)
    return lines + noise_note(records)


def noise_note(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A list with advice if many images of a trained network are far from any data, otherwise an empty list."""
    if not any(record.get('kimg') and is_far(record) for record in records):
        return []
    return [
        'Note: many images are far from any data. If they look like noise, a lower `sigma_max` (such as 10) or longer '
        'training can help, because networks often denoise worst at the highest noise levels, where sampling starts.'
    ]


def copies_text(copies: Mapping[str, Any], is_alone: bool) -> str:
    """A text such as 'Copies in features, rule cosine:0.6: 12.00 % (…); background, 800 held-out images: 0.50 % (…)'.

    is_alone: whether there is a single record. Otherwise, the share of copies is given in the table of records.
    """
    text, background = f'Copies in {copies["space"]}, rule {copies["rule"]}', copies['background']
    text += f': {ratio_text(copies)}' * is_alone
    if background is None:
        return text
    return f'{text}; background, {background["num_images"]} held-out images: {ratio_text(background)}'


def copied_text(copied: Mapping[str, Any]) -> str:
    """A text such as 'Copied: 18 training images, 90.00 % of the set; most copies: class 3 (40), class 5 (12)'."""
    classes = ', '.join(f'class {entry["class"]} ({entry["copies"]})' for entry in copied['classes'])
    text = f'Copied: {counted(copied["num_images"], "training image")}, {100 * copied["share"]:.2f} % of the set'
    return f'{text}; most copies: {classes}' if classes else text


def ratio_text(record: Mapping[str, Any]) -> str:
    """Format a ratio, such as '40.00 % (95 % interval 30.94 to 49.80 %)'."""
    low, high = 100 * record['ratio_low'], 100 * record['ratio_high']
    return f'{100 * record["ratio"]:.2f} % (95 % interval {low:.2f} to {high:.2f} %)'


def table_of_records(records: Sequence[Mapping[str, Any]]) -> str:
    """A table with one line per set of images."""
    rows = [['images', 'count', 'copies', '95 % interval', 'mean distance']]
    rows[0] += ['training images copied'] * ('copied' in records[0])
    if 'copies' in records[0]:
        rows[0] += [f'copies in {records[0]["copies"]["space"]}', '95 % interval']
    for record in records:
        row = [_name(record), str(record['num_images']), *_shares(record), distance_text(record)]
        row += [str(record['copied']['num_images'])] if 'copied' in record else []
        rows.append(row + (_shares(record['copies']) if 'copies' in record else []))
    return aligned(rows)


def _shares(record: Mapping[str, Any]) -> list[str]:
    interval = f'{100 * record["ratio_low"]:.2f} to {100 * record["ratio_high"]:.2f} %'
    return [f'{100 * record["ratio"]:.2f} %', interval]


def table_of_metrics(records: Sequence[Mapping[str, Any]]) -> str:
    """A table with one line per number in a metric, and one column per set of images.

    Numbers in lists are omitted. The last column shows which values indicate memorization.
    """
    columns = [dict(numbers_of(record.get('metrics', {}))) for record in records]
    names = list(dict.fromkeys(name for column in columns for name in column))
    space = next((record['metrics_space'] for record in records if 'metrics' in record), '')
    rows = [[f'metrics in {space}', *map(_name, records), 'if memorized']]
    rows += [[name, *(_shown(column.get(name)) for column in columns), _if_memorized(name)] for name in names]
    counts = {
        (column['frechet.num_generated'], count)
        for column in columns
        for name, count in column.items()
        if name in ('frechet.num_training', 'frechet.num_test') and count is not None
    }
    notes = ['Note: Fréchet distances for different numbers of images cannot be compared.'] * (len(counts) > 1)
    for record in records:
        if frechet := record.get('metrics', {}).get('frechet'):
            sizes = (frechet[name] for name in ('num_generated', 'num_training', 'num_test'))
            notes += few_images_note(min(size for size in sizes if size is not None), frechet.get('num_features', 0))
    return '\n'.join([aligned(rows), *dict.fromkeys(notes)])


def _if_memorized(name: str) -> str:
    metric, _, number = name.partition('.')
    return METRICS[metric].memorized.get(number, '') if metric in METRICS else ''


def few_images_note(num_images: int, num_features: int) -> list[str]:
    """A list with a note if there are too few images for the covariance of the features, otherwise an empty list."""
    if num_images > num_features:
        return []
    return [
        f'Note: {num_images} images are too few for the covariance of {num_features} features, so the Fréchet distance '
        f'depends strongly on the number of images. Compare it only with values for the same number of images.'
    ]


def _name(record: Mapping[str, Any]) -> str:
    return record['images'] if 'images' in record else record['snapshot']


def numbers_of(values: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, float | None]]:
    """Yield each number in the metrics' results and its name, such as 'frechet.difference'; lists are skipped."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers_of(value, f'{prefix}{name}.')
        elif not isinstance(value, list):
            yield f'{prefix}{name}', value


def _shown(value: float | None) -> str:
    return '-' if value is None else metric_text(value, 6)


def metric_text(value: float, digits: int) -> str:
    """Format a number in a metric; only huge ones, such as kernel distances of pixels, are written with an exponent."""
    return significant(value, digits) if abs(value) < 1e9 else f'{value:.{digits}g}'
