"""Which images count as copies."""

from evaluation.replays import Replay, count_copies


def test_a_copy_is_nearer_than_a_third_of_the_next() -> None:
    """Squared distances: 9 times the nearest must be less than the next; distance 0 is a copy whatever the next is."""
    cases = [(0, 1), (1, 9), (1, 10), (100, 901), (100, 900), (5, None), (0, None)]
    assert count_copies([Replay(None, 0, first, second) for first, second in cases]) == (4, 2)
