"""Lets one run at a time use a directory that several runs, perhaps on several hosts, share.

lock    the kernel releases it when the process ends, so on one host a dead run never holds it. NFS passes it to other
        hosts; some file systems do not.
owner   a file that only one run can create, for hosts that the lock does not reach. Its run changes it every few
        seconds. If a run on another host stops changing it, that run has ended.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.errors import ServingError, ServingUnavailable
from tasks.owner import host_id
from tasks.waiting import waiting_for

LOCK, OWNER = ".rehearsal.lock", ".rehearsal-owner.json"
BEAT_S = 5.0  # between two changes of the owner's file
SILENCE_S = 3 * BEAT_S  # an owner that changes nothing for so long has ended
LOOK_S = 0.2


@contextlib.contextmanager
def own_turn(directory: Path, run_id: str, timeout_s: float) -> Iterator[None]:
    """Wait until no other run uses a directory, and keep others out of it until the block ends.

    Args:
        run_id: names this run for others that wait.
        timeout_s: seconds to wait.

    Raises:
        ServingUnavailable: another run used it for `timeout_s`. ServingError: the directory cannot be used.
    """
    deadline, owner = time.monotonic() + timeout_s, directory / OWNER
    with contextlib.ExitStack() as stack:
        with waiting_for(f"another run that uses '{directory}' to end"):
            while not _begun(stack, directory, run_id, max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:
                    raise ServingUnavailable(
                        f"one run at a time can use '{directory}', which {_named(owner)} used for {timeout_s:g} s; "
                        "wait for it, or raise serving.attached.lock_timeout_s"
                    )
        yield


def _begun(stack: contextlib.ExitStack, directory: Path, run_id: str, timeout_s: float) -> bool:
    """Return whether this run's turn has begun; `stack` ends it."""
    owner = directory / OWNER
    note = {"host": host_id(), "name": socket.gethostname(), "pid": os.getpid(), "run": run_id, "id": uuid.uuid4().hex}
    with contextlib.ExitStack() as ours:
        try:
            ours.enter_context(FileLock(directory / LOCK).acquire(timeout=timeout_s, poll_interval=LOOK_S))
            if not _created(owner, note):
                return False
        except Timeout:
            return False
        except (OSError, NotImplementedError) as exc:
            raise ServingError(
                "serving.attached.directory must be a writable directory whose files can be locked, got "
                f"'{directory}': {getattr(exc, 'strerror', None) or exc}"
            ) from exc
        ours.callback(_forget, owner, note)
        _keep_changing(owner, note, ours)
        stack.push(ours.pop_all())
    return True


def _created(owner: Path, note: dict[str, Any]) -> bool:
    """Create the owner's file, or return False if a run on another host has it; this run holds the lock."""
    before = _content(owner)
    if before is not None:
        if _lives_elsewhere(owner, before) or _content(owner) != before:
            return False
        owner.unlink()
    try:
        descriptor = os.open(owner, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:  # another host was faster
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_text(note, 0))
    except OSError:
        owner.unlink()
        raise
    return True


def _lives_elsewhere(owner: Path, before: bytes) -> bool:
    """Return whether a run on another host changes the owner's file."""
    if _note(before).get("host") == host_id():  # the lock reaches every process of this host
        return False
    silent_at = time.monotonic() + SILENCE_S
    while time.monotonic() < silent_at:
        time.sleep(LOOK_S)
        if _content(owner) != before:
            return True
    return False


def _keep_changing(owner: Path, note: dict[str, Any], stack: contextlib.ExitStack) -> None:
    """Change the file every few seconds, so that other hosts see that this run lives, until `stack` ends."""
    stop = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if stop.wait(BEAT_S):
                return
            with contextlib.suppress(OSError), owner.open("r+b") as file:
                if _note(file.read()).get("id") == note["id"]:
                    file.seek(0)
                    file.write(_text(note, count))

    thread = threading.Thread(target=beat, name="owner", daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop.set)


def _forget(owner: Path, note: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        if _note(_content(owner)).get("id") == note["id"]:
            owner.unlink()


def _text(note: dict[str, Any], beats: int) -> bytes:
    """Return the file's content, whose length does not depend on `beats`: a reader sees valid JSON at any moment."""
    return json.dumps({**note, "beats": f"{beats:012}"}).encode()


def _content(owner: Path) -> bytes | None:
    try:
        return owner.read_bytes()
    except FileNotFoundError:
        return None


def _note(content: bytes | None) -> dict[str, Any]:
    try:
        note = json.loads(content or b"")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _named(owner: Path) -> str:
    """Return which run uses the directory, as far as its file says so."""
    note = {}
    with contextlib.suppress(OSError):
        note = _note(_content(owner))
    return f"run {note.get('run')} (process {note.get('pid')} on {note.get('name')})" if note else "an unknown run"
