"""What became of every version: one forced line a change in `<models_root>/<name>/.history.jsonl`.

    exported -> validated -> awaiting review -> approved -> live -> superseded
        |           |              |                          |         |
        |           `-> rejected <-'                          `-> rolled back
        `-> rejected

Lines are only ever added. A line that a crash cut short is passed over, and ended before the next one is added.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tasks.errors import StoreError

HISTORY = ".history.jsonl"
State = Literal[
    "exported", "validated", "awaiting review", "approved", "live", "superseded", "rejected", "rolled back", "pruned"
]


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
    """Add a line and force it to the disk.

    Args:
        details: run, actor (default: who runs this process), reason, as in `Entry`.

    Raises:
        StoreError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = Entry(now, version, state, digest, **{"actor": process_user(), **details})
    path = model_dir / HISTORY
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        # One write of one line: what a crash can leave is a part of it, never a mix of two.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            cut_short = size and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if cut_short else b"") + json.dumps(asdict(entry)).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
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
            yield Entry(**json.loads(line))
        except (ValueError, TypeError):  # cut short by a crash
            continue


def state_of(entries: list[Entry], version: int) -> str:
    """Return the last known state of a version, or an empty string."""
    return next((entry.state for entry in reversed(entries) if entry.version == version), "")


def process_user() -> str:
    """Return who runs this process, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, in a container
        return f"uid {os.getuid()}"
