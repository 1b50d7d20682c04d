"""The history of a live directory: every line whole, none lost, none mixed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import StoreError
from tasks.store.history import HISTORY, append, process_user, read, served_digest, state_of

ROOT = Path(__file__).parents[2]


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *args], cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_was_added_is_read_in_order(tmp_path: Path) -> None:
    """Every change comes back with who, why, when and which bytes; the last one is the state."""
    append(tmp_path / "m", 1, "exported", "d1", run="r")
    append(tmp_path / "m", 1, "live", "d1", actor="ann", reason="because\nof it")
    first, second = read(tmp_path / "m")
    assert (first.version, first.state, first.digest, first.run, first.actor) == (
        1, "exported", "d1", "r", process_user(),
    )  # fmt: skip
    assert (second.state, second.actor, second.reason) == ("live", "ann", "because\nof it")
    assert first.time <= second.time
    assert state_of([first, second], 1) == "live"
    assert state_of([first, second], 2) == ""


def test_the_served_digest_is_that_of_the_served_bytes(tmp_path: Path) -> None:
    """A number that another work_dir used for a candidate of its own keeps the digest that production served."""
    append(tmp_path, 1, "live", "served")
    append(tmp_path, 1, "rejected", "another work_dir's")
    append(tmp_path, 2, "canary", "beside")
    entries = read(tmp_path)
    assert [served_digest(entries, version) for version in (1, 2, 3)] == ["served", "beside", ""]


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    """What a crash left of a line neither hides the lines before it nor spoils the next one."""
    append(tmp_path, 1, "live", "d1")
    whole = (tmp_path / HISTORY).read_bytes()
    (tmp_path / HISTORY).write_bytes(whole + whole[:30])
    append(tmp_path, 2, "live", "d2")
    assert [entry.version for entry in read(tmp_path)] == [1, 2]


@pytest.mark.parametrize("field", ["time", "version", "state", "digest", "run", "actor", "reason"])
@pytest.mark.parametrize("value", ["[]", "{}", "null", "7.5", '"never"', '"2026-11-25T02:00:00"'])
def test_a_line_that_somebody_edited_is_passed_over(tmp_path: Path, field: str, value: str) -> None:
    """A value of another kind is no change, so that no command ends with a traceback."""
    append(tmp_path, 1, "live", "d1")
    whole = json.loads((tmp_path / HISTORY).read_text())
    with (tmp_path / HISTORY).open("a") as history:
        history.write(json.dumps({**whole, "version": 2, field: json.loads(value)}) + "\n")
    text = value.startswith('"') and field not in ("time", "version")  # a time needs its offset
    assert [entry.version for entry in read(tmp_path)] == ([1, 2] if text else [1])


FULL = """
import resource, sys
from pathlib import Path
from tasks.errors import StoreError
from tasks.store.history import HISTORY, append
directory = Path(sys.argv[1])
size = (directory / HISTORY).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))  # room for a part of a line
try:
    append(directory, 2, "live", "d2")
except StoreError as exc:
    print(exc)
"""


def test_a_part_of_a_line_is_not_taken_for_the_line(tmp_path: Path) -> None:
    """Where there is room for a part only, adding fails in one line, and the next line is readable."""
    append(tmp_path, 1, "live", "d1")
    done = run(FULL, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the history must be writable")
    append(tmp_path, 3, "live", "d3")
    assert [entry.version for entry in read(tmp_path)] == [1, 3]


MANY = """
import sys
from pathlib import Path
from tasks.store.history import append
for number in range(100):
    append(Path(sys.argv[1]), number, "exported", "d" * 64, actor=sys.argv[2])
"""


def test_four_processes_at_once(tmp_path: Path) -> None:
    """Lines that processes add at once without a lock are all there, each whole."""
    commands = [[sys.executable, "-c", MANY, str(tmp_path), f"process {n}"] for n in range(4)]
    for process in [subprocess.Popen(command, cwd=ROOT) for command in commands]:
        assert process.wait(120) == 0
    entries = read(tmp_path)
    assert sorted((entry.actor, entry.version) for entry in entries) == [
        (f"process {n}", number) for n in range(4) for number in range(100)
    ]


def test_two_hosts_at_once_on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS writes where the file ended when a host last looked: only a host that locks the file looks again."""
    real_open, real_flock, threads = os.open, fcntl.flock, 4

    def open_on_nfs(path: Path, flags: int, *mode: int) -> int:
        descriptor = real_open(path, flags & ~os.O_APPEND, *mode)
        if flags & os.O_APPEND:
            os.lseek(descriptor, 0, os.SEEK_END)
            all_have_opened.wait(60)
        return descriptor

    def flock_of_nfs(descriptor: int, operation: int) -> None:
        real_flock(descriptor, operation)
        os.lseek(descriptor, 0, os.SEEK_END)

    append(tmp_path, 1, "exported", "d")
    all_have_opened = threading.Barrier(threads)
    monkeypatch.setattr(os, "open", open_on_nfs)
    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    hosts = [threading.Thread(target=append, args=(tmp_path, n, "live", f"d{n}")) for n in range(2, 2 + threads)]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    assert sorted(entry.version for entry in read(tmp_path)) == [1, 2, 3, 4, 5]


def test_a_history_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    """A directory in its place is one clear line, to whoever adds and to whoever reads."""
    (tmp_path / HISTORY).mkdir()
    with pytest.raises(StoreError, match="must be writable"):
        append(tmp_path, 1, "live", "d")
    with pytest.raises(StoreError, match="must be readable"):
        read(tmp_path)
    assert read(tmp_path / "absent") == []
