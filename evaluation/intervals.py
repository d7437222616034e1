"""Confidence intervals without torch or scipy.stats (which takes a second to import)."""

import math

CONFIDENCE = 0.95
_NORMAL_QUANTILE = 1.959963984540054  # the quantile at (1 + CONFIDENCE) / 2


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share. Source: Wilson 1927."""
    share, squared = successes / total, _NORMAL_QUANTILE**2
    scale = 2 * (total + squared)
    center = (2 * total * share + squared) / scale
    half = _NORMAL_QUANTILE / scale * math.sqrt(4 * total * share * (1 - share) + squared)
    return 0.0 if successes == 0 else center - half, 1.0 if successes == total else center + half


def t_quantile(freedom: int) -> float:
    """The half-width of a 95 % Student's t interval in standard errors. freedom: degrees of freedom, at least 1."""
    from scipy.special import stdtrit  # rarely needed, and slow to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
