"""Identifies this host and its processes, so that another run can tell whether the owner of something still lives."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

NAMESPACE, MACHINE = Path("/proc/self/ns/pid"), Path("/etc/machine-id")
OF_THE_HOST = "pid:[4026531836]"  # after each boot. Source: PROC_PID_INIT_INO in Linux' include/linux/proc_ns.h


def host_id() -> str:
    """Return an identifier of this host, or of this container, within which process numbers are unique."""
    namespace = str(NAMESPACE.readlink()) if NAMESPACE.is_symlink() else ""
    # A container on the host's network has the host's name but its own process numbers. Two machines with the same
    # name that use one remote engine differ in their machine-id, which does not change at a reboot. Containers of one
    # image may have the same one, and on two nodes the same name and namespace, so they have their kernel's as well.
    parts = [socket.gethostname(), namespace, MACHINE.read_text().strip() if MACHINE.is_file() else ""]
    return " ".join(filter(None, [*parts, boot_id() if namespace != OF_THE_HOST else ""]))


def process_start(pid: int) -> str:
    """Return when a process started, in the form of the operating system, or an empty string if it has ended.

    Together with the number, it distinguishes a process from a later one with the same number.
    """
    if not Path("/proc/self/stat").exists():  # macOS
        command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    # The second field, the name, may contain spaces and brackets. Source: proc(5): 3 is state, 22 starttime.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[22 - 3]


def boot_id() -> str:
    """Return an identifier of the running kernel, which is another one after each boot; empty where there is none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else ""


def has_ended(pid: int, started: str) -> bool:
    """Return whether a process of this host has ended; one of another user, which /proc may hide, has not.

    Args:
        started: what `process_start` returned for it.
    """
    try:
        os.kill(pid, 0)  # checks that the process exists; sends no signal
    except (ProcessLookupError, OverflowError):  # the second: no process has such a number
        return True
    except PermissionError:
        return False
    return process_start(pid) != started
