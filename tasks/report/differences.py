"""In what a run differs from the champion's: configuration, weights, data and code."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.report.sections import MOST_ROWS, Table
from tasks.report.tables import clip

DATA = "data digest"
LONGEST = 160  # characters of a value


def differences_table(ours: Mapping[str, str], theirs: Mapping[str, str] | None, champion: int) -> Table:
    """Return the differences between two runs, one line for each name.

    Args:
        ours, theirs: facts of the runs as text, by name; None where the champion's run is not known.
        champion: version that serves.
    """
    head = ("", "this run", f"version {champion}")
    if theirs is None:
        return Table(head[2], head, (), note=f"The run of version {champion} is not in this MLflow.")
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if not names:
        return Table(head[2], head, (), note="Configuration, weights, data and code are the same in both runs.")
    rows = tuple((clip(name, 80), _shown(ours.get(name)), _shown(theirs.get(name))) for name in names[:MOST_ROWS])
    more = f"{len(names) - MOST_ROWS} more differ; MLflow compares the two runs." if len(names) > MOST_ROWS else ""
    same = "The data are the same in both runs." if DATA in ours and DATA not in names else ""
    return Table(f"Differences from version {champion}", head, rows, note=" ".join(filter(None, (more, same))))


def _shown(value: str | None) -> str:
    return "not recorded" if value is None else clip(value, LONGEST) or "empty"
