"""Labels that replace the source's: random labels, and a label for each image."""

import random

PAPER_SEED = 1024


def random_labels(count: int, num_classes: int, seed: int = PAPER_SEED) -> list[int]:
    """Draw `count` independent labels, uniform in [0, num_classes).

    Source: Gu et al. 2023, section 5.1: Python's generator, one `random.randint` for each image in order.
    """
    generator = random.Random(seed)
    return [generator.randint(0, num_classes - 1) for _ in range(count)]


def unique_labels(count: int) -> list[int]:
    """Make each image its own class: its label is its position. Source: Gu et al. 2023, section 5.2."""
    return list(range(count))
