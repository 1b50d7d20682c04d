"""Labels containers with their owner, and removes containers whose owner has ended.

A killed process cannot clean up after itself. The labels of every throwaway container therefore say which process
created it and how long it may live, and the next run removes the containers whose owner has ended.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

import docker
import docker.errors

from tasks.owner import has_ended, host_id, process_start
from tasks.serving.engine import engine, engine_errors

log = logging.getLogger(__name__)

LABEL = "keras-rehearsal"
LIFETIME_S = 24 * 3600  # longer than any rehearsal; for containers whose owner cannot be looked up


@dataclass(frozen=True)
class Reaped:
    """A removed container, its run, and the reason of the removal."""

    container: str
    run_id: str
    reason: str


def owner_labels(run_id: str, now: float) -> dict[str, str]:
    """Return the labels of a container that this process creates at `now` (seconds since 1970)."""
    pid = os.getpid()
    return {
        LABEL: "throwaway-server",
        f"{LABEL}.run": run_id,
        f"{LABEL}.host": host_id(),
        f"{LABEL}.pid": str(pid),
        f"{LABEL}.pid-started": process_start(pid),
        f"{LABEL}.deadline": str(int(now + LIFETIME_S)),
    }


def why_orphaned(labels: Mapping[str, str], now: float) -> str:
    """Return why a container with these labels may be removed, or an empty string if it must be kept."""
    if LABEL not in labels:
        return ""
    deadline, pid = labels.get(f"{LABEL}.deadline", ""), labels.get(f"{LABEL}.pid", "")
    if deadline.isdecimal() and now > int(deadline):
        return "it is past its deadline"
    if labels.get(f"{LABEL}.host") != host_id() or not pid.isdecimal():
        return ""
    ended = has_ended(int(pid), labels.get(f"{LABEL}.pid-started", ""))
    return f"its owner, process {pid}, has ended" if ended else ""


def reap(now: float) -> list[Reaped]:
    """Remove the containers of ended or expired runs; every run does so when it starts.

    Args:
        now: seconds since 1970.

    Raises:
        ServingUnavailable: no engine answers.
    """
    with engine() as client, engine_errors("list the containers of earlier runs"):
        return remove_orphans(client, now)


def remove_orphans(client: docker.DockerClient, now: float) -> list[Reaped]:
    """Remove the throwaway containers, with their volumes, whose owner has ended or whose deadline has passed.

    If the engine cannot remove one, a warning is logged, so that a new run can start nevertheless.

    Args:
        client: a client of the engine.
        now: seconds since 1970.
    """
    reaped = []
    # Only list them: inspecting a container would wait while another run is filling it.
    for found in client.api.containers(all=True, filters={"label": LABEL}):
        labels, name = found["Labels"], found["Names"][0].lstrip("/") if found["Names"] else found["Id"]
        reason = why_orphaned(labels, now)
        if not reason:
            continue
        try:
            client.api.remove_container(found["Id"], v=True, force=True)
        except docker.errors.APIError as exc:
            if exc.status_code not in (404, 409):  # another run has removed it, or is removing it
                log.warning("Container %s could not be removed: %s", name, exc.explanation)
            continue
        reaped.append(Reaped(name, labels.get(f"{LABEL}.run", ""), reason))
        log.info("Removed container %s: %s", name, reason)
    return reaped
