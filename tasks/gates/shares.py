"""Confidence intervals of a share of rows that come in groups, such as the rows of one request."""

from __future__ import annotations

import math
from statistics import NormalDist

from tasks.gates.bootstrap import Interval


def share_interval(hits: int, rows: int, effect: float, confidence: float) -> Interval:
    """Return hits / rows with its Wilson interval.

    Args:
        effect: how many rows tell as much as one independent row (`design_effect`), at least 1.
        confidence: two-sided, such as 0.95.

    Source: Wilson (1927), Journal of the American Statistical Association 22.
    """
    if not rows:
        return Interval(math.nan, math.nan, math.nan)
    share, size = hits / rows, rows / effect
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * size)
    spread = z * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    low, high = (middle - spread) / (1 + z * z / size), (middle + spread) / (1 + z * z / size)
    return Interval(share, 0.0 if not hits else max(0.0, low), 1.0 if hits == rows else min(1.0, high))


def design_effect(hits: int, rows: int, groups: int, squares: tuple[int, int, int]) -> float:
    """Return by how much the variance of hits / rows is larger than that of independent rows, at least 1.

    The variance between the groups is that of a ratio, by linearization. Where no row or every row is a hit, nothing is
    known of it, and the rows of a group are taken to be all alike.

    Args:
        hits: of `rows` rows in `groups` groups. squares: sums over the groups of hits^2, hits * rows and rows^2.

    Source: Kish, Survey Sampling (1965), 6.4; the effective number of rows as in Korn and Graubard, Survey Methodology
    24 (1998).
    """
    both, mixed, all_rows = squares
    share = hits / rows if rows else 0.0
    if groups < 2 or not 0 < share < 1:
        return max(1.0, all_rows / rows) if rows else 1.0
    between = (both - 2 * share * mixed + share * share * all_rows) * groups / (groups - 1) / rows**2
    return max(1.0, between * rows / (share * (1 - share)))
