"""What served when, by the history: which bytes, who put them there, and why.

The history says when a version was verified in production and recorded. A server had loaded it some seconds before
that, and a version that failed its verification was loaded for a moment without ever being `live` here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tasks.store.history import Entry

STABLE, CANARY = "stable", "canary"
BEFORE = ("exported", "validated", "awaiting review", "approved", "rejected", "unchanged")
"""States of candidates; another work_dir may give the number of a live version to a candidate of its own."""
_LABEL = re.compile(r"experiment (?P<name>.*?): (?P<arm>.*)", re.DOTALL)


@dataclass(frozen=True)
class Served:
    """One version that was served.

    Attributes:
        role: `stable`, `canary`, or what the line of an experiment says.
        entry: the line that put it there. ended: the line that ended this, or None.
    """

    role: str
    entry: Entry
    ended: Entry | None = None


def served_at(entries: Sequence[Entry], when: datetime) -> list[Served]:
    """Return what was served at a time: the stable version first, then the canary, then those of an experiment.

    A change counts from the very time of its line. A line that is dated before an earlier line, because a clock was set
    back, counts from the time of that earlier line.

    Args:
        when: with an offset.
    """
    count, latest = 0, None
    for entry in entries:
        time = datetime.fromisoformat(entry.time)
        latest = time if latest is None else max(latest, time)
        if latest > when:
            break
        count += 1
    now = _served(entries[:count])
    ended: dict[str, Entry] = {}
    for end in range(count + 1, len(entries) + 1):
        if entries[end - 1].state in BEFORE:
            continue
        later = {one.role: one.entry for one in _served(entries[:end])}
        for one in now:
            if one.role not in ended and later.get(one.role) != one.entry:
                ended[one.role] = entries[end - 1]
        if len(ended) == len(now):
            break
    return [replace(one, ended=ended.get(one.role)) for one in now]


def _served(entries: Sequence[Entry]) -> list[Served]:
    """Return what is served after the last of some lines."""
    states: dict[int, Entry] = {}
    arms: dict[int, Entry] = {}
    canary = None
    for entry in entries:
        if entry.state == "in experiment":
            arms[entry.version] = entry
        elif entry.state == "experiment ended":
            arms.pop(entry.version, None)
        elif entry.state not in BEFORE:
            states.pop(entry.version, None)  # the last one to go live comes last
            states[entry.version] = entry
            canary = entry if entry.state == "canary" else canary
    live = [entry for entry in states.values() if entry.state == "live"]
    found = [Served(STABLE, live[-1])] if live else []
    if canary is not None and states.get(canary.version) == canary:
        found.append(Served(CANARY, canary))
    for entry in arms.values():
        said = _LABEL.fullmatch(entry.reason)
        found.append(Served(f"in the experiment {said['name']} as {said['arm']}" if said else entry.state, entry))
    return found
