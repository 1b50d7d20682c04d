"""Say whom a call waits for, once that takes long."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import threading
from collections.abc import Iterator

log = logging.getLogger(__name__)
SILENCE_S = 5.0  # until a wait is worth a line


@contextlib.contextmanager
def waiting_for(whom: str) -> Iterator[None]:
    """Say every few seconds whom a block waits for, until it ends."""
    ended = threading.Event()

    def tell() -> None:
        waited = 0.0
        while not ended.wait(SILENCE_S):
            waited += SILENCE_S
            log.info("waiting for %s, %g s so far", whom, waited)

    # in the context of the caller, by which Prefect knows whose the line is
    teller = threading.Thread(target=contextvars.copy_context().run, args=(tell,), name="waiting", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()  # it is not waited for: its line may wait for a lock that the caller holds, as a log handler does


@contextlib.contextmanager
def importing(module: str) -> Iterator[None]:
    """Say every few seconds that a block imports a large module, if it is not imported yet."""
    with contextlib.nullcontext() if module in sys.modules else waiting_for(f"the import of {module}"):
        yield
