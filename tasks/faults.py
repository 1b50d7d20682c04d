"""Tells a fault of the machine, such as a full disk, from an error of the user's model."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from enum import StrEnum
from http.client import HTTPException
from urllib.error import HTTPError, URLError

THE_USERS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESPIPE,
}
"""What a function of the user's raises for a file whose name or kind is wrong; all other numbers are the machine's."""

_NETWORK = (ConnectionError, TimeoutError, socket.gaierror, socket.herror, ssl.SSLError, HTTPException, URLError)
"""Often without a number, or with one that is not the system's: that of a refused certificate looks like EPERM."""

_WRONG_ADDRESS = {400, 404, 410}
"""What an HTTP server answers to a wrong address; all other answers are the machine's, such as 403 or 503.

Source: https://www.rfc-editor.org/rfc/rfc9110#section-15.5
"""

_DISK = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)]
_MEMORY = [
    os.strerror(errno.ENOMEM),
    "can't start new thread",
    "bad_alloc",
    "OOM when allocating",
    "Out of memory",
    "out of memory",
    "_ALLOC_FAILED",
]
"""TensorFlow and HDF5 have only the system's words in their errors, and not its number.

XLA, which Keras uses on a GPU, has other words than TensorFlow's kernels, and so have CUDA, cuBLAS and cuDNN.
"""


class Fault(StrEnum):
    """Whose fault an error is.

    Members:
        OWN: that of what was asked, as far as is known. MACHINE: no space, a lost network or file system.
        MEMORY: there was not enough memory, which may be different when other processes have ended.
    """

    OWN = ""
    MACHINE = "machine"
    MEMORY = "memory"


def fault_of(error: BaseException) -> Fault:
    """Return whose fault an error is, by all errors that led to it."""
    found = {_fault_of(one) for one in _chain(error)}
    return next((fault for fault in (Fault.MACHINE, Fault.MEMORY) if fault in found), Fault.OWN)


def _fault_of(error: BaseException) -> Fault:
    if (status := _http_status(error)) is not None:
        return Fault.OWN if status in _WRONG_ADDRESS else Fault.MACHINE
    if isinstance(error, _NETWORK):
        return Fault.MACHINE
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return Fault.MEMORY
    if number is not None:
        return Fault.OWN if number in THE_USERS else Fault.MACHINE
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  an error of foreign code without a readable message
        return Fault.OWN
    if any(words in text for words in _DISK):
        return Fault.MACHINE
    return Fault.MEMORY if any(words in text for words in _MEMORY) else Fault.OWN


def _http_status(error: BaseException) -> int | None:
    """Return the status of an HTTP answer that led to an error of urllib, or of requests and its kind."""
    found = error.code if isinstance(error, HTTPError) else None
    found = found or getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
