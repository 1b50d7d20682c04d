"""Whose container is it? Labels that name the owner, and the removal of what an owner left behind.

A killed process cannot clean up after itself. So every throwaway container says in its labels which
process made it and how long it may live, and the next run removes those whose owner is gone.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from tasks.serving.engine import engine, engine_errors

log = logging.getLogger(__name__)

LABEL = "keras-rehearsal"
LIFETIME_S = 24 * 3600  # longer than any rehearsal; it only ends containers whose owner cannot be looked up


@dataclass(frozen=True)
class Reaped:
    """A container that was removed, the run that it belonged to, and why."""

    container: str
    run_id: str
    reason: str


def owner_labels(run_id: str, now: float) -> dict[str, str]:
    """Return the labels of a container that this process makes at `now` (seconds since 1970)."""
    pid = os.getpid()
    return {
        LABEL: "throwaway-server",
        f"{LABEL}.run": run_id,
        f"{LABEL}.host": host_id(),
        f"{LABEL}.pid": str(pid),
        f"{LABEL}.pid-started": process_start(pid),
        f"{LABEL}.deadline": str(int(now + LIFETIME_S)),
    }


def host_id() -> str:
    """Return what tells this host's process numbers from those of another host or container."""
    namespace, machine = Path("/proc/self/ns/pid"), Path("/etc/machine-id")
    # A container on the host's network has the host's name but counts its processes apart; two machines of one
    # name, on one remote engine, differ in their machine-id, which outlives a reboot.
    parts = [socket.gethostname(), str(namespace.readlink()) if namespace.is_symlink() else ""]
    return " ".join(filter(None, [*parts, machine.read_text().strip() if machine.is_file() else ""]))


def process_start(pid: int) -> str:
    """Return when a process started, in the system's own form, or an empty string if it is gone.

    Together with the number it tells a process from a later one that was given the same number.
    """
    if not Path("/proc/self/stat").exists():  # macOS
        command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    # The name, second in the line, may hold blanks and brackets. Source: proc(5): 3 is state, 22 starttime.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[22 - 3]


def why_orphaned(labels: Mapping[str, str], now: float) -> str:
    """Return why a container with these labels may be removed, or an empty string if it must be left."""
    if LABEL not in labels:
        return ""
    deadline, pid = labels.get(f"{LABEL}.deadline", ""), labels.get(f"{LABEL}.pid", "")
    if deadline.isdecimal() and now > int(deadline):
        return "it is past its deadline"
    if labels.get(f"{LABEL}.host") != host_id() or not pid.isdecimal():
        return ""
    gone = f"its owner, process {pid}, is gone"
    try:
        os.kill(int(pid), 0)  # asks, and sends nothing
    except ProcessLookupError:
        return gone
    except PermissionError:
        return ""  # it lives, under another user, whose processes /proc may hide
    return "" if process_start(int(pid)) == labels.get(f"{LABEL}.pid-started") else gone


def reap(now: float) -> list[Reaped]:
    """Remove what killed or forgotten runs left behind; each run does so at its start.

    Args:
        now: seconds since 1970.

    Raises:
        ServingUnavailable: no engine answers.
    """
    with engine() as client, engine_errors("look for what earlier runs left behind"):
        return remove_orphans(client, now)


def remove_orphans(client: docker.DockerClient, now: float) -> list[Reaped]:
    """Remove the throwaway containers, with their volumes, whose owner is gone or whose time is up.

    One that the engine cannot remove is left with a warning: it must not keep a new run from starting.

    Args:
        client: the engine to look at.
        now: seconds since 1970.
    """
    reaped = []
    # The bare list: to inspect each container would wait for one that another run is just filling.
    for found in client.api.containers(all=True, filters={"label": LABEL}):
        labels, name = found["Labels"], found["Names"][0].lstrip("/") if found["Names"] else found["Id"]
        reason = why_orphaned(labels, now)
        if not reason:
            continue
        try:
            client.api.remove_container(found["Id"], v=True, force=True)
        except docker.errors.APIError as exc:
            if exc.status_code not in (404, 409):  # gone, or going: another run was faster
                log.warning("Container %s is left behind: %s", name, exc.explanation)
            continue
        reaped.append(Reaped(name, labels.get(f"{LABEL}.run", ""), reason))
        log.info("Removed container %s: %s", name, reason)
    return reaped
