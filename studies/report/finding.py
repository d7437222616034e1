"""A study's current result in sentences: the first lines of its page and the last lines in the terminal."""

from typing import Any

from evaluation.effective_memorization import bracket
from evaluation.printing import FAR_TEXT, far_share, is_far
from studies.report.run_files import point_records
from studies.results import Outcome, StudyResults

FAR_NOTE = (
    f'the share of generated images that are {FAR_TEXT}. Their distance to the nearest training image is more than √2 '
    'times the mean distance from a training image to its nearest neighbour. Such images can be noise, so a low ratio '
    'does not show generalization.'
)


def finding(results: StudyResults) -> str:
    """The result of a study in one sentence, and the combinations that it covers if there are others."""
    outcomes = [outcome for outcome in results.outcomes if outcome.ratios]
    if not outcomes:
        return 'No training run is finished yet.'
    if all(_is_noise(result.record) for result in results.points if result.record is not None):
        advised = '; train longer' * any(o.combination.settings.denoiser is None for o in outcomes)
        return f'No finding yet: the generated images are noise, or {FAR_TEXT}{advised}.'
    known = [outcome for outcome in outcomes if outcome.emm is not None]
    covered = known if len(known) > 1 else outcomes
    text = statement(covered, results.study.threshold)
    if len(covered) == len(results.outcomes):
        return text
    several = f'{len(covered)} of {len(results.outcomes)} combinations'
    return f'{text} So far, this covers only {covered[0].combination.name if len(covered) == 1 else several}.'


def statement(outcomes: list[Outcome], threshold: float) -> str:
    """A sentence about combinations with results: about their EMMs if all of them have one, else about their ratios."""
    if all(outcome.emm is not None for outcome in outcomes):
        return emm_sentence(outcomes[0], threshold) if len(outcomes) == 1 else comparison(outcomes, threshold)
    sizes = sorted({outcome.ratios[0].size for outcome in outcomes})
    size = ' to '.join(f'{size:,}' for size in dict.fromkeys((sizes[0], sizes[-1])))
    ranked = sorted(outcomes, key=lambda outcome: outcome.ratios[0].mean)
    lowest, highest = ((percent(outcome.ratios[0].mean), of(outcome)) for outcome in (ranked[0], ranked[-1]))
    if len(outcomes) == 1:
        return f'With {size} training images, {percent(ranked[0].ratios[0].mean)} of the generated images are copies.'
    intervals = [outcome.ratios[0].interval for outcome in outcomes]
    ends = [(interval.low, interval.high) for interval in intervals]
    return range_sentence(f'With {size} training images, the share of copies', lowest, highest, ends)


def _is_noise(record: dict[str, Any]) -> bool:
    share = far_share(record)
    return is_far(record) if share is None else share > 0.5


def range_sentence(
    quantity: str,
    lowest: tuple[str, str],
    highest: tuple[str, str],
    intervals: list[tuple[float, float]],
    unit: str = '',
) -> str:
    """A sentence about the lowest and highest of several numbers.

    quantity: the words that name what the numbers measure. lowest, highest: a number as text, and the words that name
    its combination. intervals: the 95 % intervals of all numbers. unit: the words after the lowest number.
    """
    if lowest[0] == highest[0]:
        return f'{quantity} is {lowest[0]}{unit} for every combination.'
    text = f'{quantity} ranges from {lowest[0]}{unit}{lowest[1]} to {"".join(highest)}'
    overlap = max(low for low, _ in intervals) <= min(high for _, high in intervals)
    return f'{text}, but all 95 % intervals overlap.' if overlap else f'{text}.'


def emm_sentence(outcome: Outcome, threshold: float) -> str:
    """The EMM of one combination, in words."""
    assert outcome.emm is not None
    emm, share = outcome.emm, f'{100 * threshold:.3g} %'
    smallest, largest = outcome.ratios[0], outcome.ratios[-1]
    if emm.estimate.relation == '<':
        return (
            f'No measured training set is memorized: {smallest.size:,} images give {percent(smallest.mean)} copies, '
            f'less than the {share} that the EMM requires.'
        )
    if emm.estimate.relation == '≥':
        return (
            f'Every measured training set is memorized: {largest.size:,} images give {percent(largest.mean)} copies, '
            f'at least the {share} that the EMM requires.'
        )
    return f'The model memorizes training sets of up to about {emm.estimate} images (at least {share} copies).'


def comparison(outcomes: list[Outcome], threshold: float) -> str:
    """The smallest and largest EMM of several combinations, in words."""
    ranked = sorted(outcomes, key=lambda outcome: _order(outcome))
    first, last = ranked[0], ranked[-1]
    assert first.emm is not None
    assert last.emm is not None
    if last.emm.estimate.relation == '<':
        best = max(outcomes, key=lambda outcome: outcome.ratios[0].mean)
        if best.ratios[0].mean == 0:
            return 'No combination memorizes a measured training set: none of the generated images is a copy.'
        return (
            f'No combination memorizes a measured training set: the highest ratio is {percent(best.ratios[0].mean)}'
            f'{of(best)}, below {100 * threshold:.3g} %.'
        )
    ends = [outcome.emm.ends for outcome in outcomes if outcome.emm is not None]
    lowest, highest = (str(first.emm.estimate), of(first)), (str(last.emm.estimate), of(last))
    return range_sentence('The EMM', lowest, highest, ends, ' training images')


def advice(results: StudyResults) -> list[str]:
    """What to do next for each combination whose EMM lies outside the measured sizes, based on its training runs."""
    texts = []
    for outcome in results.outcomes:
        if outcome.emm is None or outcome.emm.estimate.relation == '=' or outcome.next_size is not None:
            continue
        place = f'{outcome.combination.name}: ' if outcome.combination.values else ''
        texts.append(f'Next: {place}{advice_for(outcome)}')
    return texts


def advice_for(outcome: Outcome) -> str:
    assert outcome.emm is not None
    size = (outcome.ratios[-1] if outcome.emm.estimate.relation == '≥' else outcome.ratios[0]).size
    if outcome.emm.estimate.relation == '≥':
        return f'measure training sets of more than {size:,} images, because this size is still memorized.'
    if outcome.combination.settings.denoiser is not None:
        return f'measure training sets of fewer than {size:,} images.'
    points = [result for result in outcome.at(size) if result.record is not None]
    if any(is_far(result.record) for result in points if result.record is not None):
        return (
            f'train longer, or lower the learning rate or sigma_max: with |D| = {size:,}, many images are {FAR_TEXT}.'
        )
    if any(_was_rising(point_records(result.point.folder)) for result in points):
        return f'train longer: the ratio at {size:,} training images was still rising at the last snapshot.'
    return f'measure training sets of fewer than {size:,} images, or train longer.'


def _was_rising(records: list[dict[str, Any]]) -> bool:
    """Whether the last snapshot's ratio lies above the intervals of all earlier snapshots."""
    return len(records) > 1 and records[-1]['ratio'] > max(record['ratio_high'] for record in records[:-1])


def _order(outcome: Outcome) -> tuple[float, float]:
    assert outcome.emm is not None
    return outcome.emm.estimate.value - (outcome.emm.estimate.relation == '<'), outcome.ratios[-1].mean


def bracket_text(outcome: Outcome, threshold: float) -> str:
    """The measured sizes on either side of the EMM, with their ratios, such as '20 (98.6 %) to 50 (24.4 %)'."""
    low, high = bracket(outcome.ratios, threshold)
    return ' to '.join(f'{ratios.size:,} ({percent(ratios.mean)})' for ratios in (low, high) if ratios is not None)


def of(outcome: Outcome) -> str:
    return f' for {outcome.combination.name}' if outcome.combination.values else ''


def percent(share: float) -> str:
    return f'{100 * share:.1f} %'
