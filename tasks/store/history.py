"""The history of all versions: one line for each change in `<models_root>/<name>/.history.jsonl`, flushed to the disk.

    exported -> validated -> awaiting review -> approved -> (canary ->) live -> superseded -> pruned
        |           |              |                            |         |
        |           `-> rejected <-'                            `-> rolled back
        `-> rejected

A candidate of another run whose bytes are live already becomes `unchanged` after its validation or approval.

A canary is verified in production and served to clients that request it; it has not been the champion.
The start and the end of an experiment on real users are noted for each of its versions and do not change their states.
Lines are only added. A line that a crash cut short is ignored, and is terminated before the next line is added.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from configs.redaction import redacted
from tasks.errors import StoreError
from tasks.savedmodel.files import fsync_path, make_directories

HISTORY = ".history.jsonl"
State = Literal[
    "exported", "validated", "awaiting review", "approved", "canary", "live", "superseded", "rejected", "rolled back",
    "pruned", "unchanged", "in experiment", "experiment ended",
]  # fmt: skip
SERVED = ("canary", "live")  # states of versions that were verified in production
NOTES = ("in experiment", "experiment ended")  # lines that leave the state of a version as it was
_SAID = {
    "awaiting review": "awaits review", "approved": "was approved", "canary": "is the canary", "live": "is live",
    "superseded": "was superseded", "rejected": "was rejected", "rolled back": "was rolled back",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One change.

    Attributes:
        time: ISO 8601, UTC. version: the directory's number. digest: of its bytes, in hexadecimal.
        run: MLflow's id of the run, or empty. actor: who did it. reason: one line.
    """

    time: str
    version: int
    state: str
    digest: str
    run: str = ""
    actor: str = ""
    reason: str = ""


def append(model_dir: Path, version: int, state: State, digest: str, **details: str) -> None:
    """Add a line and flush it to the disk.

    Args:
        details: run, actor (default: the user of this process), reason, as in `Entry`.

    Raises:
        StoreError: the line cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = Entry(now, version, state, digest, **{"actor": process_user(), **redacted(details)})
    path = model_dir / HISTORY
    try:
        make_directories(model_dir)
        is_new = not path.exists()
        # One write for each line: a crash can leave a part of a line, but never mix two lines. NFS appends where the
        # file ended when this host last looked, which it does when it locks the file. Source: open(2), O_APPEND.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            with contextlib.suppress(OSError):  # where nothing can be locked, it works on one host
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            cut_short = size and os.pread(descriptor, 1, size - 1) != b"\n"
            line = (b"\n" if cut_short else b"") + json.dumps(asdict(entry)).encode() + b"\n"
            while line:  # a full disk may accept a part of it before it refuses the rest
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"the history must be writable, got '{exc.filename or path}': {exc.strerror}") from exc


def read(model_dir: Path) -> list[Entry]:
    """Return every change, the oldest first."""
    try:
        lines = (model_dir / HISTORY).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StoreError(f"the history must be readable, got '{exc.filename}': {exc.strerror}") from exc
    return list(_entries(lines))


def _entries(lines: list[bytes]) -> Iterator[Entry]:
    for line in lines:
        try:
            entry = Entry(**json.loads(line))
            datetime.fromisoformat(entry.time)
        except (ValueError, TypeError):  # cut short by a crash
            continue
        if isinstance(entry.version, int) and all(isinstance(text, str) for text in (entry.state, entry.digest)):
            yield entry  # else somebody edited it


def state_of(entries: list[Entry], version: int) -> str:
    """Return the last known state of a version, or an empty string."""
    return next((e.state for e in reversed(entries) if e.version == version and e.state not in NOTES), "")


def rejection(entries: list[Entry], version: int, digest: str) -> Entry | None:
    """Return the line that rejected the files with a digest as a version, or None."""
    own = (entry for entry in reversed(entries) if (entry.version, entry.digest) == (version, digest))
    return next((entry for entry in own if entry.state == "rejected"), None)


def served_digest(entries: list[Entry], version: int) -> str:
    """Return the digest of the files that production served as a version, or an empty string."""
    return next((e.digest for e in reversed(entries) if e.version == version and e.state in SERVED), "")


def served_run(entries: list[Entry], version: int) -> str:
    """Return MLflow's id of the run that made a version live or the canary, or an empty string."""
    return next((e.run for e in reversed(entries) if e.version == version and e.state in SERVED), "")


def same_bytes(entries: list[Entry], version: int, digest: str) -> str:
    """Return in words what became of the last other version or candidate with the same bytes, or an empty string."""
    others = (e for e in reversed(entries) if e.digest == digest and e.version != version)
    twin = next((e for e in others if e.state in _SAID), None)
    if twin is None:
        return ""
    undone = twin.state in ("rejected", "rolled back")
    details = "".join((f" by {twin.actor}", f" ({twin.reason})" if twin.reason else "")) if undone else ""
    return f"version {twin.version}, which {_SAID[twin.state]}{details}, has the same bytes"


def taken_back(entries: list[Entry], digest: str) -> Entry | None:
    """Return the line that took bytes back which had served, unless they were made live again since; or None.

    What production did not serve as it was judged was withdrawn before it counted as live, and is not meant.
    """
    decisive = [e for e in entries if e.digest == digest and e.state in (*SERVED, "superseded", "rolled back")]
    served = {e.version for e in decisive if e.state == "live"}
    last = decisive[-1] if decisive else None
    return last if last and last.state == "rolled back" and last.version in served else None


def process_user() -> str:
    """Return the name or number of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, in a container
        return f"uid {os.getuid()}"
