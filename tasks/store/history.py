"""The history of all versions: one line for each change in `<models_root>/<name>/.history.jsonl`, flushed to the disk.

    exported -> validated -> awaiting review -> approved -> (canary ->) live -> superseded -> pruned
        |           |              |                            |         |
        |           `-> rejected <-'                            `-> rolled back
        `-> rejected

A candidate of another run whose bytes are live already becomes `unchanged` after its validation or approval.

A canary is verified in production and served to clients that request it; it has not been the champion.
The start and the end of an experiment on real users are noted for each of its versions and do not change their states.
Lines are only added, and each carries the digest of what is before it (tasks/proof/chain.py). A line that a crash cut
short is ignored, and is removed before the next line is added. With a key, the head is signed before its line is added;
a line that only the head has, because a crash came in between, is added by the next change or the doctor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from configs.redaction import redacted
from tasks.errors import StoreError
from tasks.proof import chain
from tasks.proof.chain import (
    Signer,
    encoded,
    last_digest,
    line_digest,
    lost_line,
    signed_head,
    texts_of,
    unsigned_lines,
)
from tasks.savedmodel.files import fsync_path, make_directories, replace_file

HISTORY, HEAD = chain.HISTORY, chain.HEAD
SERVED = chain.SERVED  # states of versions that were verified in production
NEW_HISTORY = ".history.new"
NEW_HEAD = ".history.head.new"  # not a staging name, which the doctor removes while an export adds a line
State = Literal[
    "exported", "validated", "awaiting review", "approved", "canary", "live", "superseded", "rejected", "rolled back",
    "pruned", "unchanged", "in experiment", "experiment ended",
]  # fmt: skip
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


def append(
    model_dir: Path, version: int, state: State, digest: str, signer: Signer | None = None, **details: str
) -> None:
    """Add a line and flush it to the disk.

    Args:
        signer: who signs the new head; None leaves the head as it is.
        details: run, actor (default: the user of this process), reason, as in `Entry`.

    Raises:
        StoreError: the line cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = Entry(now, version, state, digest, **{"actor": process_user(), **redacted(details)})
    with _locked(model_dir) as descriptor:
        data = _mended(model_dir, descriptor)
        line = encoded(asdict(entry), data)
        if signer is not None:
            _write_head(model_dir, signed_head(model_dir.name, data, line, _head(model_dir), signer))
        _add(descriptor, line)


def finish_last_line(model_dir: Path, *, only_look: bool = False) -> str:
    """Finish what a crash left of the last line, and return what it was, or an empty string.

    Raises:
        StoreError: the history cannot be read or written.
    """
    data = _content(model_dir / HISTORY)
    lost = bool(lost_line(_whole(data), _head(model_dir)))
    if not lost and data == _whole(data):
        return ""
    if not only_look:
        with _locked(model_dir) as descriptor:
            _mended(model_dir, descriptor)
    what = "the last line of the history, which only its signed head had" if lost else "a line that was cut short"
    return f"{what}, in '{model_dir / HISTORY}'"


def snapshot(model_dir: Path) -> tuple[bytes, bytes]:
    """Return history and head as they belong together; both are empty where there is no history.

    Raises:
        StoreError: they cannot be read or written.
    """
    if not (model_dir / HISTORY).exists():
        return b"", b""
    with _locked(model_dir) as descriptor:
        return _mended(model_dir, descriptor), _head(model_dir)


def head_digest(model_dir: Path) -> str:
    """Return the digest of the last line, which a note elsewhere keeps; empty where there is no history."""
    return last_digest(_content(model_dir / HISTORY))


def has_line(model_dir: Path, digest: str) -> bool:
    """Return whether a line has a digest."""
    return digest in map(line_digest, texts_of(_content(model_dir / HISTORY)))


def take(model_dir: Path, theirs: bytes, head: bytes, own: Collection[str], signer: Signer | None = None) -> None:
    """Replace the history by another one and its head, and add the lines of some states that only this one has.

    They get a new digest of what is before them. Only those that were signed here are signed again.

    Args:
        own: the states.

    Raises:
        StoreError: the files cannot be read or written.
    """
    with _locked(model_dir) as descriptor:
        ours, former = _mended(model_dir, descriptor), _head(model_dir)
        known = set(map(_said, texts_of(theirs)))
        unsigned = unsigned_lines(model_dir.name, ours, former, signer.publics) if signer is not None else ()
        data = theirs
        for number, text in enumerate(texts_of(ours), 1):
            said = _said(text)
            if said is None or said in known or said.state not in own:
                continue
            line = encoded(asdict(said), data)
            if signer is not None and not any(first <= number <= last for first, last in unsigned):
                head = signed_head(model_dir.name, data, line, head, signer)
            data += line
        _replace(model_dir, data, head)


def _said(text: bytes) -> Entry | None:
    """Return what a line says without its `before`, or None if it is not a line."""
    return next(_entries([text]), None)


@contextlib.contextmanager
def _locked(model_dir: Path) -> Iterator[int]:
    """Yield the locked history, open for reading and adding.

    Raises:
        StoreError: it cannot be used.
    """
    path = model_dir / HISTORY
    try:
        make_directories(model_dir)
        # NFS appends where the file ended when this host last looked, which it does when it locks the file.
        # Source: open(2), O_APPEND.
        while True:
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                with contextlib.suppress(OSError):  # where nothing can be locked, it works on one host
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not os.path.samestat(os.fstat(descriptor), path.stat()):  # a refresh of a mirror has replaced it
                    continue
                yield descriptor
                break
            finally:
                os.close(descriptor)
        if is_new:
            fsync_path(model_dir)
    except OSError as exc:
        raise StoreError(f"the history must be writable, got '{exc.filename or path}': {exc.strerror}") from exc


def _mended(model_dir: Path, descriptor: int) -> bytes:
    """Return the locked history, whose last line was repaired if a crash cut it short."""
    size = _bounded(descriptor, model_dir / HISTORY)
    data = os.pread(descriptor, size, 0) if size else b""
    while len(data) < size and (more := os.pread(descriptor, size - len(data), len(data))):  # a signal came in between
        data += more
    whole = _whole(data)
    if len(whole) < len(data):
        os.ftruncate(descriptor, len(whole))
    elif len(whole) > len(data):
        _add(descriptor, b"\n")
    if line := lost_line(whole, _head(model_dir)):
        _add(descriptor, line)
    return whole + line


def _whole(data: bytes) -> bytes:
    """Return a history without the part of a line that a crash left; a line that only lacks its line break gets it."""
    if not data or data.endswith(b"\n"):
        return data
    rest = texts_of(data)[-1]
    return data + b"\n" if _said(rest) is not None else data[: -len(rest)]


def _add(descriptor: int, line: bytes) -> None:
    """Add a line and flush it to the disk.

    One write for each line: a crash can leave a part of a line, but never mix two lines.
    """
    while line:  # a full disk may accept a part of it before it refuses the rest
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)


def _head(model_dir: Path) -> bytes:
    return _content(model_dir / HEAD)


def _write_head(model_dir: Path, head: bytes) -> None:
    replace_file(model_dir / HEAD, head, model_dir / NEW_HEAD, 0o644)


def _replace(model_dir: Path, data: bytes, head: bytes) -> None:
    replace_file(model_dir / HISTORY, data, model_dir / NEW_HISTORY, 0o644)
    if head:
        _write_head(model_dir, head)
    else:
        (model_dir / HEAD).unlink(missing_ok=True)


def read(model_dir: Path) -> list[Entry]:
    """Return every change, the oldest first."""
    return list(_entries(_content(model_dir / HISTORY).splitlines()))


def _content(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not be waited for
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with os.fdopen(descriptor, "rb") as stream:
            _bounded(descriptor, path)
            return stream.read()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise StoreError(f"the history must be readable, got '{exc.filename or path}': {exc.strerror}") from exc


def _bounded(descriptor: int, path: Path) -> int:
    """Return the size of a file that is read as a whole.

    Raises:
        OSError: it is too large to be a history.
    """
    size = os.fstat(descriptor).st_size
    if size > chain.LONGEST:
        raise OSError(errno.EFBIG, f"it is larger than {chain.LONGEST:,} bytes", str(path))
    return size


def _entries(lines: list[bytes]) -> Iterator[Entry]:
    for line in lines:
        try:
            fields = json.loads(line)
            fields.pop("before", None)
            entry = Entry(**fields)
            good = datetime.fromisoformat(entry.time).tzinfo is not None and isinstance(entry.version, int)
        except (ValueError, TypeError, AttributeError):  # cut short by a crash
            continue
        texts = (entry.state, entry.digest, entry.run, entry.actor, entry.reason)
        if good and all(isinstance(text, str) for text in texts):
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


def same_bytes(entries: list[Entry], version: int, digest: str, live_now: str | None = None) -> str:
    """Return in words what became of the last other version or candidate with the same bytes, or an empty string.

    Args:
        live_now: the digest of the files that are live now, which may be damaged; None if it is not known.
    """
    others = (e for e in reversed(entries) if e.digest == digest and e.version != version)
    twin = next((e for e in others if e.state in _SAID), None)
    if twin is None:
        return ""
    undone = twin.state in ("rejected", "rolled back")
    details = "".join((f" by {twin.actor}", f" ({twin.reason})" if twin.reason else "")) if undone else ""
    changed = twin.state == "live" and live_now not in (None, digest)
    has = "had the same bytes until its files were changed" if changed else "has the same bytes"
    return f"version {twin.version}, which {_SAID[twin.state]}{details}, {has}"


def live_digest(entries: list[Entry]) -> str:
    """Return the digest of the files that were made live last, or an empty string."""
    return next((entry.digest for entry in reversed(entries) if entry.state == "live"), "")


def taken_back(entries: list[Entry], digest: str) -> Entry | None:
    """Return the line that took bytes back which had served, unless they were made live again since; or None.

    What production did not serve as it was judged was withdrawn before it counted as live, and is not meant. Neither
    are bytes that are live: a rollback replaced damaged files by the same ones.
    """
    if live_digest(entries) == digest:
        return None
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
