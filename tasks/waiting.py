"""Logs what a call waits for if it takes long."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)
SILENCE_S = 5.0  # between two lines about a wait


@contextlib.contextmanager
def waiting_for(whom: str | Callable[[], str]) -> Iterator[None]:
    """Log every few seconds what a block waits for, until it ends; a function says how far it is."""
    ended = threading.Event()

    def tell() -> None:
        waited = 0.0
        while not ended.wait(SILENCE_S):
            waited += SILENCE_S
            log.info("waiting for %s, %g s so far", whom() if callable(whom) else whom, waited)

    # in the context of the caller, which assigns the line to its run in Prefect
    teller = threading.Thread(target=contextvars.copy_context().run, args=(tell,), name="waiting", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()  # do not join: its line may wait for a lock that the caller holds, such as a log handler's


@contextlib.contextmanager
def importing(module: str) -> Iterator[None]:
    """Log every few seconds that a block imports a large module, if it is not imported yet."""
    if module in sys.modules:
        yield
        return
    with waiting_for(f"the import of {module}"), without_collections():
        yield


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Import large modules without the garbage collector, and leave what they made out of later collections.

    A fifth of the time of `import keras` and of the imports of Prefect and MLflow went into collections, which found
    nothing: modules live as long as the process.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
