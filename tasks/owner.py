"""Identifies this host and its processes, so that another run can tell whether the owner of something still lives."""

from __future__ import annotations

import fcntl
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


def hold(directory: Path) -> int:
    """Lock a directory until this process ends or the returned descriptor is closed.

    The kernel keeps the lock while the process is paused, and shows it in every container of the host.

    Raises:
        OSError: another process holds it, or the file system has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_held(directory: Path) -> bool:
    """Return whether a process holds a directory; without permission or locks, it is not known and False."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at the same time
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def has_ended(pid: int, started: str) -> bool:
    """Return whether a process of this host has ended; one of another user that /proc hides has not.

    Args:
        started: what `process_start` returned for it.
    """
    try:
        os.kill(pid, 0)  # checks that the process exists; sends no signal
    except (ProcessLookupError, OverflowError):  # the second: no process has such a number
        return True
    except PermissionError:  # another user's process, which may have the number of one that has ended
        return process_start(pid) not in ("", started)
    return process_start(pid) != started
