"""A race finds the snapshot with the highest ratio without sampling every image of every snapshot.

In the first round, all snapshots are sampled with the same few seeds. After each round, a snapshot is eliminated if its
ratio is significantly below the highest ratio, or if the remaining image budget is only enough for snapshots with
higher ratios. The other snapshots are sampled with more seeds, and the winner with all seeds. Because all snapshots use
the same seeds, differences between their ratios are paired.
"""

from collections.abc import Callable
from math import ceil

import numpy as np

# The image budget of a race, as a share of the images needed to sample all snapshots with all seeds.
SHARE = 1 / 4
# The budget is at least the number of images needed to sample this many snapshots with all seeds.
LEAST = 2
# In each round, the number of seeds grows by the factor GROWTH, and the number of snapshots is planned to fall in
# proportion to seeds^-DECAY. Both values were chosen by simulating races.
GROWTH = 1.25
DECAY = 0.75
# A snapshot is eliminated if it is more than this many standard errors below the leader. The value is for a 99 %
# interval: 95 % would be too low, because there are several rounds.
QUANTILE = 2.576


def race(num: int, total: int, step: int, copies: Callable[[int, int], np.ndarray]) -> list[int]:
    """Run a race between `num` snapshots; return the number of seeds that each got. The winner gets `total` seeds.

    total: number of all seeds. step: a snapshot gets either all seeds or a multiple of `step`. copies: function of a
    snapshot's position and a number of seeds. It returns which images are copies, bool [number of seeds], and is called
    with increasing numbers of seeds.
    If snapshots have the same ratio, the first one wins.
    """
    budget = max(SHARE * num, LEAST) * total
    lengths, racing, length = [0] * num, list(range(num)), first_length(num, total, step, budget)
    while True:
        flags = {place: copies(place, length) for place in racing}
        for place in racing:
            lengths[place] = length
        if length >= total:
            return lengths
        left, longer = budget - sum(lengths), min(total, ceil(length * GROWTH / step) * step)
        # Reserve enough images to evaluate the winner on all seeds.
        affordable = min(round(left / planned(length, total)), int((left - (total - longer)) / (longer - length)))
        racing = ahead(flags)[: max(1, affordable)]
        length = total if len(racing) == 1 else longer


def first_length(num: int, total: int, step: int, budget: float) -> int:
    """The number of seeds in the first round: the largest number that leaves enough images for later rounds."""
    lengths = range(step, total, step)
    fitting = [length for length in lengths if num * (length + planned(length, total)) <= budget]
    return total if num * total <= budget else max(fitting, default=min(step, total))


def planned(length: int, total: int) -> float:
    """The number of images that later rounds need for each snapshot left in the race, if eliminations go as planned."""
    power = 1 - DECAY
    return length**DECAY * (total**power - length**power) / power


def ahead(flags: dict[int, np.ndarray]) -> list[int]:
    """Positions of the snapshots that are not significantly below the best one, in descending order of ratio."""
    order = sorted(flags, key=lambda place: (-int(flags[place].sum()), place))
    best = flags[order[0]].astype(np.int8)
    differences = [best - flags[place].astype(np.int8) for place in order]
    return [
        place
        for place, difference in zip(order, differences, strict=True)
        if difference.mean() <= QUANTILE * difference.std() / len(difference) ** 0.5
    ]
