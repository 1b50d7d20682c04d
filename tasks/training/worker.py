"""The child's side of `tasks.training.process`: `python -m tasks.training.worker FD`."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from configs.redaction import hide
from tasks.datasets.user_code import describe, users_traceback
from tasks.errors import PipelineError
from tasks.faults import fault_of
from tasks.waiting import without_collections


class _ToParent(logging.Handler):
    """Sends log records through the pipe, so that the parent's logging shows them."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.INFO)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        self._pipe.send((0, "log", record))  # no answer to any question


def main(fd: int) -> None:
    """Import Keras and TensorFlow, then run calls until the parent closes the pipe."""
    faulthandler.enable()  # a crash in native code names the line of Python that led to it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    pipe = Connection(fd)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, calls), daemon=True).start()
    logger = logging.getLogger("tasks")
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToParent(pipe))
    with without_collections():
        import keras  # noqa: F401  also imports TensorFlow

    while True:
        question, function, args, kwargs, secrets = pickle.loads(calls.get())  # noqa: S301  the parent wrote it
        hide(secrets)
        try:
            answer: tuple[str, Any] = ("result", function(*args, **kwargs))
        except PipelineError as exc:
            answer = ("error", _with_calls(exc, exc))
        except Exception as exc:  # noqa: BLE001  the parent must get every error
            words = f"{function.__name__} failed unexpectedly: {describe(exc)}"
            answer = ("error", _with_calls(PipelineError(words, detail=traceback.format_exc()), exc))
        pipe.send((question, *answer))


def _with_calls(answer: PipelineError, exc: Exception) -> PipelineError:
    """Return the error to send with what the errors that led to it say, which stay behind in this process."""
    answer.users_traceback = users_traceback(exc)
    answer.fault = fault_of(exc)
    if answer is exc:
        answer.add_note("".join(traceback.format_exception(exc)))
    # tblib, which comes with Dask, would send them as well: with a class that the parent may be unable to import.
    answer.__cause__ = answer.__context__ = answer.__traceback__ = None
    return answer


def _receive(pipe: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Receive calls; end the process immediately if the parent ends, even during a training."""
    try:
        while True:
            calls.put(pipe.recv_bytes())  # unpickled by the main thread, because two threads must not import at once
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
