"""Which containers may be removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import owner
from tasks.owner import host_id, process_start
from tasks.serving.reaper import LABEL, LIFETIME_S, owner_labels, why_orphaned

NOW = 1_800_000_000.0


@pytest.fixture
def dead_pid() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_labels_tell_the_run_and_its_process() -> None:
    """The labels name the run, this host and this process, and a deadline."""
    assert owner_labels("run-1", NOW) == {
        LABEL: "throwaway-server",
        f"{LABEL}.run": "run-1",
        f"{LABEL}.host": host_id(),
        f"{LABEL}.pid": str(os.getpid()),
        f"{LABEL}.pid-started": process_start(os.getpid()),
        f"{LABEL}.deadline": str(int(NOW) + LIFETIME_S),
    }


def test_a_container_of_a_living_process_is_left() -> None:
    """While its owner lives and its time is not up, a container is left."""
    assert why_orphaned(owner_labels("r", NOW), NOW + LIFETIME_S) == ""


def test_a_container_past_its_deadline_may_go() -> None:
    """After its deadline a container may go even if its owner lives or cannot be looked up."""
    labels = owner_labels("r", NOW) | {f"{LABEL}.host": "elsewhere"}
    assert why_orphaned(labels, NOW + LIFETIME_S + 1) == "it is past its deadline"


def test_a_container_of_a_dead_process_may_go(dead_pid: int) -> None:
    """A container whose owner has ended may go at once."""
    labels = owner_labels("r", NOW) | {f"{LABEL}.pid": str(dead_pid)}
    assert why_orphaned(labels, NOW) == f"its owner, process {dead_pid}, has ended"


def test_a_number_that_was_given_again_is_not_the_owner() -> None:
    """A living process with the owner's number, but another start, is not the owner."""
    labels = owner_labels("r", NOW) | {f"{LABEL}.pid-started": "1"}
    assert "has ended" in why_orphaned(labels, NOW)


def test_a_zombie_owner_counts_as_gone() -> None:
    """A killed owner that nobody has waited for is gone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    found = process_start(process.pid)
    process.communicate()
    assert started != ""
    assert found == ""


def test_a_process_of_another_host_cannot_be_judged(dead_pid: int) -> None:
    """A container of another host is left, because its process numbers mean nothing here."""
    labels = owner_labels("r", NOW) | {f"{LABEL}.host": "elsewhere", f"{LABEL}.pid": str(dead_pid)}
    assert why_orphaned(labels, NOW) == ""


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"com.example": "theirs"},
        {LABEL: "x"},
        {LABEL: "x", f"{LABEL}.pid": "?", f"{LABEL}.deadline": "soon"},
    ],
)
def test_what_is_not_ours_or_not_understood_is_left(labels: dict[str, str]) -> None:
    """Foreign, incomplete or unreadable labels never lead to a removal."""
    assert why_orphaned(labels, 4e9) == ""


@pytest.mark.parametrize(("namespace", "hosts"), [("pid:[4026531836]", 1), ("pid:[4026532633]", 2)])
def test_two_nodes_with_the_same_names(
    namespace: str, hosts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers of one image, name and namespace differ on two nodes; a host stays the same after a reboot."""
    (tmp_path / "pid").symlink_to(namespace)
    (tmp_path / "machine-id").write_text("of the image\n")
    monkeypatch.setattr(owner, "NAMESPACE", tmp_path / "pid")
    monkeypatch.setattr(owner, "MACHINE", tmp_path / "machine-id")
    monkeypatch.setattr("socket.gethostname", lambda: "worker-0")
    found = set()
    for boot in ("1", "2"):
        monkeypatch.setattr(owner, "boot_id", lambda boot=boot: boot)
        found.add(owner.host_id())
    assert len(found) == hosts
