"""Which test rows a candidate and its champion can be compared on: those that the champion has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.sections.gates import Bound


@dataclass(frozen=True)
class Beside:
    """How far the test rows allow a comparison of the two.

    Attributes:
        seen: number of test rows that the champion was trained or validated on, left out of the comparison.
        unseen: number of test rows that are left. apart: why the two are not compared, or empty.
    """

    seen: int
    unseen: int
    apart: str

    @property
    def text(self) -> str:
        """Return what a reader must know about the comparison, or an empty string."""
        if self.apart:
            return f"not compared with the champion: {self.apart}"
        if self.seen:
            return (
                f"compared with the champion on the {self.unseen:,} test rows that it has not seen; "
                f"{self.seen:,} that it has seen are left out"
            )
        return ""

    @property
    def figures(self) -> dict[str, float]:
        """Return the numbers of rows, or an empty mapping where they are not known."""
        if self.apart and not self.seen:
            return {}
        return {"rows_seen": self.seen, "rows_unseen": self.unseen}


def beside_champion(seen: int, total: int, unknown: str, at_least: int) -> Beside:
    """Return how far the test rows allow a comparison of a candidate with its champion.

    Args:
        seen: of `total` test rows, those that the champion has seen. unknown: why that is not known, or empty.
        at_least: rows that must be left once rows were left out.
    """
    unseen = total - seen
    few = f"the champion has seen {seen:,} of {total:,} test rows (gates.min_unseen_rows is {at_least})"
    return Beside(seen, unseen, unknown or (few if seen and unseen < at_least else ""))


def person_needed(beside: Beside | None, bounds: Mapping[str, Bound]) -> str:
    """Return why a person must decide where a champion serves and was not compared, or an empty string.

    Absolute bounds need no comparison; `better_by` cannot be proven without one.

    Args:
        beside: None where there is no champion to compare with.
    """
    if beside is None or not beside.apart:
        return ""
    unproven = [name for name, bound in bounds.items() if bound.better_by is not None]
    if unproven:
        return f"{_listed(unproven)} must be proven better than the champion's, and {beside.apart}"
    if not any(bound.min is not None or bound.max is not None for bound in bounds.values()):
        return f"no absolute bound is configured (gates.metrics), and {beside.apart}"
    return ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
